"""Table 3 and Figure 1 with several seeds: loss and analogies after each epoch, at finite widths and at infinity.

    python benchmarks/table3.py wiki8.xz --dry-run            # the plan, and about how long it takes here
    python benchmarks/table3.py wiki8.xz --hours 2            # stops after two hours; the same command goes on
    python benchmarks/table3.py wiki8.xz --max-bytes 5000000 --vocab 5000 --epochs 5 --runs 64:3 256:3 1024:1 inf:1

``--runs WIDTH:SEEDS`` says how many seeds a width gets. First every width gets its first seed, then the others follow,
so that whatever is whole can be read at any time. Numbers are written after each epoch (`--result`), the checkpoints of
runs that have not come to their end are in ``--out``: a command that was killed goes on where it was, to the same bits.

Beside the numbers, of every finished run: the embeddings of the cities and states that the vocabulary holds, divided by
their lengths, in their first 64 principal coordinates, as float16 (``RESULT_places.npz``: an array for each run, their
names, and which of them are cities).
"""

import argparse
import json
import math
import os
import platform
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tp4lib.base.checks import real, whole
from tp4lib.base.errors import InputError, fail
from tp4lib.base.files import atomic_path, out_dir, write_json
from tp4lib.data import catalogue as datasets
from tp4lib.data import provenance
from tp4lib.word2vec import Corpus
from tp4lib.word2vec import analogies as analogy
from tp4lib.word2vec.checkpoints import CHECKPOINT
from tp4lib.word2vec.figure1 import pca, separation
from tp4lib.word2vec.model import columns_of, parse_width
from tp4lib.word2vec.places import Place, us_places
from tp4lib.word2vec.training import train

RESULT = Path(__file__).resolve().parent / "results" / "table3.json"
RUNS = ("64:3", "256:3", "1024:3", "inf:1")
COORDINATES = 64  # kept of a city or state
SHUFFLES = 10_000  # the smallest p-value is one over so many
PROBE = 4e9  # tokens times columns of a speed reading: some seconds
Run = tuple[int | float, int]  # width and seed


def planned(asked: list[str]) -> list[Run]:
    """Width and seed of each run: the first seed of every width, then the second, and so on.

    >>> planned(["4:2", "inf:1"])
    [(4, 0), (inf, 0), (4, 1)]
    """
    seeds = {}
    for item in asked:
        width, _, count = item.partition(":")
        if not count.isdigit():
            raise InputError(f"--runs {item}; expected WIDTH:SEEDS; try --runs 64:3 inf:1")
        seeds[parse_width(width)] = whole("seeds", int(count), example=3)
    return [(width, seed) for seed in range(max(seeds.values())) for width in seeds if seed < seeds[width]]


def name_of(run: Run) -> str:
    return f"width-{run[0]}-seed-{run[1]}"


class Results:
    """The file of numbers, and beside it the file of cities and states."""

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.path, self.places = path, path.with_name(f"{path.stem}_places.npz")
        self.all: dict[str, Any] = {"about": about, "runs": {}}
        if path.is_file():
            self.all = json.loads(path.read_text("utf-8"))
            if self.all["about"] != about:
                raise InputError(
                    f"{path} holds runs of other settings, {self.all['about']}; expected {about}; give another --result"
                )

    def history(self, run: Run) -> list[dict[str, Any]]:
        return self.all["runs"].get(name_of(run), {}).get("history", [])

    def is_whole(self, run: Run) -> bool:
        return "figure1" in self.all["runs"].get(name_of(run), {})

    def put(self, run: Run, command: str, **found: Any) -> None:
        """Add to the numbers of a run."""
        width = "inf" if run[0] == math.inf else run[0]
        entry = self.all["runs"].setdefault(name_of(run), {"width": width, "seed": run[1]})
        entry.update(found)
        self.all |= {
            "command": command,
            "machine": f"{platform.machine()}, {torch.get_num_threads()} of {os.cpu_count()} CPUs, shared",
            "torch": torch.__version__,
        }
        write_json(self.path, self.all)

    def put_places(self, run: Run, places: list[Place], rows: torch.Tensor) -> None:
        kept = {}
        if self.places.is_file():
            with np.load(self.places) as file:
                kept = dict(file)
        kept |= {
            "words": np.array([place.word for place in places]),
            "is_city": np.array([place.kind == "city" for place in places]),
            name_of(run): rows.numpy().astype(np.float16),
        }
        with atomic_path(self.places) as part, open(part, "wb") as file:
            np.savez_compressed(file, **kept)


def figure1(embeddings: torch.Tensor, corpus: Corpus) -> tuple[dict[str, Any], list[Place], torch.Tensor]:
    """How well cities and states come apart, which they are, and their leading principal coordinates."""
    places = us_places(corpus.vocab)
    is_city = torch.tensor([place.kind == "city" for place in places], dtype=torch.bool)
    points = embeddings[[place.id for place in places]].double()
    # Lengths tell how often a word occurs, directions what it means: as in notebook 05.
    found = pca(points / points.norm(dim=1, keepdim=True))
    rows = found.scores[:, :COORDINATES]
    told: dict[str, Any] = {"cities": int(is_city.sum()), "states": int((~is_city).sum())}
    told["explained"] = [float(x) for x in found.explained[:2]]
    for count in (2, rows.shape[1]):
        apart = separation(rows[:, :count], is_city, SHUFFLES)
        told["plane" if count == 2 else "space"] = {
            "coordinates": count, "accuracy": apart.accuracy, "chance": apart.chance, "p_value": apart.p_value,
            "silhouette": apart.silhouette, "gap": apart.gap,
        }  # fmt: skip
    return told, places, rows


def seconds_of_an_epoch(corpus: Corpus, run: Run, results: Results) -> float:
    """As in earlier epochs at this width; else as on the first part of the text, trained here and now."""
    same = [row for other in results.all["runs"].values() for row in other["history"]
            if other["width"] in (run[0], str(run[0]))]  # fmt: skip
    if same:
        return sum(row["seconds"] for row in same) / len(same)
    count = min(len(corpus.ids), int(PROBE / columns_of(len(corpus.vocab), run[0])), 200_000)
    part = Corpus(corpus.vocab, corpus.ids[:count], corpus.path, count)
    seconds = train(part, run[0], epochs=1, device="cpu").history[0]["seconds"]
    return seconds * len(corpus.ids) / count


def show_plan(corpus: Corpus, runs: list[Run], epochs: int, results: Results) -> None:
    """Print what is to be done and about how long it takes on this machine as it is now."""
    print(f"{len(corpus.ids):,} tokens, {len(corpus.vocab):,} words, {epochs} epochs")
    speeds = {run[0]: seconds_of_an_epoch(corpus, run, results) for run in dict.fromkeys(runs)}
    total = 0.0
    for run in runs:
        done = epochs if results.is_whole(run) else len(results.history(run))
        left = (epochs - done) * speeds[run[0]]
        total += left
        print(f"{name_of(run)}: {done} of {epochs} epochs done, about {left / 60:.1f} min to go")
    print(f"in all: about {total / 60:.0f} min of training to go")


def go(corpus: Corpus, run: Run, epochs: int, results: Results, out: Path, command: str) -> None:
    """One run, from its checkpoint if there is one, to its numbers and its cities and states."""
    asked = analogy.Questions.load(datasets.find("questions").path)
    folder = out / name_of(run)

    def told(history: list[dict[str, Any]]) -> None:
        results.put(run, command, history=history)
        last = history[-1]
        scored = "no question" if last["accuracy"] is None else f"{last['accuracy']:.2f} %"
        print(
            f"{name_of(run)}, epoch {last['epoch']} of {epochs}: loss {last['loss']:.4f}, {scored}",
            flush=True,
        )

    done = train(
        corpus, run[0], epochs=epochs, seed=run[1], device="cpu", out=folder, resume=(folder / CHECKPOINT).is_file(),
        evaluate=lambda embeddings: analogy.evaluate(embeddings, corpus.vocab, asked), after_epoch=told,
    )  # fmt: skip
    found, places, rows = figure1(done.model.embeddings, corpus)
    results.put_places(run, places, rows)
    results.put(run, command, history=done.history, figure1=found)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--max-bytes", type=int, default=None, help="of the text; all of it if left out")
    parser.add_argument("--vocab", type=int, default=10_000, help="the most frequent words")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--runs", nargs="+", default=[*RUNS], metavar="WIDTH:SEEDS")
    parser.add_argument("--hours", type=float, default=None, help="stop after so many, with a checkpoint")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and train for seconds only")
    parser.add_argument("--out", type=Path, default=Path("runs/table3"), help="checkpoints")
    parser.add_argument("--result", type=Path, default=RESULT)
    return parser.parse_args()


def main() -> None:
    chosen = read_options()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    started = time.monotonic()
    try:
        if chosen.hours is not None:
            real("hours", chosen.hours, above=0, most=24 * 365, example=2)
        work(chosen, math.inf if chosen.hours is None else started + 3600 * chosen.hours)
    except InputError as error:
        fail(str(error))
    except KeyboardInterrupt:
        minutes = (time.monotonic() - started) / 60
        print(f"stopped after {minutes:.1f} min; the same command goes on", flush=True)


@contextmanager
def interrupted_at(end: float) -> Iterator[None]:
    """At this time as if somebody pressed Ctrl-C: training then writes its checkpoint and stops."""
    left = end - time.monotonic()
    if left <= 0:
        raise KeyboardInterrupt
    clock = threading.Timer(min(left, threading.TIMEOUT_MAX), os.kill, (os.getpid(), signal.SIGINT))
    clock.daemon = True
    clock.start()
    try:
        yield
    finally:
        clock.cancel()


def work(chosen: argparse.Namespace, end: float) -> None:
    """Everything that the command was asked for, as far as it comes by then."""
    runs = planned(chosen.runs)
    corpus = Corpus.load(chosen.corpus, max_vocab=chosen.vocab, max_bytes=chosen.max_bytes)
    text = provenance.source(chosen.corpus)
    about = {
        "text": {key: text[key] for key in ("name", "sha256")}, "max_bytes": chosen.max_bytes,
        "vocab_size": len(corpus.vocab), "tokens": len(corpus.ids), "epochs": chosen.epochs,
    }  # fmt: skip
    results = Results(chosen.result, about)
    if chosen.dry_run:
        show_plan(corpus, runs, chosen.epochs, results)
        return
    out_dir(chosen.result.parent)
    size = "" if chosen.max_bytes is None else f" --max-bytes {chosen.max_bytes}"
    command = (
        f"python benchmarks/table3.py {chosen.corpus.name}{size} --vocab {chosen.vocab} --epochs {chosen.epochs} "
        f"--runs {' '.join(chosen.runs)}"
    )
    for run in runs:
        if not results.is_whole(run):
            with interrupted_at(end):  # not before: cut off while it reads a file, it would leave it open
                go(corpus, run, chosen.epochs, results, chosen.out, command)


if __name__ == "__main__":
    main()
