"""When training counts as diverged: one rule for every engine.

A loss that is not finite is the end of a divergence, and which number overflows first depends on the engine and on the
order of its sums. So a run is stopped earlier, where all engines still agree: once the mean loss of a block (Word2Vec),
of an epoch (MAML) or of a step (programs, pi-limits) exceeds `FACTOR` times the loss of the untrained network.
A network that predicts worse than that has learned nothing but large weights.
"""

import math
from collections import deque

from tp4lib.base.errors import InputError

FACTOR = 3.0
"""How many times the untrained network's loss is too much. Stable runs stay near 1 or below, also at their start."""


class Diverged(InputError):
    """Training whose loss has left the range in which anything is learned; the line names the step and the loss."""


def is_diverged(loss: float, untrained: float, factor: float = FACTOR) -> bool:
    """Whether ``loss`` is NaN, infinite, or above ``factor`` times the loss of the untrained network.

    >>> is_diverged(2.0, 0.7), is_diverged(2.2, 0.7), is_diverged(math.nan, 0.7)
    (False, True, True)
    """
    return not (math.isfinite(loss) and loss <= factor * untrained)


def diverged(where: str, loss: float, untrained: float, advice: str) -> Diverged:
    """The error to raise; ``where`` is the step in the run's own terms, such as ``"epoch 2, block 14 of 90"``."""
    return Diverged(
        f"training diverged in {where}: the loss is {loss:.4g}; expected at most {FACTOR:g} times that of the "
        f"untrained network, {untrained:.4g}; {advice}"
    )


def require_stable(where: str, loss: float, untrained: float, advice: str) -> None:
    """Raise `diverged` if it is.

    A multiple of an untrained loss of 0 or less says nothing; then only a loss that is not finite counts.

    >>> require_stable("step 3", 1.0, 0.7, "try a smaller lr")
    """
    bad = is_diverged(loss, untrained) if untrained > 0 else not math.isfinite(loss)
    if bad:
        raise diverged(where, loss, untrained, advice)


class Watch:
    """Looks at the losses of minibatches, one a step, for a network that is trained step by step.

    A single sample may well be worse than three times the untrained network, so losses are added up over as many steps
    as it takes to see `SAMPLES` samples. The untrained loss of a minibatch is that of the output 0, or that of the
    first step, whichever is larger.

    >>> watch = Watch()
    >>> for loss in (0.7, 0.3, 5.0):
    ...     watch(loss, 0.7, samples=100, advice="try a smaller lr than 1.0")
    Traceback (most recent call last):
    ...
    tp4lib.base.divergence.Diverged: training diverged in step 3: the loss is 5; expected at most 3 times that of the \
untrained network, 0.7; try a smaller lr than 1.0
    """

    SAMPLES = 64

    def __init__(self) -> None:
        self.steps, self.first = 0, -math.inf
        self._recent: deque[tuple[float, float, int]] = deque()  # loss, untrained loss, samples

    def __call__(self, loss: float, zero: float, samples: int, advice: str) -> None:
        """Note a step's loss, and ``zero``, that of the output 0 on the same minibatch.

        Raises:
            Diverged: the loss is not finite, or the recent ones are too large. The next step starts afresh.
        """
        loss, zero = float(loss), float(zero)
        self.steps += 1
        if self.steps == 1:
            self.first = loss
        untrained = max(self.first, zero) if math.isfinite(zero) else math.inf  # no standard without output 0
        self._recent.append((loss, untrained, samples))
        while sum(part[2] for part in self._recent) - self._recent[0][2] >= self.SAMPLES:
            self._recent.popleft()
        losses, standards, seen = (sum(part[i] for part in self._recent) for i in range(3))
        count = len(self._recent)
        if not math.isfinite(loss) or seen >= self.SAMPLES:
            try:
                require_stable(f"step {self.steps}", losses / count, standards / count, advice)
            except Diverged:
                self._recent.clear()
                raise
