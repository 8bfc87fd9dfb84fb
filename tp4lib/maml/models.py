"""The networks of Table 2 and the hyperparameters that the paper found for each width."""

import math
from dataclasses import dataclass

from tp4lib.base.errors import InputError
from tp4lib.data.omniglot import SIZE
from tp4lib.linear_limit import LinearLimit

WIDTHS: tuple[float, ...] = (2, 8, 32, 128, 512, 2048, 8192, math.inf)
"""The widths of Table 2."""


@dataclass(frozen=True)
class Hyperparameters:
    """Rates and initialization scales of one network.

    Attributes:
        lr: outer rate.
        sigma_in, sigma_out: of the first and second layer; see `tp4lib.linear_limit.LinearLimit`,
            `tp4lib.maml.kernel_spaces.limit_kernel` and `tp4lib.pi_limit.network.PiMLP`.
        bias_scale: alpha, which multiplies the hidden bias; in the kernel limits its standard deviation.
        inner_lr: rate of the adaptation.
    """

    lr: float
    sigma_in: float
    sigma_out: float
    bias_scale: float
    inner_lr: float = 0.4


SETTINGS: dict[float, Hyperparameters] = {
    2: Hyperparameters(lr=0.05, sigma_in=0.5, sigma_out=0.5, bias_scale=2),
    8: Hyperparameters(lr=0.1, sigma_in=0.5, sigma_out=0.25, bias_scale=1),
    32: Hyperparameters(lr=0.4, sigma_in=1, sigma_out=0.125, bias_scale=0.5),
    128: Hyperparameters(lr=0.1, sigma_in=1, sigma_out=0.125, bias_scale=1),
    512: Hyperparameters(lr=0.1, sigma_in=1, sigma_out=0.03125, bias_scale=1),
    2048: Hyperparameters(lr=0.1, sigma_in=1, sigma_out=0.03125, bias_scale=1),
    8192: Hyperparameters(lr=0.1, sigma_in=1, sigma_out=0.03125, bias_scale=1),
    math.inf: Hyperparameters(lr=0.1, sigma_in=1, sigma_out=0.03125, bias_scale=1),
}
"""Tuned by the paper's authors for each width by validation: paper, appendix D.1, Table 4."""


def settings(width: float) -> Hyperparameters:
    """The paper's hyperparameters for ``width``; between two widths of `WIDTHS`, those of the nearer one in log2."""
    if not width >= 1:
        raise InputError(f"width {width}; expected 1 or more, or inf; choose --width {min(WIDTHS)} or more")
    if width == math.inf:
        return SETTINGS[math.inf]
    return SETTINGS[min(WIDTHS[:-1], key=lambda listed: abs(math.log2(listed) - math.log2(width)))]


def linear_network(
    width: float, ways: int = 5, seed: int = 0, chosen: Hyperparameters | None = None
) -> LinearLimit:
    """The linear network of Table 2 at ``width``, infinity included, untrained.

    The seed draws a finite network from the limit; the limit itself is not random.

    Example:
        >>> linear_network(32).U.shape, linear_network(8192).U.shape, linear_network(math.inf).U.shape
        (torch.Size([32, 784]), torch.Size([789, 784]), torch.Size([789, 784]))
    """
    s = chosen or settings(width)
    limit = LinearLimit(SIZE * SIZE, ways, s.sigma_in, s.sigma_out, s.bias_scale)
    return limit if width == math.inf else limit.sample(int(width), seed)
