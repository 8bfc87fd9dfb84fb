"""Tables of measurements, for the README and the site, from committed results. No number is typed by hand.

Run `python docs/measured.py` to renew the README's parts between `<!-- begin NAME -->` and `<!-- end NAME -->`.
"""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import collection
import wall

from tp4lib.collection.needs import duration

RESULTS = collection.ROOT / "benchmarks" / "results"
README = collection.ROOT / "README.md"


def parts() -> dict[str, str]:
    """The generated parts by name: those of the README, and those of the page of measurements."""
    return {
        "notebooks": notebooks(),
        "times": times(),
        "speed": speed(),
        "gensim": gensim(),
        "cores": cores(),
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
    """One row a notebook: its picture, its place in the paper, one measured number, its time at preset laptop."""
    words = tomllib.loads((collection.ROOT / "docs" / "wall.toml").read_text("utf-8"))["notebooks"]
    lines = ["| | notebook | of the paper | measured at preset `laptop` | time |", "|---|---|---|---|--:|"]
    for book in collection.load():
        entry, seconds = words.get(book.name, {}), _seconds("laptop").get(book.name)
        label = entry.get("headline", "")
        key = entry.get("numbers", {}).get(label)
        measured = wall.row(label, book, key) if key in book.metrics else "–"
        # GitHub's tables show no padding between a picture and its border; 150 pixels keep rows low.
        picture = f'<img src="docs/images/{book.name[:2]}.png" width="150" alt="{book.title}">'
        link = f"notebooks/{book.path.name}"
        cells = (
            f"[{picture}]({link})",
            f"[{book.title}]({link})",
            entry.get("paper", ""),
            measured,
            _clock(seconds),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def times() -> str:
    """What the presets take, from the measured needs of every notebook."""
    lines = ["| preset | all notebooks, one core | data |", "|---|---|---|"]
    data = {"ci": "come with the packages", "laptop": "real: wiki8 or text8, Omniglot, CIFAR-10"}
    for preset, source in data.items():
        lines.append(f"| `{preset}` | {_clock(sum(_seconds(preset).values()))} | {source} |")
    return "\n".join([*lines, "| `paper` | not run yet: needs a GPU | real |"])


def _needs() -> dict[str, Any]:
    return json.loads((collection.ROOT / "tp4lib" / "collection" / "needs.json").read_text("utf-8"))


def _seconds(preset: str) -> dict[str, float]:
    return {name: each["seconds"] for name, each in _needs()[preset]["notebooks"].items()}


def _clock(seconds: float | None) -> str:
    return "–" if seconds is None else duration(seconds)


def _result(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text("utf-8"))


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


def gensim() -> str:
    """Analogy accuracy from our defaults to gensim's algorithm, one change more in each row."""
    runs = _result("word2vec_gensim")["runs"]
    widths = sorted({run["width"] for run in runs})
    lines = [
        f"| each row one change more than the one above | {' | '.join(f'width {w}' for w in widths)} |",
        "|---|" + "--:|" * len(widths),
    ]
    for change in dict.fromkeys(run["change"] for run in runs):
        by_width = {run["width"]: run["accuracy"] for run in runs if run["change"] == change}
        cells = " | ".join(f"{by_width[w]:.1f} %" if w in by_width else "–" for w in widths)
        lines.append(f"| {change} | {cells} |")
    return "\n".join(lines)


def cores() -> str:
    """On what the needs were measured."""
    return "; ".join(f"`{preset}`: {entry['measured']}" for preset, entry in _needs().items())


def main() -> None:
    README.write_text(renewed(README.read_text("utf-8")), "utf-8")
    print(f"{Path(README).name}: generated parts renewed")


if __name__ == "__main__":
    main()
