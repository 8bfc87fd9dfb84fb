"""CBOW at width n or at width infinity, and one SGD step of it.

The network is linear with one hidden layer and no bias: a word c of the vocabulary V has an embedding ``u_c`` and a
readout ``v_c``; a position with context words C and target w scores a word m by ``f_m = h . v_m``, with the hidden
vector ``h = mean_{c in C} u_c``, and has the loss (k negatives m ~ q, those equal to w left out)

    L = -log sigmoid(f_w) - sum_m log sigmoid(-f_m).

*Width n, muP*: ``u`` uniform in +-sqrt(3)/sqrt(n), so each entry has variance 1/n, and ``v = 0``; one learning rate
for all widths. *Width infinity*: the limit of a linear network lives in the span of its initial directions (paper,
section 6). With ``v = 0`` these are the |V| embeddings alone, orthonormal in the limit, so the coefficients of the
limit start at the identity in |V| columns, and SGD on them **is** the limit, exactly. The same code trains all.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from tp4lib.base.checks import real, whole
from tp4lib.base.device import require_memory, resolve
from tp4lib.base.divergence import Diverged
from tp4lib.base.errors import InputError
from tp4lib.word2vec.blocks import Block
from tp4lib.word2vec.shards import ALONE, Shards

GRADIENTS = ("mean", "sum")
DTYPES = (torch.float32, torch.float64, torch.bfloat16)
WIDEST = 10**9


def parse_width(width: int | float | str) -> int | float:
    """Read a width: a positive integer, or infinity as ``math.inf`` or ``"inf"``.

    >>> parse_width("inf"), parse_width("64")
    (inf, 64)
    """
    number = width
    if isinstance(width, str):
        text = width.strip().lower()
        if text in ("inf", "infinity"):
            number = math.inf
        elif text.isascii() and text.isdigit() and len(text) < 20:
            number = int(text)
    if number == math.inf:
        return math.inf
    try:
        return whole("width", number, most=WIDEST)
    except InputError:
        raise InputError(
            f"unknown width {str(width)[:40]!r}; expected a whole number from 1 to {WIDEST:,}, or inf; try --width 64"
        ) from None


def columns_of(vocab_size: int, width: int | float | str) -> int:
    """Columns that the parameters of a width take: n, or |V| for width infinity."""
    width = parse_width(width)
    return vocab_size if width == math.inf else int(width)


class CBOW:
    """The parameters of Word2Vec at one width.

    Args:
        vocab_size: |V|.
        width: n, or ``math.inf`` (or "inf") for the limit.
        seed: for the random start of a finite width.
        dtype: torch.float32 or torch.float64; or torch.bfloat16, which is computed with in float32 and rounded to
            stochastically (`rounded`): half the memory, and half the bytes to move.
        device: "auto", "cpu", "cuda", "cuda:1".
        shards: the ranks that share the columns; the model holds those of this rank.

    Attributes:
        embeddings: (|V|, columns) tensor; row c is ``u_c``, at width infinity its coefficients.
        readout: (|V|, columns) tensor; row m is ``v_m``.
        width: n or ``math.inf``; ``rank`` columns where a start was handed in.

    Raises:
        InputError: unknown width, or more memory than there is.

    >>> CBOW(3, "inf").embeddings.tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """

    def __init__(
        self,
        vocab_size: int,
        width: int | float | str,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        shards: Shards = ALONE,
    ) -> None:
        self.width = parse_width(width)
        vocab_size, seed = whole("vocab_size", vocab_size), whole("seed", seed, 0, 2**63 - 1, example=0)
        if dtype not in DTYPES:
            raise InputError(
                f"dtype {dtype}; expected float32, float64 or bfloat16 of torch; try dtype=torch.float32"
            )
        device = resolve(device)
        n = columns_of(vocab_size, self.width)
        own = shards.columns(n)
        columns, size = own.stop - own.start, torch.finfo(dtype).bits // 8
        fits = f"try --max-vocab {largest_vocab(self.width, device, size)}"
        require_memory(
            2 * vocab_size * columns * size, device, f"width {self.width} with {vocab_size} words", fits
        )
        if self.width == math.inf:
            self.embeddings = _matrix(vocab_size, columns, dtype, device)
            self.embeddings[own].fill_diagonal_(1.0)
        else:
            # Drawn on the CPU in float64, so that all devices and dtypes start at the same numbers.
            generator = torch.Generator().manual_seed(seed)
            start = torch.rand(vocab_size, n, generator=generator, dtype=torch.float64)
            self.embeddings = _matrix(vocab_size, columns, dtype, device)
            self.embeddings.copy_((2 * start[:, own] - 1) * math.sqrt(3 / n))
        self.readout = _matrix(vocab_size, columns, dtype, device)

    @classmethod
    def from_start(cls, embeddings: torch.Tensor, readout: torch.Tensor | None = None) -> "CBOW":
        """Train from any start: ``embeddings`` and ``readout`` (|V|, columns), the readout 0 if left out.

        A start of r columns is the rank-r pi-limit (Yang, Santacroce & Hu 2022). ``[I, 0]`` and ``0`` in 2|V| columns
        is the form of the authors' program, which also has room for a random readout ``[0, sigma I]``.
        """
        model = cls.__new__(cls)
        shapes = tuple(embeddings.shape), tuple(embeddings.shape if readout is None else readout.shape)
        if shapes[0] != shapes[1] or embeddings.dim() != 2:
            raise InputError(
                f"a start needs two matrices of one shape (|V|, columns), not {shapes[0]} and {shapes[1]}; "
                "give both the same shape"
            )
        model.embeddings, model.readout = (
            _matrix(*shapes[0], embeddings.dtype, embeddings.device) for _ in range(2)
        )
        model.embeddings.copy_(embeddings.detach())
        if readout is not None:
            model.readout.copy_(readout.detach())
        model.width = model.columns
        return model

    @property
    def vocab_size(self) -> int:
        return self.embeddings.shape[0]

    @property
    def columns(self) -> int:
        return self.embeddings.shape[1]

    def logits(self, block: Block, words: np.ndarray | torch.Tensor | None = None) -> torch.Tensor:
        """Scores ``f_m = h . v_m`` of every position of a block: (P, |V|), or (P, m) for the given ``words``."""
        context, u = _context_matrix(block, 0, len(block), self.embeddings)
        readout = self.readout if words is None else self.readout[torch.as_tensor(words).long()]
        return context @ (self.embeddings[u] @ readout.T)


@dataclass(frozen=True)
class StepSettings:
    """What a step needs beside the block.

    Attributes:
        wd: weight decay; every touch of a row multiplies it by ``1 - rate * wd``.
        window_gradient: "mean" is the true gradient: a context word of a window of |C| words receives 1/|C| of the
            error. "sum" gives each the whole error, as gensim and the original word2vec do.
        input_rate: learning rate of the embeddings over that of the readout: 1 in muP, 1/n in the NTK
            parametrization (see `tp4lib.word2vec.baselines`).
    """

    wd: float = 1e-3
    window_gradient: str = "mean"
    input_rate: float = 1.0

    def __post_init__(self) -> None:
        if self.window_gradient not in GRADIENTS:
            raise InputError(
                f"unknown window gradient {self.window_gradient!r}; expected mean or sum; try mean"
            )
        real("wd", self.wd, least=0, example=1e-3)
        real("input_rate", self.input_rate, least=0)


def _matrix(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros; on a GPU rows start at multiples of 128 bytes, so that a piece of a row touches no line too many.

    What lies between rows is zero, and is to stay so: an engine may read it as columns of zeros.
    """
    line = 128 // dtype.itemsize if device.type == "cuda" else 1
    return torch.zeros(rows, -(-columns // line) * line, dtype=dtype, device=device)[:, :columns]


def torch_steps(
    model: CBOW, block: Block, settings: StepSettings, shards: Shards = ALONE
) -> tuple[float, int]:
    """Train on a block, one SGD step a batch, with matrix products on the rows that the batch touches.

    With ``E`` (U, n) the embeddings of a batch's context words, ``R`` (M, n) the readouts of its targets and
    negatives, ``C`` (B, U) the means over contexts, ``Y`` (B, M) one-hot targets and ``W`` (B, M) weights of
    negatives,

        S = C E R^T,   G = rate (Y (1 - sigmoid(S)) - W sigmoid(S)),
        E <- D_E E + C^T G R,   R <- D_R R + G^T C E.

    ``D`` multiplies a row by ``1 - rate wd`` once for each touch (negatives count by their weight). This is the
    reference: other engines must give the same numbers.

    Args:
        shards: the ranks that share the columns; each batch's S is summed over them.

    Returns:
        sum of the losses of the positions, and their number.

    Raises:
        Diverged: the loss of a step is not finite.
    """
    device, stored = model.embeddings.device, model.embeddings.dtype
    dtype = torch.float32 if stored == torch.bfloat16 else stored
    generator = torch.Generator(device).manual_seed(block.seed) if stored == torch.bfloat16 else None
    plan = _Plan(block, device)
    losses = torch.zeros(block.batches, dtype=torch.float64, device=device)
    for i in range(block.batches):
        rate = float(block.rates[i])
        low, high = i * block.batch_size, min((i + 1) * block.batch_size, len(block))
        size = high - low
        u, c_row, c_col, c_value, c_count = plan.contexts(i, dtype)
        m, target, negative = plan.outputs(i)
        rows = torch.arange(size, device=device)
        C = torch.zeros(size * len(u), dtype=dtype, device=device)
        C = C.index_add_(0, c_row * len(u) + c_col, c_value).view(size, len(u))
        if block.shared:
            W = torch.zeros(len(m), dtype=dtype, device=device)
            W = W.index_add_(
                0, negative, torch.full(negative.shape, block.weight, dtype=dtype, device=device)
            )
            W = W.repeat(size, 1)
        else:
            W = torch.zeros(size * len(m), dtype=dtype, device=device)
            at = (rows[:, None] * len(m) + negative.view(size, -1)).flatten()
            W = W.index_add_(0, at, torch.full(at.shape, block.weight, dtype=dtype, device=device))
            W = W.view(size, len(m))
        W[rows, target] = 0.0  # a negative equal to the target is left out
        E, R = model.embeddings[u].to(dtype), model.readout[m].to(dtype)
        spread = C * settings.input_rate
        if settings.window_gradient == "sum":
            spread *= c_count[:, None]
        through_rows = len(m) < model.columns  # the cheaper order of the same products
        S = shards.sum(C @ (E @ R.T) if through_rows else (C @ E) @ R.T)
        p = torch.sigmoid(S)
        losses[i] += (W * torch.nn.functional.softplus(S)).sum(dtype=torch.float64)
        losses[i] += torch.nn.functional.softplus(-S[rows, target]).sum(dtype=torch.float64)
        G = W.mul(p).neg_()
        G[rows, target] = 1.0 - p[rows, target]
        G *= rate
        touches_in = torch.zeros(len(u), dtype=dtype, device=device).index_add_(
            0, c_col, torch.ones_like(c_value)
        )
        W[rows, target] = 1.0
        touches_out = W.sum(0)
        shrink_in, shrink_out = (math.log1p(-rate * x * settings.wd) for x in (settings.input_rate, 1.0))
        if through_rows:
            dE, dR = (spread.T @ G) @ R, (G.T @ C) @ E
        else:
            dE, dR = spread.T @ (G @ R), G.T @ (C @ E)
        E.mul_(torch.exp(touches_in * shrink_in)[:, None]).add_(dE)
        R.mul_(torch.exp(touches_out * shrink_out)[:, None]).add_(dR)
        model.embeddings[u], model.readout[m] = (
            (E, R) if generator is None else (rounded(E, generator), rounded(R, generator))
        )
    loss = float(losses.sum())
    if not math.isfinite(loss):
        first = int(torch.isfinite(losses).logical_not().nonzero()[0])
        raise Diverged(f"the loss of step {first + 1} of {block.batches} is {losses[first]:g}")
    return loss, len(block)


def changed_rows(model: CBOW, block: Block) -> dict[str, np.ndarray]:
    """The rows of each matrix that training on a block has changed."""
    touched = np.zeros((2, model.vocab_size), dtype=bool)
    touched[:, block.tokens] = True
    touched[1, block.negatives.ravel()] = True
    return {name: np.flatnonzero(words) for name, words in zip(("embeddings", "readout"), touched)}


def require_finite(model: CBOW, block: Block, shards: Shards = ALONE) -> None:
    """Look at the rows that training on a block has changed: scores may hide what has overflowed.

    Raises:
        Diverged: one of them is not finite, on some rank.
    """
    for name, rows in changed_rows(model, block).items():
        matrix = getattr(model, name)
        parts = torch.from_numpy(rows).to(matrix.device).split(256)
        if shards.any(not all(torch.isfinite(matrix[part]).all() for part in parts)):
            raise Diverged(f"the {name} are no longer finite")


def rounded(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """float32 to bfloat16, up or down at random with mean x, so that small steps add up where nearest loses them.

    >>> x = torch.full((10_000,), 1 + 2**-9)  # a quarter of the way from 1 to the next bfloat16
    >>> f"{rounded(x, torch.Generator().manual_seed(0)).float().mean().item():.3f}"
    '1.002'
    """
    # A bfloat16 is the upper half of a float32's bits: carry into it with the probability that the lower half says.
    lower = torch.randint(0, 1 << 16, x.shape, dtype=torch.int32, device=x.device, generator=generator)
    return ((x.view(torch.int32) + lower) & -(1 << 16)).view(torch.float32).to(torch.bfloat16)


class _Plan:
    """Which rows each batch of a block touches, found for the whole block at once and moved to the device."""

    def __init__(self, block: Block, device: torch.device) -> None:
        size, batch = len(block), block.batch_size
        position, words = context_pairs(block, 0, size)
        in_batch = position // batch
        bounds = np.searchsorted(in_batch, np.arange(block.batches + 1))
        self._in, self._in_bounds, local = _unique_rows(words, in_batch, block.batches)
        count = block.last - block.first - 1
        self._pair_bounds = bounds
        self._position = torch.as_tensor(position % batch, device=device)
        self._column = torch.as_tensor(local, device=device)
        self._count = torch.as_tensor(count.astype(np.float64), device=device)
        self._value = (1.0 / self._count)[torch.as_tensor(position, device=device)]
        in_batch = np.concatenate(
            [
                np.arange(size) // batch,
                np.arange(block.negatives.size)
                // (block.negatives.shape[1] * (1 if block.shared else batch)),
            ]
        )
        out_words = np.concatenate([block.tokens, block.negatives.ravel()]).astype(np.int64)
        self._out, self._out_bounds, local = _unique_rows(out_words, in_batch, block.batches)
        self._target = torch.as_tensor(local[:size], device=device)
        self._negative = torch.as_tensor(local[size:].reshape(block.negatives.shape), device=device)
        self._in = torch.as_tensor(self._in, device=device)
        self._out = torch.as_tensor(self._out, device=device)
        self._batch, self._shared = batch, block.shared

    def contexts(self, i: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        """Of batch i: rows of the embeddings; (position, column, 1/|C|) of each context word; |C| of each position."""
        low, high = self._pair_bounds[i], self._pair_bounds[i + 1]
        return (
            self._in[self._in_bounds[i] : self._in_bounds[i + 1]],
            self._position[low:high],
            self._column[low:high],
            self._value[low:high].to(dtype),
            self._count[i * self._batch : (i + 1) * self._batch].to(dtype),
        )

    def outputs(self, i: int) -> tuple[torch.Tensor, ...]:
        """Of batch i: rows of the readout; the place among them of every target; and of every negative."""
        positions = slice(i * self._batch, (i + 1) * self._batch)
        return (
            self._out[self._out_bounds[i] : self._out_bounds[i + 1]],
            self._target[positions],
            self._negative[i] if self._shared else self._negative[positions],
        )


def context_pairs(block: Block, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """Every (position, context word) of positions low..high, as two int64 arrays."""
    first = block.first[low:high].astype(np.int64)
    count = block.last[low:high] - first - 1
    position = np.repeat(np.arange(low, high), count)
    place = np.arange(len(position)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    place += place >= position  # step over the target
    return position, block.tokens[place].astype(np.int64)


def _unique_rows(
    words: np.ndarray, batch: np.ndarray, batches: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct words of each batch: all of them one after another, where each batch starts, and for each given
    word its place among the distinct ones of its batch."""
    stride = int(words.max(initial=0)) + 1
    key = batch * stride + words
    order = np.argsort(key)
    key = key[order]
    is_new = np.ones(len(key), dtype=bool)
    np.not_equal(key[1:], key[:-1], out=is_new[1:])
    distinct = key[is_new]
    bounds = np.searchsorted(distinct, np.arange(batches + 1) * stride)
    place = np.empty(len(key), dtype=np.int64)
    place[order] = np.cumsum(is_new) - 1
    return distinct % stride, bounds, place - bounds[batch]


def _context_matrix(
    block: Block, low: int, high: int, like: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, U) means over the contexts of positions low..high, and the U words."""
    position, words = context_pairs(block, low, high)
    u, column = np.unique(words, return_inverse=True)
    count = (block.last - block.first - 1)[position]
    C = np.zeros((high - low, len(u)))
    np.add.at(C, (position - low, column), 1.0 / count)
    return torch.as_tensor(C, dtype=like.dtype, device=like.device), torch.as_tensor(u, device=like.device)


def largest_vocab(width: int | float, device: torch.device, itemsize: int = 4, share: float = 0.9) -> int:
    """The largest vocabulary whose two parameter matrices take at most ``share`` of the memory there is."""
    from tp4lib.base.device import available_memory

    numbers = share * available_memory(device) / (2 * itemsize)
    return int(math.sqrt(numbers)) if width == math.inf else int(numbers / width)
