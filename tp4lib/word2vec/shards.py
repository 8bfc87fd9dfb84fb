r"""Columns over ranks: every rank holds some columns of both matrices, and only inner products travel.

Rank r of N holds the columns ``n r / N .. n (r + 1) / N`` of the embeddings and of the readout. Training treats each
column independently, except for the scores ``S = C E R^T``: these are sums over columns, so that a batch costs one
all-reduce of its B x M scores, whatever the width. Norms and cosines of the evaluation are sums over columns too. So N
ranks compute what one computes, up to the order of sums.
"""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed

from tp4lib.base import environment
from tp4lib.base.checks import whole
from tp4lib.base.errors import InputError
from tp4lib.word2vec.spectrum import products, signs, sketch

ROUNDS = 5  # of subspace iteration in `reduced`


class Shards:
    """The ranks that share the columns; alone by default.

    Attributes:
        rank: of this process, from 0. size: N, how many there are.

    >>> Shards().columns(10), Shards(1, 4).columns(10)
    (slice(0, 10, None), slice(2, 5, None))
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @classmethod
    def join(cls, device: torch.device) -> "Shards":
        """Join the ranks that ``torchrun`` started: NCCL between GPUs, gloo between CPUs; alone without it."""
        size = environment.whole_number("WORLD_SIZE", 1, least=1)
        if size == 1:
            return cls()
        if missing := {"RANK", "MASTER_ADDR", "MASTER_PORT"} - set(os.environ):
            raise InputError(
                f"WORLD_SIZE is set, but not {', '.join(sorted(missing))}; expected all of torchrun's variables; "
                "start by torchrun --nproc-per-node=N -m tp4lib.word2vec"
            )
        if environment.whole_number("RANK", 0) >= size:
            raise InputError(f"RANK={os.environ['RANK']}; expected 0 to {size - 1}; start by torchrun")
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(distributed.get_rank(), distributed.get_world_size())

    def leave(self) -> None:
        """End what `join` began."""
        if self.size > 1:
            distributed.destroy_process_group()

    def columns(self, n: int) -> slice:
        """The columns of n that this rank holds."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def sum(self, partial: Tensor) -> Tensor:
        """The sum over ranks of a tensor of one shape, the same bits on every rank; in place."""
        if self.size > 1:
            distributed.all_reduce(partial)
        return partial

    def any(self, flag: bool) -> bool:
        """Whether the flag is up on some rank."""
        if self.size == 1:
            return flag
        return bool(self.sum(torch.tensor(int(flag), device=_device())))

    def first(self, action: Callable[[], Any]) -> Any:
        """Let the first rank do something, and return its result; None on the others. If it fails there, all raise."""
        result = problem = None
        if self.rank == 0:
            try:
                result = action()
            except InputError as error:
                problem = error
        if self.any(problem is not None):
            raise problem or InputError("the first rank cannot go on; expected no error; see its line")
        return result

    def wait(self) -> None:
        """Wait until every rank has called this."""
        self.any(False)

    def gather(self, rows: Tensor, n: int) -> Tensor:
        """All n columns of (m, own columns) rows, on every rank: (m, n)."""
        if self.size == 1:
            return rows
        whole = torch.zeros(len(rows), n, dtype=rows.dtype, device=rows.device)
        whole[:, self.columns(n)] = rows
        return self.sum(whole)


ALONE = Shards()


def _device() -> str:
    return "cuda" if distributed.get_backend() == "nccl" else "cpu"


def reduced(embeddings: Tensor, dim: int, shards: Shards = ALONE) -> Tensor:
    """The rows (|V|, columns) in ``dim`` principal coordinates, (|V|, dim).

    With ``E = A diag(s) B^T`` the first columns of ``A diag(s)``: PCA about the origin, as cosines are. Inner products
    of the result are the best approximation of rank ``dim`` to those of the rows. Found by subspace iteration (Halko,
    Martinsson & Tropp 2011), so that ranks exchange no more than |V| x dim numbers at a time; each round multiplies the
    error by the square of the ratio of neighbouring singular values.

    >>> reduced(torch.eye(3) * torch.tensor([3.0, 2.0, 1.0]), 1).abs().round(decimals=3).tolist()
    [[3.0], [0.0], [0.0]]
    """
    columns = int(shards.sum(torch.tensor(embeddings.shape[1], device=embeddings.device)))
    most = min(len(embeddings), columns)
    dim = whole("save_dim", dim, most=most, example=min(300, most))
    Q = sketch(embeddings, len(embeddings), min(dim + 10, most), seed=0)
    times, transposed_times = products(embeddings)  # E Q is a sum over ranks; E^T Q has this rank's columns
    for _ in range(ROUNDS):
        Q = torch.linalg.qr(shards.sum(times(transposed_times(Q))))[0]
    B = transposed_times(Q)  # Q^T E = B^T
    values, vectors = torch.linalg.eigh(shards.sum(B.T @ B))
    order = values.argsort(descending=True)[:dim]
    result = Q @ (vectors[:, order] * values[order].clamp_min(0).sqrt())
    return result * signs(result)
