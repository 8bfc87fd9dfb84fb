"""Few-shot tasks, sampled from a table of images."""

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tp4lib.base import checks
from tp4lib.base.device import resolve
from tp4lib.base.errors import InputError

_AT_ONCE = 512  # tasks that are drawn at once: the cost is in the number of calls


@dataclass(frozen=True)
class Batch:
    """A meta-batch of T tasks, supports and queries side by side so that one matrix product serves both.

    ``x`` ``(T, S + Q, 784)`` in [0, 1], the S supports first; ``y`` ``(T, S + Q)`` labels in 0..ways-1; ``index``
    ``(T, S + Q)`` the rows of `Tasks.table` that were drawn (one number per distinct image).
    Unpacks as ``support_x, support_y, query_x, query_y = batch``.
    """

    x: torch.Tensor
    y: torch.Tensor
    index: torch.Tensor
    supports: int
    ways: int

    def __iter__(self) -> Iterator[torch.Tensor]:
        s = self.supports
        return iter((self.x[:, :s], self.y[:, :s], self.x[:, s:], self.y[:, s:]))


class Tasks:
    """Samples few-shot tasks: ``ways`` distinct characters, of each ``shots`` supports and ``queries`` other drawings.

    Everything is drawn by one generator of its own, on the CPU, so that the same seed gives the same tasks on every
    device, however they are batched; a meta-batch is one indexing operation there.

    Args:
        images: uint8 ``(classes, drawers, 28, 28)``.
        ways, shots, queries: characters a task; drawings of each to adapt on, and to be asked about.
        seed: of the generator.
        device, dtype: of the batches.

    Attributes:
        table: uint8 ``(classes * drawers, 784)``, one row per distinct image.

    Raises:
        InputError: fewer classes than ways, or fewer drawings than shots + queries.

    Example:
        >>> from tp4lib.data import drawn_characters
        >>> tasks = Tasks(drawn_characters.draw(classes=8, drawers=4), ways=5, shots=1, queries=1, seed=0)
        >>> support_x, support_y, query_x, query_y = tasks.batch(32)
        >>> support_x.shape, query_y.shape
        (torch.Size([32, 5, 784]), torch.Size([32, 5]))
    """

    def __init__(
        self,
        images: np.ndarray,
        ways: int = 5,
        shots: int = 1,
        queries: int = 1,
        seed: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.classes, self.drawers = images.shape[:2]
        ways, shots = checks.whole("ways", ways, example=5), checks.whole("shots", shots, example=1)
        queries, seed = checks.whole("queries", queries, example=1), checks.seed(seed)
        if images.dtype != np.uint8:
            raise InputError(
                f"images of {images.dtype}; expected uint8, ink 255 on paper 0; try (255 * images).astype('uint8')"
            )
        if self.classes < ways:
            raise InputError(
                f"{self.classes} characters for tasks of {ways} ways; expected at least as many characters as ways; "
                f"choose {self.classes} ways or fewer, or use the whole data set"
            )
        if self.drawers < shots + queries:
            raise InputError(
                f"{self.drawers} drawings a character for {shots} shots and {queries} queries; "
                f"expected at least {shots + queries}; choose fewer of them"
            )
        self.ways, self.shots, self.queries, self.dtype = ways, shots, queries, dtype
        device = resolve(device)
        self.seed, self.generator = seed, torch.Generator().manual_seed(seed)
        self.table = torch.from_numpy(np.ascontiguousarray(images)).flatten(2).flatten(0, 1).to(device)
        self._labels = torch.arange(ways, device=device).repeat(shots + queries)
        self._draw()

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """What the tasks depend on, for a run that is to be resumed: sizes, seed, type, and a digest of the images."""
        images = hashlib.sha256(self.table.cpu().contiguous().numpy().data).hexdigest()
        return {
            "ways": self.ways, "shots": self.shots, "queries": self.queries, "seed of the tasks": self.seed,
            "dtype": str(self.dtype), "images": len(self.table), "images (SHA-256)": images,
        }  # fmt: skip

    def batch(self, meta_batch: int) -> Batch:
        """The next ``meta_batch`` tasks."""
        parts = [self._drawn[:0]]
        while meta_batch > 0:
            if self._next == _AT_ONCE:
                self._draw()
            parts.append(self._drawn[self._next : self._next + meta_batch])
            self._next += len(parts[-1])
            meta_batch -= len(parts[-1])
        index = torch.cat(parts)
        x = self.table.index_select(0, index.flatten()).to(self.dtype).div_(255)
        return Batch(
            x.view(*index.shape, self.table.shape[1]),
            self._labels.expand(*index.shape),
            index,
            self.ways * self.shots,
            self.ways,
        )

    def _draw(self) -> None:
        """Draw the next tasks, and move them to the device: the one moment in which a GPU waits for the host."""
        self._before = self.generator.get_state()
        characters = self._distinct(_AT_ONCE)  # (tasks, ways)
        uniform = torch.rand((_AT_ONCE, self.ways, self.drawers), generator=self.generator)
        # The places of the largest are distinct drawings, uniformly: (tasks, ways, shots + queries).
        drawings = uniform.topk(self.shots + self.queries, dim=2).indices
        # Shot by shot: all ways' first support, ..., then all ways' first query, ...
        index = (characters[:, :, None] * self.drawers + drawings).transpose(1, 2).reshape(_AT_ONCE, -1)
        self._drawn, self._next = index.to(self.table.device), 0

    def _distinct(self, tasks: int) -> torch.Tensor:
        """Ordered draws of ``ways`` distinct characters, uniformly: ``(tasks, ways)``.

        Floyd's method, one draw a way for all tasks at once, makes a uniform *set* (a draw that is already in it
        gives way to the newest number); a shuffle makes the order uniform too. Cost does not grow with the classes.
        """
        chosen = torch.empty((tasks, self.ways), dtype=torch.long)
        for way in range(self.ways):
            newest = self.classes - self.ways + way
            draw = torch.randint(newest + 1, (tasks,), generator=self.generator)
            taken = (chosen[:, :way] == draw[:, None]).any(dim=1)
            chosen[:, way] = torch.where(taken, newest, draw)
        order = torch.rand((tasks, self.ways), generator=self.generator).argsort(dim=1)
        return chosen.gather(1, order)

    def state(self) -> torch.Tensor:
        """Where sampling stands, for a checkpoint: the generator's state and a place, as bytes."""
        return torch.cat([self._before, torch.tensor([self._next]).view(torch.uint8)])

    def restore(self, state: torch.Tensor) -> None:
        """Go on from a saved `state`: the same tasks as if there had been no break."""
        state = torch.as_tensor(state, dtype=torch.uint8)
        self.generator.set_state(state[:-8])
        self._draw()
        self._next = int(state[-8:].clone().view(torch.int64))
