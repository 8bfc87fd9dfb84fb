"""The functions that an infinitely wide network in a kernel limit can learn, as finitely many coefficients."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tp4lib import kernels
from tp4lib.base import progress
from tp4lib.base.device import available_memory
from tp4lib.base.errors import InputError
from tp4lib.data.omniglot import SIZE

Kernel = Callable[[Tensor, Tensor], Tensor]
STORED_ROWS = 4096  # images that are not for training (validation), whose kernel rows are kept as well
_TILE = 2056  # rows and columns of the Gram table that are computed at once
_ROWS = 8  # rows of the Gram table gathered at once: few enough that they are still in cache when multiplied


def limit_kernel(
    limit: str, activation: str, sigma_in: float = 1.0, sigma_out: float = 1.0, bias_scale: float = 0.0
) -> Kernel:
    """The kernel of an infinitely wide network with one hidden layer, as a function of ``(n1, d), (n2, d)``.

    The network is ``f(x) = V phi(U x + b) / sqrt(n)``, with entries of U, V, b drawn from N(0, sigma_in^2),
    N(0, sigma_out^2), N(0, bias_scale^2). Hidden preactivations have covariance
    ``S(x, y) = sigma_in^2 x.y + bias_scale^2``, and

        "gp"   (V is trained)         K(x, y) = E phi(u) phi(v)
        "ntk"  (V and U are trained)  K(x, y) = E phi(u) phi(v) + sigma_out^2 E phi'(u) phi'(v) x.y

    with (u, v) ~ N(0, S): each term is the inner product of the gradients for one layer. With all scales 1 and no bias
    they are `tp4lib.kernels.nngp` and `ntk` of depth 1; for a linear network both are ``x.y``, up to scale.

    Source: Yang & Hu, section 9.2 and appendix D (GP and NTK baselines).

    >>> x = torch.ones(1, 4, dtype=torch.float64)
    >>> limit_kernel("gp", "linear")(x, x).item(), limit_kernel("ntk", "linear")(x, x).item()
    (4.0, 8.0)
    """
    if limit not in ("gp", "ntk"):
        raise InputError(f"no kernel limit {limit!r}; expected gp or ntk; try --limit ntk")
    dual = kernels.covariance_dual(activation)

    def kernel(x1: Tensor, x2: Tensor) -> Tensor:
        product = x1 @ x2.T
        own = [(sigma_in**2 * (x * x).sum(1) + bias_scale**2) for x in (x1, x2)]
        for variances in own:
            dual.require_accurate(variances, limit == "ntk")
        s = sigma_in**2 * product + bias_scale**2
        result = dual.value(s, own[0][:, None], own[1])
        if limit == "ntk":
            result += sigma_out**2 * dual.derivative(s, own[0][:, None], own[1]) * product
        return result

    return kernel


class FeatureSpace:
    """Functions ``f(x) = phi(x) theta`` of finitely many features: what a *linear* network's kernels span.

    With the identity for activation, K(x, y) = a x.y + c = phi(x).phi(y), phi(x) = [sqrt(a) x, sqrt(c)]. Adding
    ``delta K(x_i, .)`` to f is adding ``phi(x_i)^T delta`` to theta: exact, and no training image need be kept.

    The kernel is from `limit_kernel`, with activation "linear"; d is the inputs' dimension.
    """

    def __init__(self, kernel: Kernel, d: int, device: torch.device, dtype: torch.dtype) -> None:
        self.kernel = kernel
        probe = torch.eye(2, 1, dtype=torch.float64).flip(0)  # the points 0 and 1 of a line
        self.constant, at_one = kernel(probe, probe).diagonal().tolist()  # K(0, 0) = c, K(1, 1) = a + c
        self.scale = at_one - self.constant
        self.size = d + 1
        self.like = torch.empty(0, device=device, dtype=dtype)

    def features(self, x: Tensor) -> Tensor:
        """phi: ``(n, d)`` -> ``(n, d + 1)``."""
        return torch.cat([x * self.scale**0.5, x.new_full((len(x), 1), self.constant**0.5)], dim=1)

    def values(self, theta: Tensor, x: Tensor, index: Tensor) -> Tensor:
        """f at any images ``x`` ``(n, d)``: ``(n, o)``. ``index`` is for `GramSpace`."""
        return self.features(x) @ theta

    values_elsewhere = values

    def add_(self, theta: Tensor, x: Tensor, index: Tensor, delta: Tensor) -> None:
        """f += sum_i K(x_i, .) delta_i, in place; ``delta`` ``(n, o)``."""
        theta.addmm_(self.features(x).T, delta)


class GramSpace:
    """Functions ``f(x) = sum_c K(x, c) alpha_c`` over the distinct training images c, for any kernel.

    SGD in function space only ever adds multiples of ``K(x_i, .)``, x_i an image of the training table: so n
    coefficients hold f exactly, however long the training. To evaluate f at m of those images takes m rows of the n x n
    Gram matrix. It is computed once, in large products, and kept, with two exact savings. A quarter turn R permutes
    pixels, and these kernels depend on inner products only, so K(R x, R y) = K(x, y): where the table is a set of
    images and their three turns, the rows of the unturned images contain all the others,

        K(R^a x, R^b y) = K(x, R^(b - a) y)                (a quarter of the rows)
        K(x, R^c y) = K(y, R^-c x)                         (half of the work)

    A table that does not fit in float32 is held in float16; if that does not fit either, rows are computed whenever
    they are needed.

    Args:
        table: uint8 ``(n, 784)``, the training tasks' `tp4lib.data.omniglot.Tasks.table`.
        kernel: from `limit_kernel`; any function of inner products.
        dtype: that of f; the Gram table is float32 at most, float64 with float64 functions.
        budget: bytes for the table and stored rows; default 60 % of the memory there is.
    """

    def __init__(
        self, table: Tensor, kernel: Kernel, dtype: torch.dtype = torch.float32, budget: int | None = None
    ) -> None:
        self.kernel, self.size = kernel, len(table)
        self.images = table.to(dtype).div_(255)
        self.like = self.images.new_empty(0)
        self.turns = 4 if _is_turned(table) else 1
        self.bases = len(table) // self.turns
        self.budget = int(0.6 * available_memory(table.device)) if budget is None else budget
        self._stored: dict[int, int] = {}  # image key -> its row in _store
        self._store: Tensor | None = None
        self.gram = self._build()

    def values(self, alpha: Tensor, x: Tensor, index: Tensor) -> Tensor:
        """f at training images: ``x`` ``(m, d)``, ``index`` ``(m,)`` their rows in the table -> ``(m, o)``."""
        if self.gram is None:
            return self._compute(alpha, x)
        turn, base = index // self.bases, index % self.bases
        by_turn = alpha.view(self.turns, self.bases, -1)
        result = alpha.new_empty((len(index), alpha.shape[1]))
        for a in range(self.turns):
            here = (turn == a).nonzero()[:, 0]
            # f(R^a x) = sum_c sum_y K(x, R^c y) alpha(R^(a + c) y)
            turned = by_turn.roll(-a, 0).reshape(self.size, -1)
            result[here] = _product(self.gram, base[here], turned)
        return result

    def values_elsewhere(self, alpha: Tensor, x: Tensor, keys: list[int]) -> Tensor:
        """f at other images, identified by ``keys``; the kernel rows of the first `STORED_ROWS` of them are kept."""
        fresh = [i for i, key in enumerate(keys) if key not in self._stored]
        first = len(self._stored)
        keep = fresh[: max(0, self._room() - first)]
        # A few kernel rows at a time, as they are computed in full precision.
        for start in range(0, len(keep), 256):
            some = keep[start : start + 256]
            rows = self.kernel(x[torch.tensor(some, device=x.device)], self.images)
            self._store[first + start : first + start + len(some)] = rows.to(self._store.dtype)
        self._stored.update((keys[i], first + row) for row, i in enumerate(keep))
        # Stored rows in one product, the others from scratch.
        result = alpha.new_empty((len(x), alpha.shape[1]))
        known = [(i, self._stored[key]) for i, key in enumerate(keys) if key in self._stored]
        if known:
            at, rows = torch.tensor(known, device=x.device).T
            result[at] = _product(self._store, rows, alpha)
        rest = torch.tensor([i for i, key in enumerate(keys) if key not in self._stored], dtype=torch.long)
        if len(rest):
            result[rest] = self._compute(alpha, x[rest.to(x.device)])
        return result

    def add_(self, alpha: Tensor, x: Tensor, index: Tensor, delta: Tensor) -> None:
        """f += sum_i K(x_i, .) delta_i, in place; an image that comes twice is added twice."""
        alpha.index_add_(0, index, delta)

    def _compute(self, alpha: Tensor, x: Tensor) -> Tensor:
        """f from scratch, against the images that carry coefficients, 256 rows at a time."""
        active = alpha.any(1).nonzero()[:, 0]
        images, weights = self.images, alpha
        if len(active) < self.size:
            images, weights = images[active], alpha[active]
        return torch.cat([self.kernel(rows, images) @ weights for rows in x.split(256)])

    def _room(self) -> int:
        """How many rows of other images can be stored; the store is allocated at first use."""
        if self._store is None:
            dtype = self.like.dtype if self.gram is None else self.gram.dtype
            left = self.budget - (0 if self.gram is None else self.gram.nbytes)
            rows = max(0, min(STORED_ROWS, left // (self.size * dtype.itemsize)))
            self._store = torch.empty((rows, self.size), device=self.like.device, dtype=dtype)
        return len(self._store)

    def _build(self) -> Tensor | None:
        """K(unturned images, all images), or None where there is no room for it."""
        for dtype in (self.like.dtype, torch.float16):
            if self.bases * self.size * dtype.itemsize <= self.budget:
                break
        else:
            return None
        n = self.bases
        gram = torch.empty((n, self.size), device=self.like.device, dtype=dtype)
        blocks = [slice(start, min(start + _TILE, n)) for start in range(0, n, _TILE)]
        # Turns c = 0 and 2 are symmetric, so half of their tiles is enough; c = 3 is the transpose of c = 1.
        tiles = [(c, i, j) for c in range(min(3, self.turns)) for i in blocks for j in blocks
                 if c == 1 or j.start >= i.start]  # fmt: skip
        for c, i, j in progress.bar(tiles, desc="kernel of all training images", unit="tile"):
            tile = self.kernel(self.images[i], self.images[c * n + j.start : c * n + j.stop]).to(dtype)
            gram[i, c * n + j.start : c * n + j.stop] = tile
            back = (self.turns - c) % self.turns  # K(x, R^c y) = K(y, R^-c x)
            gram[j, back * n + i.start : back * n + i.stop] = tile.T
        return gram


def _product(table: Tensor, rows: Tensor, alpha: Tensor) -> Tensor:
    """``table[rows] @ alpha``; on the CPU without a copy of all those rows, which takes longer than the product."""
    if table.device.type != "cpu":
        return table[rows].to(alpha.dtype) @ alpha
    right = alpha.T.contiguous()
    buffer = table.new_empty((_ROWS, table.shape[1]))
    parts = []
    for part in rows.split(_ROWS):
        gathered = torch.index_select(table, 0, part, out=buffer[: len(part)])
        parts.append(F.linear(gathered.to(alpha.dtype), right))
    return torch.cat(parts) if parts else alpha.new_empty((0, alpha.shape[1]))


def _is_turned(table: Tensor) -> bool:
    """Whether the table is images followed by the same images turned by 90, 180 and 270 degrees."""
    if len(table) % 4 or table.shape[1] != SIZE * SIZE:
        return False
    turns = table.view(4, -1, SIZE, SIZE)
    return all(torch.equal(turns[a], turns[0].rot90(a, (1, 2))) for a in range(1, 4))
