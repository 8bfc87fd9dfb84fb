"""What each preset needs, as measured: time, memory and disk of every notebook.

The table, ``needs.json`` beside this file, is written from a real run:

    tp4 reproduce --preset ci --out runs/ci && python -m tp4lib.collection.needs runs/ci
"""

import json
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tp4lib.base import paths
from tp4lib.base.errors import InputError
from tp4lib.base.files import write_json
from tp4lib.collection.cli import guarded
from tp4lib.collection.manifest import read_json
from tp4lib.collection.presets import PRESETS

_MEASURED = ("seconds", "peak_memory_bytes", "disk_bytes")
VOCABULARY, IMAGES = 67_897, 50_000
"""At preset paper: words of wiki8 that occur at least five times; training images of CIFAR-10."""
PAPER_PEAKS = {
    "04": 2 * 4 * VOCABULARY**2
    + 4 * 4 * VOCABULARY * 1024,  # embeddings and readout at infinity; 1,024 directions
    "05": 2 * 4 * VOCABULARY**2,
    "07": 3 * 8 * IMAGES**2,  # a kernel in float64 of all images, its sum with the ridge, its factor
}
"""Bytes that the largest notebooks hold on a GPU at preset paper, by formula; docs/gpu.md has the others."""
TABLE = Path(__file__).resolve().parent / "needs.json"


@dataclass(frozen=True)
class Needs:
    """Of one preset: seconds one notebook after the other; bytes of memory and of disk; where it was measured."""

    seconds: float
    memory: int
    disk: int
    measured: str


def needs(preset: str, table: Mapping[str, Any] | None = None) -> Needs | None:
    """What ``tp4 reproduce --preset PRESET`` needs; None where it has not been measured.

    Memory is that of the largest notebook: the peaks of its kernel and of papermill's process, resident. tp4 itself
    adds little, because the libraries that it loads are shared with them. Several workers take several times as much.
    """
    if table is None:
        table = json.loads(TABLE.read_text("utf-8"))
    if preset not in table:
        return None
    entry = table[preset]
    notebooks = entry["notebooks"].values()
    return Needs(
        sum(each["seconds"] for each in notebooks),
        max(each["peak_memory_bytes"] for each in notebooks),
        sum(each["disk_bytes"] for each in notebooks),
        entry["measured"],
    )


def duration(seconds: float) -> str:
    """As the README, the site and `tp4 doctor` say it: "5 min", "3.0 h"."""
    return f"{max(round(seconds / 60), 1)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def duration_of(preset: str) -> str:
    """What the whole collection takes at a preset, on one core."""
    need = needs(preset)
    return duration(need.seconds) if need else "not measured"


def measured(run: Mapping[str, Any], cores: int) -> dict[str, Any]:
    """A preset's entry of the table, from the merged ``metrics.json`` of a run of the whole collection.

    Raises:
        InputError: not such a file, notebooks that failed, were missing or are not of the collection, or several ran
            at once.
    """
    try:
        runs, workers, environment = run["runs"], run["runner"]["workers"], run["environment"]
        failed = [
            name for name, each in sorted(runs.items())
            if not (each["ok"] and each["peak_memory_bytes"] and all(0 <= each[key] < math.inf for key in _MEASURED))
        ]  # fmt: skip
        collection = {path.stem for path in paths.shared("notebooks").glob("[0-9][0-9]_*.ipynb")}
        if failed or set(runs) != collection or workers != 1:
            raise InputError(
                f"{len(runs)} notebooks, failed: {', '.join(failed) or 'none'}, workers {workers}; expected the whole "
                "collection, run well by one worker; run `tp4 reproduce --preset PRESET --out DIR`"
            )
        return {
            "measured": f"{cores} cores, --threads {environment['threads']}, Python {environment['python']}, "
            f"torch {environment['versions']['torch']}",
            "notebooks": {name: {key: runs[name][key] for key in _MEASURED} for name in sorted(runs)},
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"no run of the collection ({error} is missing); expected the folder of `tp4 reproduce`; name another"
        ) from None


def main(folder: Path, table: Path = TABLE) -> str:
    """Put the run in ``folder`` into the table; returns its preset."""
    run = read_json(folder / "metrics.json")
    if not isinstance(run, dict) or run.get("preset") not in PRESETS:
        raise InputError(
            f"{folder / 'metrics.json'} tells of no run; expected the folder of `tp4 reproduce`; name another"
        )
    entry = measured(run, os.cpu_count() or 1)
    known = read_json(table) if table.exists() else {}
    if not isinstance(known, dict):
        raise InputError(f"{table} is damaged; expected the table of needs; try `git checkout {table}`")
    write_json(table, known | {run["preset"]: entry})
    return run["preset"]


if __name__ == "__main__":
    with guarded():
        print(f"{main(Path(sys.argv[1] if sys.argv[1:] else 'runs/ci'))}: {TABLE}")
