"""Leading singular values and directions of trained embeddings, which may be too large for a decomposition."""

from collections.abc import Callable

import torch
from torch import Tensor

from tp4lib.base.checks import whole

Product = Callable[[Tensor], Tensor]


_ROWS = 4096  # that are read at a time


def sketch(matrix: Tensor, rows: int, columns: int, seed: int) -> Tensor:
    """Random directions (rows, columns) to begin with, where the matrix is: in float32 if it is no float64."""
    generator = torch.Generator().manual_seed(seed)
    dtype = matrix.dtype if matrix.dtype == torch.float64 else torch.float32  # there is no QR of bfloat16
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64).to(matrix.device, dtype)


def products(matrix: Tensor, minus: float = 0.0) -> tuple[Product, Product]:
    """Q -> M Q and Q -> M^T Q with M = matrix - minus I, a few rows of the matrix at a time, in the dtype of Q."""
    parts = matrix.split(_ROWS)

    def times(Q: Tensor) -> Tensor:
        product = torch.cat([rows.to(Q.dtype) @ Q for rows in parts])
        return product - minus * Q if minus else product

    def transposed_times(Q: Tensor) -> Tensor:
        product = sum(rows.to(Q.dtype).T @ q for rows, q in zip(parts, Q.split(_ROWS)))
        return product - minus * Q if minus else product

    return times, transposed_times


def signs(columns: Tensor) -> Tensor:
    """(k,) +-1, the sign of the largest entry of each column, so that the same matrix gives the same picture."""
    sign = torch.sign(columns.gather(0, columns.abs().argmax(0, keepdim=True)))[0]
    return torch.where(sign == 0, 1.0, sign)


def leading(
    matrix: Tensor, count: int, *, minus: float = 0.0, rounds: int = 6, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Of ``M = matrix - minus I``: the largest singular values (count,), and their right directions (n, count).

    By subspace iteration, ``Q <- qr(M^T M Q)`` from a random start (Halko, Martinsson & Tropp 2011, algorithm 4.4):
    memory of a few (n, count) matrices beside M, and time of 2 ``rounds`` products. Neither M nor M^T M is made.

    Args:
        matrix: (m, n); with ``minus``, square, such as the limit's embeddings less their initialization.
        rounds: the error in the direction of singular value s falls like ``(s_last / s)^(2 rounds)``.

    In float64 where the matrix is, else float32.

    >>> values, directions = leading(torch.diag(torch.tensor([1.0, 4.0, 3.0])), 2, minus=1.0)
    >>> values.round(decimals=3).tolist(), directions.abs().argmax(0).tolist()
    ([3.0, 2.0], [1, 2])
    """
    most = min(matrix.shape)
    count = whole("count", count, most=most, example=min(64, most))
    times, transposed_times = products(matrix, minus)
    spare = min(count + 10, most)  # directions beyond the last wanted one make it exact sooner
    Q = sketch(matrix, matrix.shape[1], spare, seed)
    for _ in range(rounds):
        Q = torch.linalg.qr(transposed_times(times(torch.linalg.qr(Q)[0])))[0]
    _, values, turned = torch.linalg.svd(times(Q), full_matrices=False)
    return values[:count], (Q @ turned.mT)[:, :count]
