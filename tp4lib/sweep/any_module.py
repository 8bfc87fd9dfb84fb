"""One run of a sweep for any network that `tp4lib.scale` has parametrized, where a stack of networks cannot go.

    w <- w - eta s_t r_w (SGD or AdamW direction),      r_w the width's factor (`Scaled.groups`), s_t the schedule

`tp4lib.sweep.sweep` comes here by itself when its `make` returns a `Scaled`.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tp4lib.base.divergence import is_diverged
from tp4lib.scale.scaled import Scaled
from tp4lib.sweep.options import LOSSES, BatchLoss, SweepOptions


def warmup_and_decay(step: int, steps: int) -> float:
    """Factor on the learning rate of an update: up over the first tenth, then down towards 0, linearly.

    >>> rate = warmup_and_decay
    >>> [round(rate(t, 20), 2) for t in (0, 1, 2, 19)]
    [0.5, 1.0, 1.0, 0.06]
    """
    return min((step + 1) / (0.1 * steps), (steps - step) / (0.9 * steps), 1.0)


@dataclass(frozen=True)
class Trainer:
    """What all runs of a sweep have in common; `run` trains one network."""

    x: Tensor
    y: Tensor
    options: SweepOptions

    @property
    def loss(self) -> BatchLoss:
        return self.options.loss if callable(self.options.loss) else LOSSES[self.options.loss]

    def run(self, net: Scaled, lr: float) -> tuple[np.ndarray, int, np.ndarray]:
        """(losses after 0 .. steps updates, step of divergence or -1, test loss and accuracy (2, E)) of one network."""
        options, loss, tested = self.options, self.loss, self.options.evaluated_at
        losses, tests = np.full(options.steps + 1, math.inf), np.full((2, len(tested)), math.inf)
        optimizer = torch.optim.SGD if options.optimizer == "sgd" else torch.optim.AdamW
        moves = optimizer(net.groups(lr, options.optimizer, options.weight_decay))
        # A schedule multiplies these, so that their ratios, which are muP, stay.
        rates = [group["lr"] for group in moves.param_groups]
        for t, batch in enumerate(options.batches(len(self.x))):
            with torch.set_grad_enabled(t < options.steps):
                value = loss(net.model(self.x[batch]), self.y[batch])
            losses[t] = float(value.detach())
            if is_diverged(losses[t], losses[0], options.blowup):
                losses[t] = math.inf
                return losses, t, tests
            if t < options.steps:
                for group, rate in zip(moves.param_groups, rates, strict=True):
                    group["lr"] = rate * (options.schedule(t, options.steps) if options.schedule else 1.0)
                moves.zero_grad(set_to_none=True)
                value.backward()
                moves.step()
                if t + 1 in tested:
                    tests[:, tested.index(t + 1)] = self.evaluate(net.model, len(batch))
        return losses, -1, tests

    @torch.no_grad()
    def evaluate(self, model: nn.Module, rows: int) -> np.ndarray:
        """Loss and accuracy on the test set, in evaluation mode, `rows` samples at a time."""
        training, sums = model.training, np.zeros(2)
        model.eval()
        for x, y in zip(*(part.split(rows) for part in self.options.test), strict=True):
            f = model(x)
            labels = y if f.dim() > y.dim() else y.argmax(-1)
            right = (f.argmax(-1) == labels).double().mean()
            sums += np.array([float(self.loss(f, y)), float(right)]) * len(x)
        model.train(training)
        return sums / len(self.options.test[0])
