"""Where a notebook's new results grow, beside the old ones, until they are whole and take their place.

    OUT/04_word2vec_limit.ipynb      executed notebook  }  the last results that were whole
    OUT/04_word2vec_limit/           figures, numbers   }
    OUT/.04_word2vec_limit.new/      the stage of a run that goes on, was killed, or failed
        stage.json                       what was begun, and when
        source.ipynb                     the notebook as it was then
        executed.ipynb                   as far as it came
        04_word2vec_limit/               figures, numbers; its sub-folders hold checkpoints, which serve the next run
        failed.json                      why the results are not whole
        run.json                         written when they are: from here on the exchange can only go forward

A process may be killed at any point. Before ``run.json`` stands in the stage, the old results are untouched; after that
`Stage.exchange`, which the next run in the folder repeats, moves what has not been moved yet.
"""

import os
import shutil
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tp4lib.base.errors import InputError
from tp4lib.base.files import PART, digest, remove_stale_parts, write_json
from tp4lib.collection import manifest
from tp4lib.collection.manifest import Manifest, read_json


class Stage:
    """The stage of notebook ``name`` in the folder ``out`` of a run, and the way of its results into that folder."""

    def __init__(self, out: Path, name: str) -> None:
        self.out, self.name = out, name
        self.results = out / name
        self.folder = out / f".{name}.new"
        self.report = self.folder / name
        self.source = self.folder / "source.ipynb"
        self.executed = self.folder / "executed.ipynb"

    def require_free(self) -> None:
        """Refuse a folder in which this notebook's results would meet files that are not ours."""
        for place in (self.results, self.folder):
            if os.path.lexists(place) and not place.is_dir():
                raise InputError(f"{place} is a file; expected a name that is free; choose another --out")
        if not self._is_ours():
            raise InputError(
                f"{self.folder} was not made by tp4; expected a name that is free; choose another --out"
            )
        Manifest(self.out).require([f"{self.name}.ipynb"])
        # Figures of the results that are there will most likely be drawn again.
        before = (self.whole() or {}).get("files", [])
        Manifest(self.results).require({"metrics.json", "run.json", *before})

    def begin(self, identity: dict[str, Any]) -> None:
        """Make the stage for a run; what an earlier one left goes, but for its checkpoints."""
        self.folder.mkdir(exist_ok=True)
        begun = {**identity, "begun": now(), "id": uuid.uuid4().hex}
        write_json(self.folder / "stage.json", begun)  # first: it says whose the folder is
        self.report.mkdir(exist_ok=True)
        for file in (*self.folder.iterdir(), *self.report.iterdir()):
            if file.name != "stage.json" and not _is_folder(file):
                file.unlink()

    def fail(self, told: dict[str, Any]) -> None:
        """Remember why there are no new results."""
        write_json(self.folder / "failed.json", {**self._begun(), **told, "ended": now()})

    def finish(self, told: dict[str, Any]) -> None:
        """Declare the results whole, and put them in the place of the old ones.

        Raises:
            InputError: as `exchange`; the results wait in the stage.
        """
        staged = self._staged()
        for file in (self.executed, *staged):
            with open(file, "rb+") as opened:
                os.fsync(opened.fileno())
        run = {**self._begun(), **told, "ended": now(), "files": [file.name for file in staged]}
        write_json(self.folder / "run.json", run)
        self.exchange()

    def exchange(self) -> None:
        """Move whole results to their place and remove the files of the old ones; then the stage goes.

        Can be repeated after being cut off anywhere.

        Raises:
            InputError: a file that is not ours has the name of one of the results; nothing was moved.
        """
        top, below = Manifest(self.out), Manifest(self.results)
        run = self.folder / "run.json"
        staged = sorted(self._staged(), key=lambda file: file.name == "metrics.json")  # numbers after figures
        below.require([*(file.name for file in staged), run.name])
        top.require([f"{self.name}.ipynb"] if self.executed.exists() else [])

        self.results.mkdir(exist_ok=True)
        below.note({file.name: digest(file) for file in (*staged, run)})
        for file in staged:
            os.replace(file, self.results / file.name)
        if self.executed.exists():
            top.note({f"{self.name}.ipynb": digest(self.executed)})
            os.replace(self.executed, self.out / f"{self.name}.ipynb")
        for name in set(below.names()) - {*read_json(run)["files"], run.name}:
            below.remove(name)
        os.replace(run, self.results / run.name)
        self._discard()

    def recover(self) -> None:
        """Go on with an exchange that was cut off, and remove what was left half-written."""
        for folder in (self.results, self.folder, self.report):
            remove_stale_parts(folder)
        if self._is_whole():
            self.exchange()
        elif self._is_exchanged():
            self._discard()
        elif self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def whole(self) -> dict[str, Any] | None:
        """The ``run.json`` of the results in their place; None where there are none."""
        return _ended(self.results / "run.json")

    def failed(self) -> dict[str, Any] | None:
        """What a run that came to its end without results left."""
        return _ended(self.folder / "failed.json")

    def begun(self) -> str | None:
        """When a run was begun that has left neither results nor the reason: it goes on, or was killed."""
        return None if self.failed() or self._is_exchanged() else self._begun().get("begun")

    def disk_bytes(self) -> int:
        """The bytes that a run has left in the stage."""
        files = (self.executed, *self.report.rglob("*"))
        return sum(file.stat().st_size for file in files if file.is_file())

    def _discard(self) -> None:
        """Remove the stage; what says whose it is goes last, so that this can be cut off."""
        for rest in self.folder.iterdir():
            if _is_folder(rest):
                shutil.rmtree(rest)
            elif rest.name != "stage.json":
                rest.unlink()
        shutil.rmtree(self.folder)

    def _begun(self) -> dict[str, Any]:
        told = read_json(self.folder / "stage.json")
        return told if isinstance(told, dict) else {}

    def _staged(self) -> list[Path]:
        """The files that are results: those of the report's folder itself."""
        left_out = ("run.json", manifest.FILE)
        files = sorted(self.report.iterdir()) if self.report.is_dir() else []
        return [
            file for file in files
            if file.is_file() and file.name not in left_out and not file.name.endswith(PART)
        ]  # fmt: skip

    def _is_ours(self) -> bool:
        """Whether the stage's folder is one that this program made, or would have to be made."""
        if not self.folder.exists():
            return True
        return (
            "begun" in self._begun()
            or self._is_whole()
            or all(path.name.endswith(PART) for path in self.folder.iterdir())
        )

    def _is_exchanged(self) -> bool:
        """Whether the results of this very run are in their place, so that nothing but the stage is left of it."""
        return (self.whole() or {}).get("id") == self._begun().get("id", "none")

    def _is_whole(self) -> bool:
        return "files" in (_ended(self.folder / "run.json") or ())


def stages(out: Path) -> Iterator[Stage]:
    """Every stage in the folder of a run, and every notebook with results there, by name."""
    found = {path.parent.name for path in out.glob("*/run.json")}
    found |= {path.name[1:-4] for path in out.glob(".*.new") if (path / "stage.json").is_file()}
    # Cut off after its stage.json, or before it was there.
    for left in ("run.json", f".stage.json.*{PART}"):
        found |= {path.parent.name[1:-4] for path in out.glob(f".*.new/{left}")}
    return (Stage(out, name) for name in sorted(found))


def _ended(path: Path) -> dict[str, Any] | None:
    """What a run has told at its end; None where it has not."""
    told = read_json(path)
    keys = {"ok", "error", "seconds", "peak_memory_bytes"}
    return told if isinstance(told, dict) and keys <= told.keys() else None


def now() -> str:
    """The time, to the second, as ISO 8601 has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
