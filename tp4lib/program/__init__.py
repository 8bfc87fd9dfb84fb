r"""Tensor programs: a computation written once as a Python function, run at width n or at width infinity.

    g, h  Gaussian vectors       W @ x, W.T @ x  products with n x n Gaussian matrices
    psi(g, h, ..)  any coordinatewise torch function       mean(x, y) = <x, y> / n  numbers

`FiniteWidth(n)` computes with n coordinates. `InfiniteWidth(samples)` computes with the random variables that the
coordinates become as n grows: the Master Theorem, executed. Source: Yang & Hu 2021 (arXiv 2011.14522), section 7.

>>> def second_moment(world):  # <W^T W x, x> / n
...     x, W = world.gaussian(), world.matrix()
...     return world.mean(W.T @ (W @ x), x)
>>> f"{second_moment(InfiniteWidth(1000)):.3f}"
'1.000'
"""

from tp4lib.base.powers import fitted_power
from tp4lib.program.infinite import InfiniteWidth
from tp4lib.program.mlp import train_mlp
from tp4lib.program.noise import Estimate, NoiseWarning, estimate
from tp4lib.program.optimizers import SGD, Adam
from tp4lib.program.resnet import train_resnet
from tp4lib.program.rnn import train_rnn
from tp4lib.program.training import Training, squared_loss
from tp4lib.program.transformer import Transformer, TransformerTraining, train_transformer
from tp4lib.program.vectors import Vector
from tp4lib.program.world import FiniteWidth, Matrix, World, outer

__all__ = [
    "SGD",
    "Adam",
    "Estimate",
    "FiniteWidth",
    "InfiniteWidth",
    "Matrix",
    "NoiseWarning",
    "Training",
    "Transformer",
    "TransformerTraining",
    "Vector",
    "World",
    "estimate",
    "fitted_power",
    "outer",
    "squared_loss",
    "train_mlp",
    "train_resnet",
    "train_rnn",
    "train_transformer",
]
