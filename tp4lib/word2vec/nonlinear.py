"""Nonlinear Word2Vec at infinite width: CBOW with a hidden nonlinearity, in the pi-limit. For small vocabularies."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tp4lib.activations import ActivationLike
from tp4lib.base.checks import whole
from tp4lib.base.divergence import require_stable
from tp4lib.base.errors import InputError
from tp4lib.pi_limit.network import PiMLP
from tp4lib.word2vec.blocks import Block, Sampler, context_pairs
from tp4lib.word2vec.corpus import Vocabulary


class PiCBOW:
    r"""CBOW whose hidden layer is infinitely wide and nonlinear, in the rank-r pi-limit.

        g = mean_{c in C} u_c,     f_m = sum_i A_im K(B_i, g),     u_c in R^r

    with embeddings u_c, the columns of `PiMLP.U`, and a readout of rows: a position that is trained on appends its g as
    B and the errors of *all* words as A. So a step costs (rows) x (positions) x (r + |V|) multiplications, where the
    linear network (`tp4lib.word2vec.model`), whose readout is one matrix, costs (words touched) x (positions) x r.
    ``max_rows`` bounds the rows by compression. With ``activation="identity"`` this is the linear network at rank r.

    Because every word's score is at hand, negatives are not sampled: the loss of a position with target w is the mean
    of Word2Vec's over draws of the negatives, ``softplus(-f_w) + k sum_{m != w} q_m softplus(f_m)``.

    Source: Yang & Hu 2021, section 9.1 (CBOW in the limit); Yang, Santacroce & Hu 2022, section 3 (pi-limits).

    Args:
        vocab: for its size, and its counts, which give q in proportion to count^0.75.
        rank: r. negatives: k. max_rows: of the readout.
        seed: of the start: embeddings are orthonormal where r >= |V|, as in the linear limit, and nearly so elsewhere.

    Example:
        >>> vocab = Vocabulary(words=["a", "b", "c"], counts=np.array([3, 2, 1]))
        >>> model = PiCBOW(vocab, rank=4)
        >>> model.embeddings.shape, model.logits(torch.eye(3)).shape
        (torch.Size([3, 4]), torch.Size([3, 3]))
    """

    def __init__(
        self,
        vocab: Vocabulary,
        rank: int,
        activation: ActivationLike = "relu",
        *,
        negatives: int = 25,
        max_rows: int | None = 4000,
        seed: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        size, negatives = len(vocab), whole("negatives", negatives, example=25)
        self._untrained = (1 + negatives) * math.log(2)  # loss of a position whose scores are 0
        self.network = PiMLP(
            size, size, rank, 1, activation, max_rows=max_rows, seed=seed, device=device, dtype=dtype
        )
        odds = torch.from_numpy(vocab.counts**0.75)
        self._weights = (negatives * odds / odds.sum()).to(self.network.U)

    @property
    def embeddings(self) -> Tensor:
        """u_c, ``(|V|, r)``."""
        return self.network.U.detach().T

    @torch.no_grad()
    def logits(self, context: Tensor) -> Tensor:
        """Scores of all words: ``(P, |V|)`` means over contexts -> ``(P, |V|)``."""
        return self.network(context)

    def loss(self, f: Tensor, target: Tensor) -> Tensor:
        """The loss summed over positions: scores ``(P, |V|)``, targets ``(P,)``."""
        hit = f.gather(1, target[:, None])
        every = torch.nn.functional.softplus(f) @ self._weights
        own = torch.nn.functional.softplus(hit)[:, 0] * self._weights[target]
        return (torch.nn.functional.softplus(-hit)[:, 0] + every - own).sum()

    def train(self, sampler: Sampler, report: Callable[[int], object] = lambda _: None) -> list[float]:
        """Train on every block of every epoch; returns the mean loss of each block. ``report`` gets positions done."""
        losses = []
        for epoch in range(sampler.epochs):
            for number in range(sampler.blocks):
                block, total = sampler.block(epoch, number), 0.0
                for rate, low in zip(block.rates, range(0, len(block), block.batch_size), strict=True):
                    high = min(low + block.batch_size, len(block))
                    context, target = contexts(block, low, high, self.network.U)
                    total += float(self.network.loss_step(context, target, float(rate), loss=self.loss))
                    report(len(target))
                if len(block) == 0:
                    continue
                losses.append(total / len(block))
                place = f"epoch {epoch + 1}, in block {number + 1} of {sampler.blocks}"
                advice = f"the rate there was {block.rates[-1]:.3g}; try a smaller lr"
                require_stable(place, losses[-1], self._untrained, advice)
        if not losses:
            raise InputError(
                f"subsampling at {sampler.subsample:g} left no position to train on; expected a longer text or a "
                "higher threshold; try subsample=0"
            )
        return losses

    @torch.no_grad()
    def mean_loss(self, block: Block) -> float:
        """Mean loss of a block's positions, without training."""
        if len(block) == 0:
            raise InputError(
                "a block without positions; expected at least one; try subsample=0, or a longer text"
            )
        context, target = contexts(block, 0, len(block), self.network.U)
        return float(self.loss(self.logits(context), target)) / len(block)


def contexts(block: Block, low: int, high: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Positions low..high: means over their contexts ``(P, |V|)``, |V| being columns of ``like``; targets ``(P,)``."""
    position, words = context_pairs(block, low, high)
    count = (block.last - block.first - 1)[position]
    matrix = torch.zeros(high - low, like.shape[1], dtype=like.dtype, device=like.device)
    index = (torch.from_numpy(position - low), torch.from_numpy(words))
    values = torch.from_numpy(1.0 / count).to(like)
    matrix.index_put_(tuple(part.to(like.device) for part in index), values, accumulate=True)
    return matrix, torch.from_numpy(block.tokens[low:high].astype(np.int64)).to(like.device)
