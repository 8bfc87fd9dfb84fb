"""What every run of a sweep has in common, declared and checked once; and its minibatches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tp4lib.base import checks
from tp4lib.base.checks import real, whole
from tp4lib.base.errors import InputError

BatchLoss = Callable[[Tensor, Tensor], Tensor]

LOSSES: dict[str, BatchLoss] = {
    "square": lambda f, y: (f - y).square().sum(-1).mean() / 2,
    "cross_entropy": lambda f, y: F.cross_entropy(f.flatten(0, -2), y.flatten()),
}


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """The keyword arguments of `tp4lib.sweep.sweep`.

    Attributes:
        steps: number of updates. batch_size: samples per update. optimizer: "sgd" or "adam".
        loss: "square", ||f - y||^2 / 2 averaged over samples, or "cross_entropy"; for networks of `scale` also any
            function (f, y) -> scalar.
        test: test inputs and targets, like x and y; accuracy takes the largest output (and the largest target).
        evaluate_every: evaluate the test set every so many updates; only after the last one if None.
        blowup: a member is diverged once its loss is not finite or above `blowup` times its first loss. Far above the 3
            at which single runs stop (`base.divergence`): here divergence is a result, and at the edge of stability a
            member may overshoot and recover.
        weight_decay, schedule: for networks of `scale` alone: decoupled decay (Adam is AdamW), and (update, steps) ->
            factor on all rates, such as `tp4lib.sweep.warmup_and_decay`. Their x, y may have any shape whose first axis
            is samples; "cross_entropy" is averaged over all positions.
    """

    steps: int
    batch_size: int
    optimizer: str = "sgd"
    loss: str | BatchLoss = "square"
    test: tuple[Tensor, Tensor] | None = None
    evaluate_every: int | None = None
    blowup: float = 1e4
    batch_seed: int = 0
    weight_decay: float = 0.0
    schedule: Callable[[int, int], float] | None = None
    desc: str = "sweep"

    def __post_init__(self) -> None:
        if not callable(self.loss) and self.loss not in LOSSES:
            raise InputError(
                f"loss = {self.loss!r}; expected one of {', '.join(LOSSES)}, or a function for networks of "
                "tp4lib.scale; try loss='square'"
            )
        if self.optimizer not in ("sgd", "adam"):
            raise InputError(f"optimizer = {self.optimizer!r}; expected sgd or adam; try optimizer='sgd'")
        whole("steps", self.steps, example=10)
        whole("batch_size", self.batch_size)
        checks.seed(self.batch_seed, "batch_seed")
        if self.evaluate_every is not None:
            whole("evaluate_every", self.evaluate_every, example=10)
        real("blowup", self.blowup, above=1, example=1e4)

    @property
    def evaluated_at(self) -> list[int]:
        """The numbers of updates after which the test set is evaluated."""
        every = self.evaluate_every or self.steps
        return [t for t in range(1, self.steps + 1) if self.test and (t % every == 0 or t == self.steps)]

    def batches(self, count: int) -> Iterator[Tensor]:
        """The minibatches of every run, and one more, for the loss after the last update."""
        return minibatches(count, self.batch_size, self.steps + 1, self.batch_seed)


def minibatches(count: int, batch_size: int, steps: int, seed: int = 0) -> Iterator[Tensor]:
    """Indices of `steps` minibatches, each (batch_size,), from shuffled passes over `count` samples.

    A pass's incomplete last batch is left out. The same arguments give the same batches on every device.

    >>> [len(batch) for batch in minibatches(10, 4, 3)]
    [4, 4, 4]
    """
    count = whole("count", count)
    batch_size, steps = whole("batch_size", batch_size, most=count), whole("steps", steps, least=0)
    generator = torch.Generator().manual_seed(checks.seed(seed))
    per_pass = count // batch_size
    for step in range(steps):
        if step % per_pass == 0:
            order = torch.randperm(count, generator=generator)
        place = step % per_pass * batch_size
        yield order[place : place + batch_size]
