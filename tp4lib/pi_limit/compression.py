r"""Fewer rows for the same infinitely wide matrix: kernel least squares.

    min over A'  | sum_i A_i K(B_i, .) - sum_{s in S} A'_s K(B_s, .) |^2        S: the rows that stay

The norm is that of the kernel's function space, which is the Frobenius norm of the matrices W and W' behind the rows.
With D the rows that go, the solution is ``A'_S = A_S + K_SS^{-1} K_SD A_D``.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from tp4lib.activations import Dual, Split
from tp4lib.base.checks import whole
from tp4lib.base.errors import InputError

_BLOCK = 1 << 21  # pairs of rows that are worked on at once
_RIDGE = 1e-7  # times the mean of the diagonal: rows that nearly coincide make K_SS nearly singular


class Compression(NamedTuple):
    """What a compression did to the number of rows.

    Attributes:
        error: ``|W - W'| / |W|`` in the Frobenius norm, so that outputs at g move by at most
            ``error * |W| * sqrt(K(g, g))``. (A difference of sums: below about 1e-3 it is rounding in float32.)
    """

    before: int
    after: int
    error: float


@torch.no_grad()
def refit(
    kernel: Dual, split: Split, A: Tensor, budget: int, seed: int = 0
) -> tuple[Tensor, Tensor, Compression]:
    """The least-squares fit of a list of rows by at most ``budget`` of them.

    Which rows stay is drawn at random, without replacement, with probabilities proportional to their norms in function
    space, ``|A_i| sqrt K(B_i, B_i)``. Rows of the initialization have large norms and directions of their own, so they
    stay; rows of training lie near one another, and one can do the work of another.

    Args:
        kernel: K. split: the rows' B, made ready for K. A: ``(rows, columns)``.

    Returns:
        The indices of the rows that stay, their new A in float64, and the report.

    Example:
        >>> from tp4lib.activations import dual
        >>> g, linear = torch.Generator().manual_seed(0), dual("identity")
        >>> B, A = torch.randn(50, 3, generator=g), torch.randn(50, 2, generator=g)
        >>> stay, _, report = refit(linear, linear.split(B), A, 10)  # a 2 x 3 matrix: any 3 rows would do
        >>> len(stay), report.after, report.error < 1e-3
        (10, 10, True)
    """
    budget, before = whole("budget", budget, example=1000), len(A)
    A = A.double()
    if before <= budget:
        return torch.arange(before, device=A.device), A, Compression(before, before, 0.0)
    weights = _weights(kernel, split, A)
    if not weights.isfinite().all():
        raise InputError(
            f"{(~weights.isfinite()).sum()} of {before} rows are not finite; expected finite rows to compress; "
            "train at a smaller rate"
        )
    stay, go = (index.to(A.device) for index in _draw(weights, budget, seed))
    taken, given = (Split(*(part[index] for part in split)) for index in (stay, go))
    # Of K only K_SS is held, to be factored; the rest is used block by block, since K_DD may not fit.
    K = torch.empty(budget, budget, dtype=torch.float64, device=A.device)  # K_SS
    for part, block in zip(K.split(_step(budget)), _blocks(kernel, taken, taken)):
        part.copy_(block)
    pulled = torch.cat([block.double() @ A[go] for block in _blocks(kernel, taken, given)])  # K_SD A_D
    own = torch.cat([block.double() @ A[go] for block in _blocks(kernel, given, given)])  # K_DD A_D
    moved = torch.cholesky_solve(pulled, _root(K))  # A'_S - A_S
    kept = A[stay]
    # |W - W'|^2 and |W|^2, from the blocks of K that are at hand
    lost = (A[go] * own).sum() - 2 * (moved * pulled).sum() + (moved * (K @ moved)).sum()
    total = (A[go] * own).sum() + 2 * (kept * pulled).sum() + (kept * (K @ kept)).sum()
    error = 0.0 if total == 0 else float((lost.clamp(min=0) / total).sqrt())
    return stay, kept + moved, Compression(before, budget, error)


def _blocks(kernel: Dual, one: Split, other: Split) -> Iterator[Tensor]:
    """The kernel matrix of two sets of rows, a few of its rows at a time."""
    step = _step(len(other.scale))
    for start in range(0, len(one.scale), step):
        yield kernel.gram(Split(*(part[start : start + step] for part in one)), other)


def _step(columns: int) -> int:
    return max(1, _BLOCK // max(1, columns))


def _weights(kernel: Dual, split: Split, A: Tensor) -> Tensor:
    """``|A_i| sqrt K(B_i, B_i)``, one number a row; A in float64, since the square of a small one is below float32."""
    alone = Split(split.psi[:, None], split.scale[:, None], split.rho[:, None])
    return A.norm(dim=1) * kernel.gram(alone, alone).flatten().double().clamp(min=0).sqrt()


def _draw(weights: Tensor, budget: int, seed: int) -> tuple[Tensor, Tensor]:
    """``budget`` indices with probabilities proportional to the weights, and all others, both in order."""
    generator = torch.Generator().manual_seed(seed)
    exponential = torch.empty(len(weights), dtype=torch.float64).exponential_(generator=generator)
    # The k smallest of E_i / w_i, E exponential: a weighted sample without replacement (Efraimidis & Spirakis 2006).
    order = (exponential / weights.cpu().clamp(min=1e-150)).argsort()
    return order[:budget].sort().values, order[budget:].sort().values


def _root(K: Tensor) -> Tensor:
    """Cholesky factor of K plus the smallest ridge, of powers of ten times `_RIDGE`, that makes it positive."""
    ridge = _RIDGE * K.diagonal().mean()
    while True:
        raised = K.clone()
        raised.diagonal().add_(ridge)
        root, failed = torch.linalg.cholesky_ex(raised)
        if not failed:
            return root
        ridge = 10 * ridge
