r"""Fewer rows for the same infinitely wide matrix: kernel least squares.

    min over A'  | sum_i A_i K(B_i, .) - sum_{s in S} A'_s K(B_s, .) |^2        S: the rows that stay

The norm is that of the kernel's function space, which is the Frobenius norm of the matrices W and W' behind the rows.
With D the rows that go, the solution is ``A'_S = A_S + K_SS^{-1} K_SD A_D``.
"""

import torch
from torch import Tensor

from tp4lib.rows import Compression, Rows

RIDGE = 1e-7  # times the mean of the diagonal: rows that nearly coincide make K_SS nearly singular


@torch.no_grad()
def compress(rows: Rows, budget: int) -> Compression:
    """Refit ``rows`` in place to at most ``budget`` rows, those that came last.

    In training the same inputs come back, epoch after epoch, and their g moves slowly: a row that goes has younger
    ones near it that can carry what it did. A budget above the number of distinct inputs therefore costs little.

    Returns:
        rows before and after, and the relative error in the Frobenius norm.

    Example:
        >>> from tp4lib.dual import dual
        >>> rows = Rows(dual("identity"), rank=3, d_out=2)
        >>> g = torch.Generator().manual_seed(0)
        >>> rows.append(torch.randn(50, 3, generator=g), torch.randn(50, 2, generator=g))
        >>> report = compress(rows, 10)  # a linear layer is a 2 x 3 matrix: any 3 rows would do
        >>> report.after, report.error < 1e-3
        (10, True)
    """
    before = len(rows)
    if before <= budget:
        return Compression(before, before, 0.0)
    go, stay = torch.arange(before - budget), torch.arange(before - budget, before)
    split, A = type(rows.split())(*(part.double() for part in rows.split())), rows.A.double()
    device = A.device

    def gram(i: Tensor, j: Tensor) -> Tensor:
        parts = ([part[k.to(device)] for part in split] for k in (i, j))
        return rows.kernel.gram(*(type(split)(*part) for part in parts))

    K, across, gone = gram(stay, stay), gram(stay, go), gram(go, go)
    pulled = across @ A[go]
    moved = torch.cholesky_solve(pulled, _root(K))
    kept = A[stay]
    lost = (A[go] * (gone @ A[go])).sum() - 2 * (moved * pulled).sum() + (moved * (K @ moved)).sum()
    whole = (A[go] * (gone @ A[go])).sum() + 2 * (kept * pulled).sum() + (kept * (K @ kept)).sum()
    rows.keep(stay.to(device), (kept + moved).to(rows.dtype))
    return Compression(before, budget, float((lost.clamp(min=0) / whole).sqrt()) if whole > 0 else 0.0)


def _root(K: Tensor) -> Tensor:
    """Cholesky factor of K plus the smallest ridge, of powers of ten times `RIDGE`, that makes it positive."""
    ridge = RIDGE * K.diagonal().mean()
    while True:
        raised = K.clone()
        raised.diagonal().add_(ridge)
        root, failed = torch.linalg.cholesky_ex(raised)
        if not failed:
            return root
        ridge = 10 * ridge
