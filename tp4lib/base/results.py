"""The files of one run belong together: those of a finished run stay until the next run in the folder is whole.

A run works in ``OUT/unfinished``: there are its checkpoints, and at its end its results, ``metrics.json`` last. Then
all of it moves to ``OUT``. The old metrics are the first of the old files to go, the new ones the last to come, so
wherever ``OUT/metrics.json`` is, the files beside it are of that run. If the process is killed meanwhile, the next
command in this folder completes the exchange.

``metrics.json`` tells the SHA-256 of every file of its run, itself without these digests included: what was changed by
hand since is somebody's work, and is not replaced.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tp4lib.base.errors import InputError
from tp4lib.base.files import atomic_path, digest, json_bytes, out_dir, remove_stale_parts, write_json

UNFINISHED = "unfinished"
METRICS = "metrics.json"
# The metrics of a run that takes the place of another: while the old files are removed, while the new ones move.
_REMOVING, _MOVING = "removing.json", "moving.json"
_WRITTEN = "written"  # among the metrics: the digest of each file


class Work:
    """The files of a run in ``out``, made by `working`.

    Attributes:
        out: where the results of the last finished run are.
        folder: ``out/unfinished``, where the run keeps its checkpoints and puts its results.
    """

    def __init__(self, out: Path, program: str, checkpoints: str, others: tuple[str, ...]) -> None:
        self.out, self.folder = Path(out), Path(out) / UNFINISHED
        self._program, self._checkpoints, self._others = program, checkpoints, others

    def finish(self, metrics: dict) -> None:
        """Write ``metrics`` as the last file of the run, and put the run in the place of the one before."""
        told = {"program": self._program, **metrics}
        written = {path.name: digest(path) for path in self._files(self.folder)}
        write_json(self.folder / METRICS, told | {_WRITTEN: written | {METRICS: _digest_of(told)}})
        try:
            self.exchange()
        except InputError as error:
            raise InputError(
                f"{error}; the new results wait in {self.folder} and come with the next run here"
            ) from None

    def exchange(self) -> None:
        """Replace the files in ``out`` by those of a run that is whole, if there is one; safe to be cut short."""
        if (self.folder / METRICS).exists():
            self._require_ours()
            os.replace(self.folder / METRICS, self.folder / _REMOVING)
        if (self.folder / _REMOVING).exists():
            for old in [self.out / METRICS, *self._files(self.out)]:
                old.unlink(missing_ok=True)
            os.replace(self.folder / _REMOVING, self.folder / _MOVING)
        if (self.folder / _MOVING).exists():  # nothing of the run before is left in OUT
            for new in self._files(self.folder):
                os.replace(new, self.out / new.name)
            os.replace(self.folder / _MOVING, self.out / METRICS)

    def begin(self, resume: bool) -> None:
        """Make ``folder`` ready; see `working`."""
        self.exchange()
        self._forget_links()
        remove_stale_parts(self.folder)
        unfinished = sorted(self.folder.glob(self._checkpoints))
        self._require_ours()
        if unfinished and not resume:
            raise InputError(
                f"{unfinished[0]} is of a run that has not come to its end; expected a folder without one; go on "
                "with --resume, or choose another --out"
            )
        out_dir(self.folder)
        if resume and not unfinished:
            for path in self.out.glob(self._checkpoints):
                _link(path, self.folder / path.name)

    def end(self) -> None:
        """Leave nothing of a run that has not begun."""
        self._forget_links()
        with suppress(OSError):  # a checkpoint is in it
            self.folder.rmdir()

    def _files(self, folder: Path) -> list[Path]:
        return sorted(path for pattern in (self._checkpoints, *self._others) for path in folder.glob(pattern))

    def _forget_links(self) -> None:
        """Remove what `begin` linked to a finished run's checkpoint, where training has not replaced it."""
        for path in self._files(self.folder):
            with suppress(FileNotFoundError):
                if path.samefile(self.out / path.name):
                    path.unlink()

    def _require_ours(self) -> None:
        """Refuse a folder with files that would be replaced and are not, or no longer, what this program wrote."""
        there = [path for path in (self.out / METRICS, *self._files(self.out)) if os.path.lexists(path)]
        if not there:
            return
        try:
            content = (self.out / METRICS).read_bytes()
            found = json.loads(content)
            ours = found["program"] == self._program
            as_written = content == json_bytes(found)
            told = dict(found.pop(_WRITTEN))
        except (OSError, ValueError, TypeError, KeyError):
            ours = False
        if not ours:
            raise InputError(
                f"{there[0]} is not of a finished run of tp4 {self._program} with its metrics.json; expected an empty "
                "folder, or one of such a run; choose another --out, or move the file away"
            )
        own = _digest_of(found) if as_written else None
        for path in there:
            if told.get(path.name) != (own if path.name == METRICS else digest(path)):
                raise InputError(
                    f"{path} was changed since tp4 {self._program} wrote it; expected results as they were written; "
                    f"choose another --out, or move what is in {self.out} away"
                )


@contextmanager
def working(
    out: Path, program: str, *, checkpoints: str, others: tuple[str, ...] = (), resume: bool = False
) -> Iterator[Work]:
    """Make ``out/unfinished`` ready for a run, and remove it again where the run leaves nothing there.

    The caller holds ``out`` alone (`tp4lib.base.files.alone_in`), keeps its checkpoints in ``folder`` of the `Work`,
    writes its results there, and calls `Work.finish`.

    Args:
        program: "word2vec" or "maml"; another's results are not replaced.
        checkpoints: the pattern of their names, such as "checkpoint*.npz".
        others: patterns of the other files that a run leaves, without the metrics.
        resume: go on from the unfinished run; where there is none, from the checkpoint of the finished one.

    Raises:
        InputError: not ``resume``, and there is an unfinished run; or ``out`` holds such files, but not of a finished
            run of this program, or changed since it wrote them.
    """
    work = Work(out, program, checkpoints, others)
    try:
        work.begin(resume)
        yield work
    finally:
        work.end()


def _digest_of(value: dict) -> str:
    """The same before and after it went through a file."""
    return hashlib.sha256(json_bytes(json.loads(json_bytes(value)))).hexdigest()


def _link(path: Path, to: Path) -> None:
    """A second name of a file that is never changed in place; a copy where the file system has no such thing."""
    try:
        os.link(path, to)
    except OSError:
        with atomic_path(to) as part:
            shutil.copyfile(path, part)
