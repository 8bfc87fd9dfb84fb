"""What a sweep measured: losses of R rates and S seeds, the edge of stability, the best rate."""

from dataclasses import dataclass

import numpy as np

from tp4lib.base.checks import whole
from tp4lib.base.errors import InputError
from tp4lib.sweep.drift import vertex


@dataclass(frozen=True)
class Sweep:
    """What a sweep over R rates and S seeds measured. No entry is NaN.

    Attributes:
        rates: (R,) learning rates eta, ascending. seeds: (S,) seeds of the initialization.
        losses: (R, S, steps + 1) loss on minibatch t after t updates; inf from the step of divergence on.
        diverged_at: (R, S) number of updates after which the member was found diverged; -1 if it never was.
        evaluated_at: (E,) numbers of updates at which the test set was evaluated.
        test_loss, test_accuracy: (R, S, E); inf and 0 from the step of divergence on.
    """

    rates: np.ndarray
    seeds: np.ndarray
    losses: np.ndarray
    diverged_at: np.ndarray
    evaluated_at: np.ndarray
    test_loss: np.ndarray
    test_accuracy: np.ndarray

    @property
    def stable(self) -> np.ndarray:
        """(R, S) True where the member did not diverge."""
        return self.diverged_at < 0

    def final_loss(self, last: int = 1) -> np.ndarray:
        """(R, S) loss averaged over the last `last` minibatches; inf where diverged."""
        last = whole("last", last, most=self.losses.shape[-1], example=1)
        return self.losses[..., -last:].mean(-1)

    def largest_stable_rate(self) -> np.ndarray:
        """(S,) the edge of stability for each seed, halfway (in log rate) between the last good rate and the next.

        A rate is good if neither it nor a smaller one diverged.

        Raises:
            InputError: the grid does not bracket the edge.
        """
        good = np.cumprod(self.stable, axis=0).sum(0)  # (S,)
        if (good == 0).any() or (good == len(self.rates)).any():
            side, way = ("smallest", "lower") if (good == 0).any() else ("largest", "higher")
            outcome = "diverges" if side == "smallest" else "is stable"
            raise InputError(
                f"the {side} rate, {self.rates[0 if side == 'smallest' else -1]:g}, {outcome}, so the edge is outside "
                f"the grid; expected an edge between two rates; add {way} rates"
            )
        return np.sqrt(self.rates[good - 1] * self.rates[good])

    def optimum(self, last: int = 1) -> float:
        """The rate of lowest `final_loss(last)`, geometric mean over seeds, refined by a parabola in log rate.

        The parabola goes through the best rate and its two neighbours; beside a diverged neighbour, or at the end of
        the grid, the best rate itself is returned.

        Raises:
            InputError: every rate diverged for some seed, or a loss is 0.
        """
        losses = self.final_loss(last)
        if not (losses > 0).all():
            raise InputError(
                "a final loss is 0, so it has no logarithm; expected losses > 0; train for fewer steps"
            )
        curve = np.log(losses).mean(1)  # (R,), inf where any seed diverged
        best = int(np.argmin(curve))
        if not np.isfinite(curve[best]):
            raise InputError("every rate diverged for some seed; expected a stable one; add lower rates")
        found = vertex(np.log(self.rates), curve, best)
        return float(self.rates[best] if found is None else np.exp(found))
