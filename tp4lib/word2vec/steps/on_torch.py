"""The step of `steps.reference` in torch: every device, dtype and batch size, and ranks that share columns.

Only the rows that a batch touches are read and written; `_Plan` finds them for a whole block at once.
"""

import math

import numpy as np
import torch
from torch import Tensor

from tp4lib.base.divergence import Diverged
from tp4lib.word2vec.blocks import Block, context_pairs
from tp4lib.word2vec.model import CBOW
from tp4lib.word2vec.settings import StepSettings


def torch_steps(model: CBOW, block: Block, settings: StepSettings) -> tuple[float, int]:
    """Train on a block, one SGD step a batch, with matrix products on the rows that the batch touches.

    Returns the sum of the losses of the positions, and their number; raises Diverged where a loss is not finite.
    """
    device, stored = model.embeddings.device, model.embeddings.dtype
    dtype = torch.float32 if stored == torch.bfloat16 else stored  # of the arithmetic
    generator = torch.Generator(device).manual_seed(block.seed) if stored == torch.bfloat16 else None
    plan = _Plan(block, device)
    losses = torch.zeros(block.batches, dtype=torch.float64, device=device)
    for i in range(block.batches):
        rate = float(block.rates[i])
        u, C, count, touches_in = plan.contexts(i, dtype)
        m, target, W = plan.outputs(i, block.weight, dtype)
        rows = torch.arange(len(target), device=device)
        E, R = model.embeddings[u].to(dtype), model.readout[m].to(dtype)
        # What a context word receives of the error: 1/|C| of it ("mean"), or all of it ("sum").
        spread = C * settings.input_rate
        if settings.window_gradient == "sum":
            spread *= count[:, None]
        # C E R^T by way of (U, M) or of (B, n) numbers, whichever are fewer; the sums over ranks are of S alone.
        through_rows = len(m) < model.columns
        S = model.shards.sum(C @ (E @ R.T) if through_rows else (C @ E) @ R.T)
        p = torch.sigmoid(S)
        losses[i] += (W * torch.nn.functional.softplus(S)).sum(dtype=torch.float64)
        losses[i] += torch.nn.functional.softplus(-S[rows, target]).sum(dtype=torch.float64)
        # G = rate (Y (1 - p) - W p); W is 0 at the targets, whose entries are set one by one.
        G = W.mul(p).neg_()  # (B, M)
        G[rows, target] = 1.0 - p[rows, target]
        G *= rate
        W[rows, target] = 1.0  # from here on: how often each position touches each row of the readout
        # t touches shrink a row by (1 - rate wd)^t, taken as exp(t log(1 - rate wd)) for all rows at once.
        shrink_in, shrink_out = (math.log1p(-rate * x * settings.wd) for x in (settings.input_rate, 1.0))
        # Both changes are taken before either matrix is written.
        if through_rows:
            dE, dR = (spread.T @ G) @ R, (G.T @ C) @ E
        else:
            dE, dR = spread.T @ (G @ R), G.T @ (C @ E)
        E.mul_(torch.exp(touches_in * shrink_in)[:, None]).add_(dE)
        R.mul_(torch.exp(W.sum(0) * shrink_out)[:, None]).add_(dR)
        if generator is not None:
            E, R = rounded(E, generator), rounded(R, generator)
        model.embeddings[u], model.readout[m] = E, R
    loss = float(losses.sum())  # waits for the device, once a block
    if not math.isfinite(loss):
        first = int(torch.isfinite(losses).logical_not().nonzero()[0])
        raise Diverged(f"the loss of step {first + 1} of {block.batches} is {losses[first]:g}")
    return loss, len(block)


def require_finite(model: CBOW, block: Block) -> None:
    """Look at the rows that training on a block has changed: scores may hide what has overflowed.

    Raises:
        Diverged: one of them is not finite, on some rank.
    """
    touched = np.zeros((2, model.vocab_size), dtype=bool)
    touched[:, block.tokens] = True  # every target is a context word of its neighbour, too
    touched[1, block.negatives.ravel()] = True
    for name, words in zip(("embeddings", "readout"), touched):
        matrix = getattr(model, name)
        parts = torch.from_numpy(np.flatnonzero(words)).to(matrix.device).split(256)
        if model.shards.any(not all(torch.isfinite(matrix[part]).all() for part in parts)):
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
        rows_in, self._in_bounds, local = _unique_rows(words, in_batch, block.batches)
        self._in, self._pair_bounds = torch.as_tensor(rows_in, device=device), bounds
        self._position = torch.as_tensor(position % batch, device=device)
        self._column = torch.as_tensor(local, device=device)
        count = (block.last - block.first - 1).astype(np.float64)
        self._count = torch.as_tensor(count, device=device)
        self._value = (1.0 / self._count)[torch.as_tensor(position, device=device)]
        # Targets and negatives share the numbering of the readout's rows, so that equal words are one row.
        each = block.negatives.shape[1] * (1 if block.shared else batch)  # negatives of a batch
        in_batch = np.concatenate([np.arange(size) // batch, np.arange(block.negatives.size) // each])
        out_words = np.concatenate([block.tokens, block.negatives.ravel()]).astype(np.int64)
        rows_out, self._out_bounds, local = _unique_rows(out_words, in_batch, block.batches)
        self._out = torch.as_tensor(rows_out, device=device)
        self._target = torch.as_tensor(local[:size], device=device)
        self._negative = torch.as_tensor(local[size:].reshape(block.negatives.shape), device=device)
        self._batch, self._shared = batch, block.shared

    def contexts(self, i: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of batch i: the U context words, the (B, U) means C over contexts, |C| (B,), touches of each word (U,)."""
        words = self._in[self._in_bounds[i] : self._in_bounds[i + 1]]
        count = self._count[i * self._batch : (i + 1) * self._batch].to(dtype)
        pairs = slice(self._pair_bounds[i], self._pair_bounds[i + 1])
        row, column, value = self._position[pairs], self._column[pairs], self._value[pairs].to(dtype)
        C = torch.zeros(len(count) * len(words), dtype=dtype, device=value.device)
        # A word that a window holds twice counts twice.
        C = C.index_add_(0, row * len(words) + column, value).view(len(count), len(words))
        touches = torch.zeros(len(words), dtype=dtype, device=value.device)
        return words, C, count, touches.index_add_(0, column, torch.ones_like(value))

    def outputs(self, i: int, weight: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Of batch i: the M targets and negatives, the column of each target (B,), the weights W (B, M) of negatives.

        A negative equal to the target is left out.
        """
        positions = slice(i * self._batch, (i + 1) * self._batch)
        words = self._out[self._out_bounds[i] : self._out_bounds[i + 1]]
        target = self._target[positions]
        size, rows = len(target), torch.arange(len(target), device=target.device)
        if self._shared:  # one row of weights, the same for every position
            at, height = self._negative[i], 1
        else:
            at = (rows[:, None] * len(words) + self._negative[positions].view(size, -1)).flatten()
            height = size
        W = torch.zeros(height * len(words), dtype=dtype, device=target.device)
        # A negative that was drawn twice has twice the weight.
        W = W.index_add_(0, at, torch.full(at.shape, weight, dtype=dtype, device=target.device))
        W = W.repeat(size, 1) if self._shared else W.view(size, len(words))
        W[rows, target] = 0.0
        return words, target, W


def _unique_rows(
    words: np.ndarray, batch: np.ndarray, batches: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct words of each batch: all of them one after another, where each batch starts, and for each given
    word its place among the distinct ones of its batch."""
    stride = int(words.max(initial=0)) + 1
    key = batch * stride + words  # one sort does for all batches
    order = np.argsort(key)
    key = key[order]
    is_new = np.ones(len(key), dtype=bool)
    np.not_equal(key[1:], key[:-1], out=is_new[1:])
    distinct = key[is_new]
    bounds = np.searchsorted(distinct, np.arange(batches + 1) * stride)
    place = np.empty(len(key), dtype=np.int64)
    place[order] = np.cumsum(is_new) - 1  # among the distinct words of all batches
    return distinct % stride, bounds, place - bounds[batch]
