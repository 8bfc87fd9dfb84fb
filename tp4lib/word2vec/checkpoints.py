"""Checkpoints of a training run, of one rank or of many that share its columns.

The last two are kept: writing one atomically takes room for two anyway, and the older one is removed before the next is
written. A finished run keeps one.
"""

import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tp4lib.base import checkpoint
from tp4lib.base.errors import InputError
from tp4lib.base.files import require_disk
from tp4lib.word2vec.shards import ALONE, Shards

CHECKPOINT = "checkpoint.npz"
BEFORE = "checkpoint-before.npz"
SMALL = 100 << 20
"""Bytes up to which a checkpoint is written after every epoch, however short that is."""
DISK = 5e8
"""Bytes a second that a disk is expected to write."""


class Pace:
    """When a checkpoint is due: rarely enough for writing to take a twentieth of the time at most.

    Args:
        pause: least number of seconds between two; 0 for one whenever it is asked.
        size: bytes of one.
    """

    def __init__(self, pause: float, size: int) -> None:
        self._pause, self._small = pause, size <= SMALL
        self._cost, self._spent = size / DISK, 0.0  # seconds: of the next, as of the last one; of all so far
        self._began = self._last = time.monotonic()

    def due(self) -> bool:
        """Whether enough time has passed since the last one, or since the start."""
        pause = max(self._pause, 20 * self._cost) if self._pause > 0 else 0.0
        return time.monotonic() - self._last > pause

    def affordable(self) -> bool:
        """Whether one may be written now, at the end of an epoch, although none is due."""
        free = self._small or self._pause == 0
        return free or 20 * (self._spent + self._cost) <= time.monotonic() - self._began

    @contextmanager
    def writing(self) -> Iterator[None]:
        """While one is written: its time tells what the next will take."""
        started = time.monotonic()
        yield
        self._last = time.monotonic()
        self._cost = self._last - started
        self._spent += self._cost


@contextmanager
def stop_request() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into a request to stop after the current block; the second one stops at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: Any) -> None:
        stop.set()
        signal.signal(signal.SIGINT, before)

    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


class Keeper:
    """Where a run's checkpoints are: a file, or a generation of files, one a rank, of which all or none count."""

    def __init__(self, folder: Path, shards: Shards = ALONE) -> None:
        self.folder, self.shards = folder, shards
        self._good: Path | None = None  # this rank's file of the last generation that is known to be whole

    def require_room(self, size: int) -> None:
        """Refuse to train where the disk does not hold two checkpoints of ``size`` bytes, those there now included."""
        there = sum(path.stat().st_size for path in self.folder.glob("checkpoint*.npz"))
        require_disk(2 * size - there, self.folder, "to keep two checkpoints", "try --no-checkpoints")

    def save(self, generation: str, arrays: dict[str, Any], meta: dict[str, Any]) -> None:
        """Write this rank's arrays; it counts once every rank has."""
        alone = self.shards.size == 1
        parts = f".{CHECKPOINT}.*.part" if alone else f".checkpoint-*.{self._rank}.npz.*.part"
        for left in self.folder.glob(parts):  # by a run that was killed while it wrote
            left.unlink(missing_ok=True)
        if alone:
            before = self.folder / BEFORE
            before.unlink(missing_ok=True)
            checkpoint.save(self.folder / CHECKPOINT, arrays, meta, keep_as=before)
            return
        mine = self.folder / f"checkpoint-{generation}.{self._rank}.npz"
        if self._good is not None:
            self._remove_all_but(self._good)
        checkpoint.save(mine, arrays, meta)
        self.shards.wait()
        self._remove_all_but(mine, self._good or mine)
        self._good = mine

    def finish(self) -> None:
        """Keep only the last checkpoint."""
        if self.shards.size == 1:
            (self.folder / BEFORE).unlink(missing_ok=True)
        elif self._good is not None:
            self._remove_all_but(self._good)

    def require_same(self, settings: Mapping[str, Any]) -> None:
        """Refuse settings that are not those of the last checkpoint, before anything large is made."""
        problem = None
        for path in self._newest_first():
            try:
                checkpoint.require_same(checkpoint.load_meta(path)["settings"], settings, "the run")
                return
            except checkpoint.DamagedCheckpoint as error:
                problem = problem or error
        raise problem

    def load(self, into: Mapping[str, torch.Tensor], settings: Mapping[str, Any]) -> dict[str, Any]:
        """Fill tensors from this rank's newest checkpoint; where that is damaged on some rank, from the one before.

        Returns:
            the meta that was saved with it.
        """
        problem = None
        for path in self._newest_first():
            bad = None
            try:
                _, meta = checkpoint.load(path, into)
            except checkpoint.DamagedCheckpoint as error:
                bad = error
            if not self.shards.any(bad is not None):
                checkpoint.require_same(meta["settings"], settings, "the run")
                self._good = path
                if problem is not None:
                    what = problem.args[0].split(";")[0]
                    print(f"tp4: {what}; going on from the one before", file=sys.stderr)
                    if self.shards.size == 1:
                        os.replace(path, self.folder / CHECKPOINT)
                return meta
            of_another = f"the last checkpoint of another rank is damaged; {path}"
            problem = problem or bad or checkpoint.DamagedCheckpoint(of_another)
        raise problem

    def _newest_first(self) -> list[Path]:
        """This rank's checkpoints; of many ranks' those that every rank has written."""
        if self.shards.size == 1:
            there = [path for name in (CHECKPOINT, BEFORE) if (path := self.folder / name).exists()]
            return there or [self.folder / CHECKPOINT]  # reading it reports that it is missing
        self.shards.wait()
        there = self.folder.glob(f"checkpoint-*.*of{self.shards.size}.npz")
        ranks = Counter(path.name.split(".")[0] for path in there)
        complete = sorted(stem for stem, count in ranks.items() if count == self.shards.size)
        self.shards.wait()  # nobody writes or removes before all have looked
        if not complete:
            raise InputError(
                f"no checkpoint of {self.shards.size} ranks in {self.folder}; expected one left by a run of as "
                "many; start without --resume"
            )
        return [self.folder / f"{stem}.{self._rank}.npz" for stem in reversed(complete)]

    def _remove_all_but(self, *kept: Path) -> None:
        for path in set(self.folder.glob(f"checkpoint-*.{self._rank}.npz")) - set(kept):
            path.unlink()

    @property
    def _rank(self) -> str:
        return f"{self.shards.rank}of{self.shards.size}"
