"""The kernel limits of Word2Vec, which learn no embeddings: GP and NTK.

In the GP limit only the readout is trained. In the NTK limit every embedding moves, but by a part n^{-1/2} of its
size, so that the embedding of the limit is the random start (paper, section 9.1: both score 0 on word analogies).
"""

import math

import torch

from tp4lib.base.checks import seed as seed_of
from tp4lib.base.checks import whole
from tp4lib.word2vec.model import CBOW


def kernel_limit_embeddings(
    vocab_size: int, columns: int = 1024, seed: int = 0, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Embeddings of the GP and NTK limits, seen through ``columns`` of their infinitely many coordinates.

    They are what they were at the start, independent standard Gaussians, whatever the text says. Their cosine
    similarities are N(0, 1/columns) noise around 0, so an analogy is answered by chance.

    >>> kernel_limit_embeddings(5, 7).shape
    torch.Size([5, 7])
    """
    vocab_size, columns = whole("vocab_size", vocab_size), whole("columns", columns, example=1024)
    generator = torch.Generator().manual_seed(seed_of(seed))
    return torch.randn(vocab_size, columns, generator=generator, dtype=dtype)


def ntk_start(
    vocab_size: int, width: int, seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[CBOW, float]:
    """A finite network in the NTK parametrization, to be trained by `train` with ``start=`` and ``input_rate=``.

    The paper's ``f = n^{-1/2} sum_i w^2_i w^1_i`` with standard Gaussian ``w^1``, ``w^2`` and one rate is, with
    ``u = n^{-1/2} w^1`` and ``v = w^2``, a `CBOW` whose embeddings have 1/n of the rate of the readout.

    Returns the model at its start, and ``input_rate = 1/n``.
    """
    vocab_size, width = whole("vocab_size", vocab_size), whole("width", width)
    generator = torch.Generator().manual_seed(seed_of(seed))
    embeddings = torch.randn(vocab_size, width, generator=generator, dtype=dtype) / math.sqrt(width)
    readout = torch.randn(vocab_size, width, generator=generator, dtype=dtype)
    return CBOW.from_start(embeddings, readout), 1.0 / width
