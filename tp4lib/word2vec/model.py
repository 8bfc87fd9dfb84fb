"""CBOW at width n or at width infinity.

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

import numpy as np
import torch

from tp4lib.base import checks
from tp4lib.base import device as devices
from tp4lib.base.checks import whole
from tp4lib.base.device import require_memory, resolve
from tp4lib.base.errors import InputError
from tp4lib.word2vec.blocks import Block, context_pairs
from tp4lib.word2vec.shards import ALONE, Shards

DTYPES = (torch.float32, torch.float64, torch.bfloat16)
WIDEST = 10**9


def parse_width(width: int | float | str) -> int | float:
    """Read a width: a positive integer, or infinity as ``math.inf`` or ``"inf"``.

    >>> parse_width("inf"), parse_width("64")
    (inf, 64)
    """
    text = str(width).strip().lower()
    if text in ("inf", "infinity"):
        return math.inf
    digits = isinstance(width, str) and text.isascii() and text.isdigit() and len(text) < 20
    try:
        return whole("width", int(text) if digits else width, most=WIDEST)
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
        width: n, or ``math.inf`` (or "inf") for the limit. seed: for the random start of a finite width.
        dtype: torch.float32 or torch.float64; or torch.bfloat16, which is computed with in float32 and rounded to
            stochastically (`rounded`): half the memory, and half the bytes to move.
        shards: the ranks that share the columns; the model holds those of this rank. An attribute, too.

    Attributes:
        embeddings: (|V|, columns) tensor; row c is ``u_c``, at width infinity its coefficients.
        readout: (|V|, columns) tensor; row m is ``v_m``.
        width: n or ``math.inf``; ``rank`` columns where a start was handed in.

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
        self.width, self.shards = parse_width(width), shards
        vocab_size, seed = whole("vocab_size", vocab_size), checks.seed(seed)
        if dtype not in DTYPES:
            raise InputError(
                f"dtype {dtype}; expected float32, float64 or bfloat16 of torch; try dtype=torch.float32"
            )
        device = resolve(device)
        n = columns_of(vocab_size, self.width)
        own = shards.columns(n)
        columns, size = own.stop - own.start, torch.finfo(dtype).bits // 8
        # The largest vocabulary whose two matrices take 0.9 of the memory there is.
        numbers = 0.9 * devices.available_memory(device) / (2 * size)
        fits = int(math.sqrt(numbers) if self.width == math.inf else numbers / n)
        what = f"width {self.width} with {vocab_size} words"
        require_memory(2 * vocab_size * columns * size, device, what, f"try --max-vocab {fits}")
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
        shapes = [tuple(x.shape) for x in (embeddings, readout) if x is not None]
        if embeddings.dim() != 2 or len(set(shapes)) > 1:
            raise InputError(
                f"a start needs two matrices of one shape (|V|, columns), not {' and '.join(map(str, shapes))}; give "
                "both the same shape"
            )
        for name, start in (("embeddings", embeddings), ("readout", readout)):
            setattr(model, name, _matrix(*embeddings.shape, embeddings.dtype, embeddings.device))
            if start is not None:
                getattr(model, name).copy_(start.detach())
        model.width, model.shards = model.columns, ALONE
        return model

    @property
    def vocab_size(self) -> int:
        return self.embeddings.shape[0]

    @property
    def columns(self) -> int:
        return self.embeddings.shape[1]

    def logits(self, block: Block) -> torch.Tensor:
        """Scores ``f_m = h . v_m`` of all words at every position of a block: (P, |V|)."""
        position, context_words = context_pairs(block, 0, len(block))
        u, column = np.unique(context_words, return_inverse=True)
        C = np.zeros((len(block), len(u)))  # means over contexts
        np.add.at(C, (position, column), 1.0 / (block.last - block.first - 1)[position])
        context = torch.as_tensor(C, dtype=self.embeddings.dtype, device=self.embeddings.device)
        u = torch.as_tensor(u, device=self.embeddings.device)
        return context @ (self.embeddings[u] @ self.readout.T)


def _matrix(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros; on a GPU rows start at multiples of 128 bytes, so that a piece of a row touches no line too many.

    What lies between rows is zero, and is to stay so: an engine may read it as columns of zeros.
    """
    line = 128 // dtype.itemsize if device.type == "cuda" else 1
    return torch.zeros(rows, -(-columns // line) * line, dtype=dtype, device=device)[:, :columns]
