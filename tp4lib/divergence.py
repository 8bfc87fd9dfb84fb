"""When training counts as diverged: one rule for every engine.

A loss that is not finite is the end of a divergence, and which number overflows first depends on the engine and on the
order of its sums. So a run is stopped earlier, where all engines still agree: once the mean loss of a block (Word2Vec),
of an epoch (MAML) or of a step (programs, pi-limits) exceeds `FACTOR` times the loss of the untrained network.
A network that predicts worse than that has learned nothing but large weights.
"""

import math

from tp4lib.errors import InputError

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
    """The error to raise: what happened at which step, what was expected, and what to type next.

    Args:
        where: the step in the run's own terms, such as ``"epoch 2, block 14 of 90"``.
        loss: there.
        untrained: of the untrained network.
        advice: such as ``"try a smaller --lr"``.
    """
    return Diverged(
        f"training diverged in {where}: the loss is {loss:.4g}; expected at most {FACTOR:g} times that of the "
        f"untrained network, {untrained:.4g}; {advice}"
    )
