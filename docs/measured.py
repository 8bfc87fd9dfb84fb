"""Tables of measurements, for the README and the site, from committed results. No number is typed by hand.

Run `python docs/measured.py` to renew the README's parts between `<!-- begin NAME -->` and `<!-- end NAME -->`.
"""

import itertools
import json
import math
import re
import statistics
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import collection
import launch
import wall

from tp4lib.collection.needs import duration
from tp4lib.data.published import published

RESULTS = collection.ROOT / "benchmarks" / "results"
README = collection.ROOT / "README.md"


def parts() -> dict[str, str]:
    """The generated parts by name: those of the README, and those of the page of measurements."""
    return {
        "open": launch.badges(collection.repository()),
        "notebooks": notebooks(),
        "times": times(),
        "speed": speed(),
        "gensim": gensim(),
        "start": start(),
        "whole": whole(),
        "roofline": roofline(),
        "paper_epochs": paper_epochs(),
        "large": large(),
        "storage": storage(),
        "table3": table3(),
        "cores": cores(),
        "precision": precision(),
    }


def renewed(page: str) -> str:
    """The page with every generated part replaced by what it should be now."""
    made = parts()
    return re.sub(
        r"(<!-- begin (\w+) -->\n).*?(<!-- end \2 -->)",
        lambda place: f"{place[1]}{made[place[2]]}\n{place[3]}",
        page,
        flags=re.DOTALL,
    )


def notebooks() -> str:
    """One row a notebook: its place in the paper, one measured number, its time at preset laptop."""
    words = tomllib.loads((collection.ROOT / "docs" / "wall.toml").read_text("utf-8"))["notebooks"]
    lines = ["| notebook | of the paper | measured at preset `laptop` | time |", "|---|---|---|--:|"]
    for book in collection.load():
        entry, seconds = words.get(book.name, {}), _seconds("laptop").get(book.name)
        label = entry.get("headline", "")
        key = entry.get("numbers", {}).get(label)
        measured = wall.row(label, book, key) if key in book.metrics else "–"
        link = f"[{book.title}](notebooks/{book.path.name})"
        lines.append(_row(link, (entry.get("paper", ""), measured, _clock(seconds))))
    return "\n".join(lines)


def times() -> str:
    """What the presets take, from the measured needs of every notebook."""
    lines = ["| preset | all notebooks, one core | data |", "|---|---|---|"]
    data = {"ci": "come with the packages", "laptop": "real: wiki8 or text8, Omniglot, CIFAR-10"}
    for preset, source in data.items():
        lines.append(_row(f"`{preset}`", (_clock(sum(_seconds(preset).values())), source)))
    return "\n".join([*lines, "| `paper` | not run yet: needs a GPU | real |"])


def _needs() -> dict[str, Any]:
    return json.loads((collection.ROOT / "tp4lib" / "collection" / "needs.json").read_text("utf-8"))


def _seconds(preset: str) -> dict[str, float]:
    return {name: each["seconds"] for name, each in _needs()[preset]["notebooks"].items()}


def _clock(seconds: float | None) -> str:
    return "–" if seconds is None else duration(seconds)


def _result(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text("utf-8"))


def _row(label: str, cells: Iterable[str]) -> str:
    return f"| {label} | {' | '.join(cells)} |"


def _width(value: Any) -> str:
    return "∞" if str(value) == "inf" else str(value)


def speed() -> str:
    """Ratios to the peers, of the benchmarks that run both side by side."""
    lines = ["| task | peer | how many times its speed |", "|---|---|---|"]
    for run in _result("word2vec_speed")["result"]:
        size = f"{run['bytes'] / 1e6:g} MB of text"
        lines.append(
            f"| Word2Vec, width {_width(run['width'])}, {run['columns']} columns, {size}, two threads, steady state "
            f"| gensim, two workers | {run['ratios']['tp4']:.1f} |"
        )
    for run in _result("maml_speed")["rows"]:
        lines.append(
            f"| first-order MAML, width {_width(run['width'])} | learn2learn, same network and tasks "
            f"| {run['ratio']:.1f} |"
        )
    for case in _result("sweep")["cases"]:
        lines.append(
            f"| {case['members']} perceptrons at once, {case['inputs']} inputs, batch {case['batch_size']}, "
            f"{case['optimizer'].upper()} | a Python loop over torch.optim | {case['ratio_loop_to_sweep']:.1f} |"
        )
    return "\n".join(lines)


def whole() -> str:
    """Whole commands beside gensim's script: medians, and how busy the machine was."""
    lines = [
        "| text | width | gensim | tp4 | whole | training alone | processor's time | pairs of runs | load |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for run in _result("word2vec_whole")["result"]:
        width = f"infinity, {run['columns']:,} columns" if run["width"] == "inf" else run["width"]
        middle = {
            what: [statistics.median(run[what][who]) for who in ("gensim", "tp4")]
            for what in ("seconds", "training", "processor")
        }
        cells = [width, *(f"{seconds:.1f} s" for seconds in middle["seconds"])]
        cells += [f"{theirs / ours:.2f} times" for theirs, ours in middle.values()]
        cells += [str(len(run["seconds"]["tp4"])), f"{run['load']:.1f}"]
        lines.append(_row(f"{run['bytes'] / 1e6:g} MB", cells))
    return "\n".join(lines)


def gensim() -> str:
    """Analogy accuracy from our defaults to gensim's algorithm, one change more in each row."""
    runs = _result("word2vec_gensim")["runs"]
    widths = sorted({run["width"] for run in runs})
    lines = [
        _row("each row one change more than the one above", (f"width {w}" for w in widths)),
        "|---|" + "--:|" * len(widths),
    ]
    for change in dict.fromkeys(run["change"] for run in runs):
        by_width = {run["width"]: run["accuracy"] for run in runs if run["change"] == change}
        lines.append(_row(change, (f"{by_width[w]:.1f} %" if w in by_width else "–" for w in widths)))
    return "\n".join(lines)


def start() -> str:
    """What is left of the gap without gensim's gradient, and how far seeds lie apart."""
    runs = {(run["change"], run["width"]): run["accuracy"] for run in _result("word2vec_gensim")["runs"]}
    width = max(width for change, width in runs)
    gap = runs["no weight decay", width] - runs["small start", width]
    seeds: dict[str, list[float]] = {}
    for run in _accuracies():
        same = {key: value for key, value in run["settings"].items() if key != "seed"}
        seeds.setdefault(json.dumps(same, sort_keys=True), []).append(run["accuracy"])
    apart = max(max(found) - min(found) for found in seeds.values() if len(found) > 1)
    return (
        f"At width {width} muP's initialization is worth {gap:.1f} points of its own. One seed a row; where a setting "
        f"was trained with two seeds, they lie {apart:.1f} points apart at most."
    )


def roofline() -> str:
    """Which part of the bound a step reaches."""
    runs = _result("word2vec_roofline")["result"]
    return ", ".join(f"{run['fraction']:.2f} of the bound at width {_width(run['width'])}" for run in runs)


def _accuracies() -> list[dict[str, Any]]:
    return _result("word2vec_accuracy")["runs"]


def paper_epochs() -> str:
    """Accuracies with the full vocabulary and the paper's fifteen epochs, beside the published ones."""
    runs = [run for run in _accuracies() if run["settings"]["epochs"] == 15]
    cells = [
        f"{run['accuracy']:.1f} % at width {run['width']} (published "
        f"{published('table3', task='text8', model='muP', width=str(run['width'])):g})"
        for run in runs
    ]
    return f"Of {runs[0]['answered']:,} analogies are answered {', '.join(cells)}"


def large() -> str:
    """Width infinity with the largest vocabulary that was trained on a CPU, beside finite widths."""
    most = max(run["vocab_size"] for run in _accuracies() if run["width"] == "inf")
    runs = [run for run in _accuracies() if run["vocab_size"] == most]
    error = max(math.sqrt(run["accuracy"] * (100 - run["accuracy"]) / run["answered"]) for run in runs)
    limit = next(run for run in runs if run["width"] == "inf")
    minutes = sum(limit["settings"]["tokens"] / speed for speed in limit["tokens_per_second"]) / 60
    head = f"{most:,} words, {limit['settings']['epochs']} epochs, one seed"
    return "\n".join(
        [
            _row(head, (f"width {_width(run['width'])}" for run in runs)),
            "|---|" + "--:|" * len(runs),
            _row("analogies", (f"{run['accuracy']:.1f} %" for run in runs)),
            _row("loss of the last epoch", (f"{run['loss_by_epoch'][-1]:.3f}" for run in runs)),
            "",
            f"Training width infinity took {minutes:.0f} minutes on two cores. The standard error of an accuracy on "
            f"{limit['answered']:,} questions is {error:.1f} points at most.",
        ]
    )


def storage() -> str:
    """Parameters of 16 bits beside those of 32, at width infinity."""
    runs = {
        run["settings"]["dtype"]: run
        for run in _accuracies()
        if run["width"] == "inf" and run["settings"]["batch_size"] == 32 and run["vocab_size"] == 5000
    }
    half, single = runs["bfloat16"], runs["float32"]
    error = math.sqrt(2 * single["accuracy"] * (100 - single["accuracy"]) / single["answered"])
    seen = "" if abs(half["accuracy"] - single["accuracy"]) > 2 * error else ": no difference seen"
    return (
        f"{half['accuracy']:.1f} % of {half['answered']:,} analogies, with float32 {single['accuracy']:.1f} % "
        f"(`{half['command']}`){seen}"
    )


def table3() -> str:
    """Table 3 with several seeds: analogies and loss after some epochs; cities told from states; means over seeds.

    Runs that have not come to their end are shown as far as they went.
    """
    if not (RESULTS / "table3.json").is_file():
        return "Not run yet."
    result = _result("table3")
    about, by_width = result["about"], {}
    for run in result["runs"].values():
        by_width.setdefault(run["width"], []).append(run)
    widths = sorted(by_width, key=float)
    whole = [run for width in widths for run in by_width[width] if "figure1" in run]
    answered = whole[0]["history"][-1]["answered"]
    error = max(math.sqrt(row["accuracy"] * (100 - row["accuracy"]) / answered) for row in _last_rows(whole))
    size = "all" if about["max_bytes"] is None else f"the first {about['max_bytes'] / 1e6:g} MB"
    lines = [
        f"`{result['command']}`: {size} of {about['text']['name'].split('.')[0]}, {about['vocab_size']:,} words "
        f"(the paper: all that occur five times), {about['epochs']} epochs (the paper: 15), "
        f"{whole[0]['figure1']['cities']} cities and {whole[0]['figure1']['states']} states, {answered:,} analogies, "
        f"of which an accuracy has a standard error of {error:.1f} points at most. Means over seeds ± their errors.",
        "",
        _row("", (f"width {_width(width)}, {_seeds(len(by_width[width]))}" for width in widths)),
        "|---|" + "--:|" * len(widths),
    ]
    for epoch in sorted({0, 1, 2, 4, 9, about["epochs"] - 1} & set(range(about["epochs"]))):
        rows = [
            [run["history"][epoch] for run in by_width[width] if len(run["history"]) > epoch]
            for width in widths
        ]
        for label, key, digits in (("analogies, %", "accuracy", 1), ("loss", "loss", 4)):
            means = (_mean([row[key] for row in found], digits) for found in rows)
            lines.append(_row(f"{label}, epoch {epoch + 1}", means))
    for label, place in (("two coordinates", "plane"), ("all that are kept", "space")):
        rows = ([run["figure1"][place] for run in by_width[width] if run in whole] for width in widths)
        means = (_mean([row["accuracy"] for row in found], 1) for found in rows)
        lines.append(_row(f"cities told from states, %, {label}", means))
    planned = sum(int(item) for item in re.findall(r" (?:\d+|inf):(\d+)", result["command"]))
    told = "" if len(whole) == planned else f" Of {planned} runs {len(whole)} have come to their end so far."
    return "\n".join([*lines, "", _gaps(by_width, widths) + told])


def _last_rows(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [run["history"][-1] for run in runs]


def _mean(values: list[float], digits: int) -> str:
    if not values:
        return "–"
    mean = f"{statistics.mean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(values) / math.sqrt(len(values)):.{digits}f}"


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds"


def _gaps(by_width: dict[Any, list[dict[str, Any]]], widths: list[Any]) -> str:
    """What the loss says of each step in the width, with equal windows and negatives, after the last common epoch."""
    epoch = min(max(len(run["history"]) for run in runs) for runs in by_width.values())
    told = []
    for narrow, wide in itertools.pairwise(widths):
        pairs = [
            one["history"][epoch - 1]["loss"] - other["history"][epoch - 1]["loss"]
            for one in by_width[narrow]
            for other in by_width[wide]
            if one["seed"] == other["seed"] and min(len(run["history"]) for run in (one, other)) >= epoch
        ]
        gap = f"from width {narrow} to {_width(wide)} by {statistics.mean(pairs):.4f}"
        if len(pairs) > 1:
            error = statistics.stdev(pairs) / math.sqrt(len(pairs))
            gap += f" ± {error:.4f}"
            gap += "" if abs(statistics.mean(pairs)) > 2 * error else " (no difference seen)"
        told.append(gap)
    return f"With equal windows and negatives, the loss of epoch {epoch} falls {', '.join(told)}."


def precision() -> str:
    """How far float32 is from float64 in each engine."""
    lines = ["| engine | precision | loss | change |", "|---|---|---|---|"]
    for case in _result("precision")["cases"]:
        lines.append(_row(case["case"], (case["dtype"], f"{case['loss']:.1e}", f"{case['change']:.1e}")))
    return "\n".join(lines)


def cores() -> str:
    """On what the needs were measured."""
    return "; ".join(f"`{preset}`: {entry['measured']}" for preset, entry in _needs().items())


def main() -> None:
    README.write_text(renewed(README.read_text("utf-8")), "utf-8")
    print(f"{Path(README).name}: generated parts renewed")


if __name__ == "__main__":
    main()
