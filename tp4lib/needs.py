"""What each preset needs, as measured: time, memory and disk of every notebook.

The table, ``needs.json`` beside this file, is written from a real run:

    tp4 reproduce --preset ci --out runs/ci && python -m tp4lib.needs runs/ci
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tp4lib import paths
from tp4lib.errors import InputError, fail
from tp4lib.files import write_json

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


def measured(run: Mapping[str, Any], cores: int) -> dict[str, Any]:
    """A preset's entry of the table, from the merged ``metrics.json`` of a run of the whole collection.

    Raises:
        InputError: not such a file, notebooks failed or were missing, or several ran at once.
    """
    try:
        runs, runner, environment = run["runs"], run["runner"], run["environment"]
        names = sorted(runs)
        failed = [name for name in names if not runs[name]["ok"] or not runs[name]["peak_memory_bytes"]]
        whole = len(list(paths.shared("notebooks").glob("[0-9][0-9]_*.ipynb")))
        if failed or len(names) < whole or runner["workers"] != 1:
            raise InputError(
                f"{len(names)} notebooks, failed: {', '.join(failed) or 'none'}, workers {runner['workers']}; expected "
                "the whole collection, run well by one worker; run `tp4 reproduce --preset PRESET --out DIR`"
            )
        versions = environment["versions"]
        return {
            "measured": f"{cores} cores, --threads {environment['threads']}, Python {environment['python']}, "
            f"torch {versions['torch']}",
            "notebooks": {
                name: {key: runs[name][key] for key in ("seconds", "peak_memory_bytes", "disk_bytes")}
                for name in names
            },
        }
    except (KeyError, TypeError) as error:
        raise InputError(
            f"no run of the collection ({error} is missing); expected the folder of `tp4 reproduce`; name another"
        ) from None


def main(folder: Path, table: Path = TABLE) -> str:
    """Put the run in ``folder`` into the table; returns its preset."""
    try:
        run = json.loads((folder / "metrics.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read {folder / 'metrics.json'} ({error}); expected the folder of `tp4 reproduce`; name another"
        ) from None
    entry = measured(run, os.cpu_count() or 1)
    known = json.loads(table.read_text("utf-8")) if table.is_file() else {}
    write_json(table, known | {run["preset"]: entry})
    return run["preset"]


if __name__ == "__main__":
    try:
        print(f"{main(Path(sys.argv[1] if sys.argv[1:] else 'runs/ci'))}: {TABLE}")
    except InputError as error:
        fail(str(error))
