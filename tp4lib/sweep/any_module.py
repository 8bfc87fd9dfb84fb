"""One run of a sweep for any network that `tp4lib.scale` has parametrized, where a stack of networks cannot go.

    w <- w - eta s_t r_w (SGD or AdamW direction),      r_w the width's factor (`Scaled.groups`), s_t the schedule

`tp4lib.sweep.sweep` comes here by itself when its `make` returns a `Scaled`.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tp4lib.base.divergence import is_diverged
from tp4lib.base.errors import InputError
from tp4lib.scale.scaled import Scaled

Loss = Callable[[Tensor, Tensor], Tensor]


def warmup_and_decay(step: int, steps: int) -> float:
    """Factor on the learning rate of an update: up over the first tenth, then down towards 0, linearly.

    >>> rate = warmup_and_decay
    >>> [round(rate(t, 20), 2) for t in (0, 1, 2, 19)]
    [0.5, 1.0, 1.0, 0.06]
    """
    return min((step + 1) / (0.1 * steps), (steps - step) / (0.9 * steps), 1.0)


def loss_named(loss: str | Loss) -> Loss:
    """(f, y) -> scalar: "cross_entropy" over all positions (..., classes), "square", or the function itself.

    >>> float(loss_named("square")(torch.ones(4, 2), torch.zeros(4, 2)))
    1.0
    """
    known = {
        "cross_entropy": lambda f, y: F.cross_entropy(f.flatten(0, -2), y.flatten()),
        "square": lambda f, y: (f - y).square().sum(-1).mean() / 2,
    }
    if not callable(loss) and loss not in known:
        raise InputError(
            f"loss = {loss!r}; expected {', '.join(known)} or a function; try loss='cross_entropy'"
        )
    return loss if callable(loss) else known[loss]


@dataclass(frozen=True)
class Trainer:
    """What all runs of a sweep have in common; `run` trains one network. For the arguments see `tp4lib.sweep.sweep`."""

    x: Tensor
    y: Tensor
    steps: int
    optimizer: str
    loss: Loss
    blowup: float
    test: tuple[Tensor, Tensor] | None = None
    evaluated_at: list[int] = field(default_factory=list)
    weight_decay: float = 0.0
    schedule: Callable[[int, int], float] | None = None

    def run(self, net: Scaled, lr: float, batches: Iterable[Tensor]) -> tuple[np.ndarray, int, np.ndarray]:
        """(losses after 0 .. steps updates, step of divergence or -1, test loss and accuracy (2, E)) of one network."""
        losses, tests = np.full(self.steps + 1, math.inf), np.full((2, len(self.evaluated_at)), math.inf)
        groups = net.groups(lr, self.optimizer, self.weight_decay)
        moves = (torch.optim.SGD if self.optimizer == "sgd" else torch.optim.AdamW)(groups)
        # A schedule multiplies these, so that their ratios, which are muP, stay.
        rates = [group["lr"] for group in moves.param_groups]
        for t, batch in enumerate(batches):
            with torch.set_grad_enabled(t < self.steps):
                value = self.loss(net.model(self.x[batch]), self.y[batch])
            losses[t] = float(value.detach())
            if is_diverged(losses[t], losses[0], self.blowup):
                losses[t] = math.inf
                return losses, t, tests
            if t < self.steps:
                for group, rate in zip(moves.param_groups, rates, strict=True):
                    group["lr"] = rate * (1.0 if self.schedule is None else self.schedule(t, self.steps))
                moves.zero_grad(set_to_none=True)
                value.backward()
                moves.step()
                if t + 1 in self.evaluated_at:
                    tests[:, self.evaluated_at.index(t + 1)] = self.evaluate(net.model, len(batch))
        return losses, -1, tests

    @torch.no_grad()
    def evaluate(self, model: nn.Module, rows: int) -> np.ndarray:
        """Loss and accuracy on the test set, in evaluation mode, `rows` samples at a time."""
        training, sums = model.training, np.zeros(2)
        model.eval()
        for x, y in zip(*(part.split(rows) for part in self.test), strict=True):
            f = model(x)
            labels = y if f.dim() > y.dim() else y.argmax(-1)
            right = (f.argmax(-1) == labels).double().mean()
            sums += np.array([float(self.loss(f, y)), float(right)]) * len(x)
        model.train(training)
        return sums / len(self.test[0])
