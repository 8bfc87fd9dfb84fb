"""How much of what a program says at width infinity is the noise of its samples, and how many samples would do."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tp4lib.base import checks
from tp4lib.base.errors import InputError
from tp4lib.program.infinite import InfiniteWidth


class NoiseWarning(UserWarning):
    """A limit that is known less well than was asked for; the line says how many samples would do."""


@dataclass(frozen=True)
class Estimate:
    """A limit, as the mean over worlds of several seeds.

    Attributes:
        mean: the program's numbers. runs: (seeds, ..), those of each seed.
        noise: standard error of the mean, root mean square over all numbers; `noise / mean`'s size is the relative one.
        samples: M of each world.
    """

    mean: Tensor
    runs: Tensor
    noise: float
    samples: int

    def samples_for(self, tolerance: float) -> int:
        """How many samples a world would need for a noise below `tolerance`, with as many seeds (noise ~ M^-1/2)."""
        ratio = self.noise / checks.real("tolerance", tolerance, above=0, example=0.01)
        needed = max(16, self.samples * ratio**2)
        digits = 10 ** max(0, math.floor(math.log10(needed)) - 1)
        return math.ceil(needed / digits) * digits


def estimate(
    program: Callable[[InfiniteWidth], Tensor],
    samples: int,
    *,
    seeds: int = 4,
    seed: int = 0,
    tolerance: float | None = None,
    **world: object,
) -> Estimate:
    """Run a program at width infinity with several seeds: its mean, and how far it can be off for want of samples.

    Args:
        program: a world -> a tensor of numbers of the same shape in every world, e.g. a training's outputs.
        samples: M of each world. seeds: how many worlds, two or more. seed: of the first; the others count on.
        tolerance: warn if the standard error of the mean is larger.
        world: further arguments of `InfiniteWidth`.

    >>> square = estimate(lambda world: world.mean(torch.tanh(world.gaussian()) ** 2), 1000)
    >>> f"{float(square.mean):.2f}", square.noise < 0.01
    ('0.39', True)
    """
    seeds, seed = checks.whole("seeds", seeds, least=2, example=4), checks.seed(seed)
    if tolerance is not None:
        checks.real("tolerance", tolerance, above=0, example=0.01)
    found = [program(InfiniteWidth(samples, seed + s, **world)) for s in range(seeds)]
    if not all(isinstance(numbers, Tensor) and numbers.shape == found[0].shape for numbers in found):
        raise InputError(
            "the program returned something else than one tensor of numbers in each world; expected such a tensor; "
            "write lambda world: train_mlp(world, ..).outputs"
        )
    runs = torch.stack([numbers.detach().double() for numbers in found])
    noise = float((runs.var(0) / seeds).mean().sqrt())
    result = Estimate(runs.mean(0), runs, noise, samples)
    if tolerance is not None and noise > tolerance:
        warnings.warn(
            f"the limit's noise is {noise:.2g} with {seeds} seeds of {samples} samples; expected at most "
            f"{tolerance:g}; try samples={result.samples_for(tolerance)}",
            NoiseWarning,
            stacklevel=2,
        )
    return result
