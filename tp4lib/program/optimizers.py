r"""SGD, momentum, Adam and AdamW as lines of a tensor program: one rule for each weight, at every width.

    SGD     m <- mu m + g + lambda w,                        w <- w - eta m
    AdamW   m <- b1 m + (1 - b1) g,  s <- b2 s + (1 - b2) g^2,
            w <- (1 - eta lambda) w - eta psi,               psi = m / (1 - b1^t) / (sqrt(s / (1 - b2^t)) + eps)

g is n times the gradient by a weight's entries, whose size does not depend on n: for a hidden matrix the outer product
g_ij = sum_b u_bi v_bj of vectors. SGD's sums of outer products multiply a vector through averages. Adam's update is a
function psi of the entries g_ij instead, the *nonlinear outer product*, and multiplies a vector by

    (psi x)_i = 1/n sum_j psi(u_1i, .., u_ki; v_1j, .., v_kj) x_j    ->    E[psi(Z^u; Z'^v) Z'^x | Z^u]

with Z' an independent copy: in the limit a coordinatewise function of the u's. Source: Yang & Littwin 2023, Tensor
Programs IVb (arXiv 2308.01814), the language NE(or)T with its instruction OuterNonlin, and its Master Theorem.

An ordinary network in muP trained by `torch.optim` has these rules, with eta for vectors and eta / n for hidden
matrices, eps / n in place of eps, and lambda n for matrices: rate times decay is one number for all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tp4lib.base import checks
from tp4lib.base.device import require_memory
from tp4lib.base.errors import InputError
from tp4lib.program.vectors import Vector
from tp4lib.program.world import Matrix, World, as_matrix

Weight = Tensor | Vector | Matrix
_BLOCK = 2**22  # entries of a table that are worked on at once


@dataclass(frozen=True)
class SGD:
    """torch.optim.SGD, with momentum mu in [0, 1) and weight decay lambda >= 0."""

    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        checks.real("momentum", self.momentum, least=0, below=1, example=0.9)
        checks.real("weight_decay", self.weight_decay, least=0, example=0.01)

    def rule(self, lr: float) -> SGDRule:
        """The rule of one weight, which remembers its buffer."""
        return SGDRule(self, lr)

    def require(self, world: World, matrices: int) -> None:
        """SGD keeps outer products as vectors: nothing to refuse."""


class SGDRule:
    """SGD's steps of one weight."""

    def __init__(self, settings: SGD, lr: float) -> None:
        self.settings, self.lr, self._buffer = settings, lr, None

    def step(self, weight: Weight, gradient: Weight) -> Weight:
        """The weight after a step; `weight` is what the step before returned."""
        mu, decay = self.settings.momentum, self.settings.weight_decay
        if decay:
            gradient = gradient + decay * weight
        first = self._buffer is None or mu == 0
        self._buffer = gradient if first else mu * self._buffer + gradient
        return weight - self.lr * self._buffer


@dataclass(frozen=True)
class Adam:
    """torch.optim.AdamW, which without weight decay is torch.optim.Adam.

    Weight decay is decoupled: in the gradient it would make the entries of Gaussian matrices arguments of psi, which
    the language lacks.

    A hidden matrix keeps three tables of M x M numbers (m, s and the sum of updates; n x n at width n), so M is a few
    thousand here: use float32 and the mean over a few seeds.

    Args:
        betas: b1 and b2 in [0, 1). eps: > 0, in units of n times the gradient. weight_decay: lambda >= 0, decoupled.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if len(self.betas) != 2:
            raise InputError(f"betas = {self.betas}; expected two numbers in [0, 1); try betas=(0.9, 0.999)")
        for b in self.betas:
            checks.real("betas", b, least=0, below=1, example=0.9)
        checks.real("eps", self.eps, above=0, example=1e-8)
        checks.real("weight_decay", self.weight_decay, least=0, example=0.01)

    def rule(self, lr: float) -> AdamRule:
        """The rule of one weight, which remembers its moments."""
        return AdamRule(self, lr)

    def require(self, world: World, matrices: int) -> None:
        """Refuse before the work begins the tables of so many matrices, and the one that replaces the last."""
        n = world.coordinates
        require_memory(
            (3 * matrices + 1) * n * n * world.dtype.itemsize,
            world.device,
            f"Adam's {3 * matrices} tables of {n} x {n} numbers",
            "choose fewer samples (or a smaller n), dtype=torch.float32, or optimizer='sgd'",
        )


class AdamRule:
    """Adam's steps of one weight: coordinatewise for vectors, a table of entries for matrices."""

    def __init__(self, settings: Adam, lr: float) -> None:
        self.settings, self.lr, self._count = settings, lr, 0
        self._m = self._s = 0.0
        # Of a matrix: W_0, the factor of it that weight decay has left, the sum of updates.
        self._first, self._kept, self._total = None, 1.0, None

    def step(self, weight: Vector | Matrix, gradient: Vector | Matrix) -> Vector | Matrix:
        """The weight after a step; `weight` is what the step before returned."""
        self._count += 1
        if isinstance(gradient, Matrix):
            return self._matrix(weight, gradient)
        # psi is nearly a sign, which jumps: derivatives of what comes after it are found by Stein's lemma.
        gradient = Vector(gradient.world, gradient._tensor, jumps=True)
        self._m, self._s, update = self._moments(self._m, self._s, gradient)
        return (1 - self.lr * self.settings.weight_decay) * weight - self.lr * update

    def _moments(self, m: Weight, s: Weight, g: Weight) -> tuple[Weight, Weight, Weight]:
        b1, b2 = self.settings.betas
        m, s = b1 * m + (1 - b1) * g, b2 * s + (1 - b2) * (g * g)
        scale = (1 - b2**self._count) ** -0.5
        return m, s, m / (1 - b1**self._count) / (torch.sqrt(s) * scale + self.settings.eps)

    def _matrix(self, weight: Matrix, gradient: Matrix) -> Matrix:
        world = weight.world
        n = world.coordinates
        if self._first is None:
            self._first = weight
            self._m, self._s = torch.zeros(2, n, n, dtype=world.dtype, device=world.device)
            self._total = torch.zeros_like(self._m)
        factor = 1 - self.lr * self.settings.weight_decay
        self._kept *= factor
        total = torch.empty_like(self._total)  # anew: the matrix of the step before stays what it was
        rows = max(1, _BLOCK // n)
        for first in range(0, n, rows):
            block = slice(first, first + rows)
            # Adam's moments of every entry of the outer products, m, s and psi, some rows at a time.
            self._m[block], self._s[block], update = self._moments(
                self._m[block], self._s[block], _entries(gradient, block)
            )
            total[block] = factor * self._total[block] - self.lr * update
        self._total = total
        # W_t = (1 - eta lambda)^t W_0 + total / n: the Gaussian part stays a Gaussian matrix.
        return self._kept * self._first + as_matrix(world, NonlinearOuter(total))


def _entries(gradient: Matrix, rows: slice) -> Tensor:
    """n times the entries in some rows of a sum of outer products: sum_b u_bi v_bj, (rows, n)."""
    found = 0.0
    for (_, flipped), (scale, part) in gradient._parts.items():
        u, v = (part.v, part.u) if flipped else (part.u, part.v)
        found = found + scale * u.values[:, rows].T @ v.values
    return found


class NonlinearOuter:
    """A matrix of entries t_ij / n, the sum of nonlinear outer products: a part of a matrix."""

    def __init__(self, entries: Tensor) -> None:
        self._entries = entries

    def product(self, x: Vector, transposed: bool, scale: float) -> Vector:
        right = self._entries if transposed else self._entries.T
        # A coordinatewise function of the u's in the limit (OuterNonlin), without new noise.
        values = x._tensor.detach().to(right.dtype)
        return Vector(x.world, values @ right * (scale / x.world.coordinates), jumps=True)


NAMED = {"sgd": SGD(), "momentum": SGD(momentum=0.9), "adam": Adam()}


def optimizer_of(optimizer: str | SGD | Adam) -> SGD | Adam:
    """The optimizer of that name, or the one that is given; InputError for any other name.

    >>> optimizer_of("momentum")
    SGD(momentum=0.9, weight_decay=0.0)
    """
    if isinstance(optimizer, (SGD, Adam)):
        return optimizer
    if not isinstance(optimizer, str) or optimizer not in NAMED:
        raise InputError(
            f"optimizer = {optimizer!r}; expected {', '.join(NAMED)}, SGD(momentum, weight_decay) or "
            "Adam(betas, eps, weight_decay); try optimizer='sgd'"
        )
    return NAMED[optimizer]
