"""What a step of SGD takes, in the limit and at finite width alike: its loss and its checked numbers."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from tp4lib.base.checks import real

Loss = Callable[[Tensor, Tensor], Tensor]


def check_step(lr: float, clip: float | None, weight_decay: float) -> tuple[float, float | None, float]:
    """The numbers of a step of SGD, checked."""
    lr, decay = real("lr", lr, least=0, example=0.1), real("weight_decay", weight_decay, least=0, example=0)
    return lr, None if clip is None else real("clip", clip, above=0), decay


def default_loss(y: Tensor) -> Loss:
    """Cross-entropy where targets are labels; half the mean square distance where they are vectors."""
    return half_square if y.is_floating_point() else F.cross_entropy


def half_square(f: Tensor, y: Tensor) -> Tensor:
    """``|f - y|^2 / 2``, the mean over the batch."""
    return (f - y).square().sum(-1).mean() / 2
