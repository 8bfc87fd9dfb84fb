"""Checkpoints of a training run, of one rank or of many that share its columns."""

from pathlib import Path
from typing import Any

from tp4lib import checkpoint
from tp4lib.errors import InputError
from tp4lib.word2vec.shards import ALONE, Shards

CHECKPOINT = "checkpoint.npz"


class Keeper:
    """Where a run's checkpoints are: one file, or a generation of files, one a rank, of which all or none count."""

    def __init__(self, folder: Path, shards: Shards = ALONE) -> None:
        self.folder, self.shards = folder, shards

    def save(self, generation: str, arrays: dict[str, Any], meta: dict[str, Any]) -> None:
        """Write this rank's arrays; once every rank has, the older generations go."""
        mine = self._path(generation)
        checkpoint.save(mine, arrays, meta)
        if self.shards.size > 1:
            self.shards.wait()
            for old in set(self.folder.glob(f"checkpoint-*.{self._rank}.npz")) - {mine}:
                old.unlink()

    def load(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """This rank's arrays and meta, of the newest generation that every rank has written.

        Raises:
            InputError: there is none, or it is damaged.
        """
        complete = [""]
        if self.shards.size > 1:
            self.shards.wait()
            last = f".{self.shards.size - 1}of{self.shards.size}.npz"
            names = {path.name for path in self.folder.glob("checkpoint-*.npz")}
            complete = sorted(
                name.removeprefix("checkpoint-").removesuffix(last)
                for name in names
                if name.endswith(last)
                and all(
                    name.removesuffix(last) + f".{r}of{self.shards.size}.npz" in names
                    for r in range(self.shards.size)
                )
            )
            self.shards.wait()  # nobody writes or removes before all have looked
            if not complete:
                raise InputError(
                    f"no checkpoint of {self.shards.size} ranks in {self.folder}; expected one left by a run of as "
                    "many; start without --resume"
                )
        return checkpoint.load(self._path(complete[-1]))

    @property
    def _rank(self) -> str:
        return f"{self.shards.rank}of{self.shards.size}"

    def _path(self, generation: str) -> Path:
        alone = self.shards.size == 1
        return self.folder / (CHECKPOINT if alone else f"checkpoint-{generation}.{self._rank}.npz")
