"""What each preset needs, into the table that `tp4 doctor`, the help and the README read, from a run of all notebooks.

tp4 reproduce --preset ci --out runs/ci && python tools/needs.py runs/ci
"""

import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tp4lib.base import paths
from tp4lib.base.errors import InputError
from tp4lib.base.files import write_json
from tp4lib.collection.cli import guarded
from tp4lib.collection.manifest import read_json
from tp4lib.collection.needs import TABLE
from tp4lib.collection.presets import PRESETS

MEASURED = ("seconds", "peak_memory_bytes", "disk_bytes")


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
            if not (each["ok"] and each["peak_memory_bytes"] and all(0 <= each[key] < math.inf for key in MEASURED))
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
            "notebooks": {name: {key: runs[name][key] for key in MEASURED} for name in sorted(runs)},
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
