"""The step of `steps.reference`, in numba: for CPUs, where torch's calls cost more than its work on small matrices.

Only the B x K scores of a batch, 2 B n K flops each way, are matrix products; contexts (about nine a position) and
targets are sums and inner products of vectors. A batch has two halves, `_forward` up to the scores and `_backward`
from them, and both treat columns independently: they go through tiles of columns that stay in a core's cache.

Numba is optional; `available` says whether it is here.
"""

import contextlib
import functools
import math

import numpy as np
import torch

from tp4lib.base.divergence import Diverged
from tp4lib.base.jit import numba
from tp4lib.word2vec.blocks import Block
from tp4lib.word2vec.model import CBOW
from tp4lib.word2vec.settings import StepSettings
from tp4lib.word2vec.steps.on_torch import changed_rows

TILE = 512  # columns worked on at a time
LARGEST = 80.0  # score whose exponential is taken: e^80 is a float32


def available(model: CBOW, batch_size: int, shared: bool) -> bool:
    """Whether this engine can run: numba is here, float32 or float64 parameters on the CPU, negatives shared or one
    position a batch."""
    fits = model.embeddings.device.type == "cpu" and model.embeddings.dtype != torch.bfloat16
    return numba is not None and fits and (shared or batch_size == 1)


def numba_steps(model: CBOW, block: Block, settings: StepSettings) -> tuple[float, int]:
    """Train on a block; the same numbers as `on_torch.torch_steps` up to rounding.

    Returns:
        sum of the losses of the positions, and their number.

    Raises:
        Diverged: the loss of a step is not finite.
    """
    E, R = model.embeddings.numpy(), model.readout.numpy()
    n, K, B = model.columns, block.negatives.shape[1], min(block.batch_size, max(len(block), 1))
    tile = min(n, TILE)
    tiles = -(-n // tile)
    most = B + 2 * int((block.last - block.first).max(initial=0))
    place = np.full((2, model.vocab_size), -1, np.int32)
    rows = (np.empty(most, np.int32), np.empty(K, np.int32), *place, np.zeros(model.vocab_size, np.int32))
    H = np.empty((tiles, B * tile), E.dtype)
    S, s = np.empty((tiles, B, K), E.dtype), np.empty((tiles, B), E.dtype)
    room = np.empty((2 * K + B + most) * tile, E.dtype), np.empty(most, np.int32)
    with single_blas():
        loss, steps = _all_batches(
            E, R, block.tokens, block.first, block.last, block.negatives, block.weight, block.batch_size, block.rates,
            settings.wd, settings.window_gradient == "sum", settings.input_rate, rows, H, S, s, tile, room,
        )  # fmt: skip
    if not math.isfinite(loss):
        raise Diverged(f"the loss of step {steps} of {block.batches} is {loss:g}")
    return float(loss), len(block)


def require_finite_rows(model: CBOW, block: Block) -> None:
    """`on_torch.require_finite`, at a twentieth of the time of a step."""
    for name, rows in changed_rows(model, block).items():
        matrix = getattr(model, name).numpy()
        while (suspect := _not_finite(matrix, rows)) >= 0:
            if not np.isfinite(matrix[rows[suspect]]).all():
                raise Diverged(f"the {name} are no longer finite")
            rows = rows[suspect + 1 :]  # its sum alone is too large


@functools.cache
def _blas():
    import scipy.linalg.cython_blas  # noqa: F401  (numba calls its library, and loads it only when it compiles)
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


def single_blas():
    """A context in which each product runs on the thread that asks for it; threads are given whole tasks instead.

    Some libraries count threads per process, and then only the first of several callers sets their number; others count
    per thread. Enter it before threads start, and in each of them.
    """
    try:
        return _blas().limit(limits=1)
    except ImportError:  # pragma: no cover - then OPENBLAS_NUM_THREADS=1 does the same
        return contextlib.nullcontext()


# Reordering sums is allowed; NaN and infinity keep their meaning, so that divergence is seen.
_OPTIONS = dict(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz", "arcp"}, error_model="numpy")
jit = numba.njit(**_OPTIONS) if numba else lambda function: function


@jit
def numbered(words, place, found):
    """Number the distinct ``words`` from 0 in order of appearance: ``place[word]``; list them in ``found``."""
    count = 0
    for i in range(len(words)):
        if place[words[i]] < 0:
            place[words[i]] = count
            found[count] = words[i]
            count += 1
    return count


@jit
def sigmoids(S, q):
    """Replace scores by their sigmoids, and put ``1 - sigmoid`` in ``q``; both are exact where they are small.

    Scores above `LARGEST`, whose exponential float32 could not hold, count as `LARGEST`; returns whether there are any.
    """
    beyond = False
    for i in range(S.shape[0]):
        for j in range(S.shape[1]):
            s = S[i, j]
            if s > LARGEST:
                s = S.dtype.type(LARGEST)
                beyond = True
            e = S.dtype.type(math.exp(s))
            q[i, j] = 1 / (1 + e)
            S[i, j] = e * q[i, j]
    return beyond


@jit
def _loss_beyond(tokens, low, place_neg, W, S):
    """What scores (tiles, B, K) above `LARGEST` add to the loss that they have at `LARGEST`: softplus is x there."""
    loss = 0.0
    for b in range(S.shape[1]):
        for k in range(S.shape[2]):
            s = 0.0
            for t in range(S.shape[0]):
                s += S[t, b, k]
            if s > LARGEST and k != place_neg[tokens[low + b]]:
                loss += W[k] * (s - LARGEST)
    return loss


@jit
def _not_finite(matrix, rows):
    """The place in ``rows`` of the first row whose sum is not finite, or -1."""
    for i in range(len(rows)):
        row, total = matrix[rows[i]], matrix.dtype.type(0)
        for c in range(len(row)):
            total += row[c]
        if not abs(total) < np.inf:
            return i
    return -1


@jit
def _batch(i, batch_size, tokens, first, last, negatives, rows):
    """Which positions batch i has, and how many rows it touches: context words ``u``, negatives ``m``."""
    u, m, place_in, place_neg, _ = rows
    low, high = i * batch_size, min((i + 1) * batch_size, len(tokens))
    U = numbered(tokens[first[low:high].min() : last[low:high].max()], place_in, u)
    return i, low, high, U, numbered(negatives[i], place_neg, m)


@jit
def _forget(at, rows):
    """Make `_batch` ready for the next batch."""
    u, m, place_in, place_neg, _ = rows
    for x in range(at[3]):
        place_in[u[x]] = -1
    for k in range(at[4]):
        place_neg[m[k]] = -1


@jit
def _forward(E, R, tokens, first, last, at, rows, H, S, s, tile, buffers):
    """In each tile of columns: hidden vectors H, and what the tile adds to the scores of negatives S and targets s."""
    _, low, high, _, K = at
    B, m = high - low, rows[1]
    for t in range(len(H)):
        left, right = t * tile, min((t + 1) * tile, E.shape[1])
        n = right - left
        h_tile, N = H[t, : B * n].reshape(B, n), buffers[0][: K * n].reshape(K, n)
        for b in range(B):
            # h = mean of the embeddings of the context, added up word by word: a window is short.
            p, h = low + b, h_tile[b]
            h[:] = 0
            for j in range(first[p], last[p]):
                if j != p:
                    row = E[tokens[j], left:right]
                    for c in range(n):
                        h[c] += row[c]
            row, scale, score = (
                R[tokens[p], left:right],
                E.dtype.type(1.0 / (last[p] - first[p] - 1)),
                E.dtype.type(0),
            )
            # The target's own score needs only an inner product; it takes no part in the matrix product.
            for c in range(n):
                h[c] *= scale
                score += h[c] * row[c]
            s[t, b] = score
        if B == 1:  # a product with one row: loops cost less than a call of BLAS
            for k in range(K):
                row, score = R[m[k], left:right], E.dtype.type(0)
                for c in range(n):
                    score += h_tile[0, c] * row[c]
                S[t, 0, k] = score
        else:
            # Gather the negatives' rows side by side, then take all B x K scores in one product.
            for k in range(K):
                N[k] = R[m[k], left:right]
            S[t, :B, :K] = np.dot(h_tile, N.T)


@jit
def _scores(tokens, negatives, weight, rate, wd, at, rows, S, s):
    """From the scores to the gradient by them, times -rate: G (B, K) and g (B,); the
    factors by which weight decay shrinks the rows of negatives and of targets; the loss."""
    i, low, high, _, K = at
    B, real = high - low, S.dtype.type
    _, _, _, place_neg, hits = rows
    # W: weight of each distinct negative; one that was drawn twice counts twice.
    W, touched = np.zeros(K), np.zeros(K)
    for k in range(negatives.shape[1]):
        W[place_neg[negatives[i, k]]] += weight
    G, g, q = S[0, :B, :K].copy(), s[0, :B].copy(), np.empty((B, K), S.dtype)
    for t in range(1, S.shape[0]):  # a score is the sum of its parts from all tiles of columns
        G += S[t, :B, :K]
        g += s[t, :B]
    loss = _loss_beyond(tokens, low, place_neg, W, S[:, :B, :K]) if sigmoids(G, q) else 0.0
    touched[:] = B * W
    for b in range(B):
        # Of the target: -log sigmoid(f) = log(1 + e^-f), which is -f where e^-f is too large.
        f = float(g[b])
        if f < -LARGEST:
            loss += -LARGEST - f
            f = -LARGEST
        e = math.exp(-f)
        loss += math.log1p(e)
        g[b] = rate * (e / (1 + e))
        hits[tokens[low + b]] += 1
        k = place_neg[tokens[low + b]]
        if k >= 0:  # a negative equal to the target is left out
            G[b, k] = 0
            q[b, k] = 1
            touched[k] += 1 - W[k]
    for k in range(K):
        # -sum_b log(1 - sigmoid(S)) as the logarithm of a product, taken only before it underflows.
        product, logs, factor = 1.0, 0.0, real(-rate * W[k])
        for b in range(B):
            G[b, k] *= factor
            product *= q[b, k]
            if product < 1e-200:
                logs += math.log(product)
                product = 1.0
        loss -= W[k] * (logs + math.log(product))
    shrink = math.log1p(-rate * wd)
    keep_t = np.ones(
        B, S.dtype
    )  # each row decays once, by all its touches: as a negative, or at its first target
    for b in range(B):
        if place_neg[tokens[low + b]] < 0:
            keep_t[b] = math.exp(hits[tokens[low + b]] * shrink)
        hits[tokens[low + b]] = 0
    return G, g, np.exp(touched * shrink).astype(S.dtype), keep_t, loss


@jit
def _backward(
    E, R, tokens, first, last, rate, wd, whole, input_rate, at, rows, H, G, g, keep_m, keep_t, tile, buffers
):  # fmt: skip
    """In each tile of columns: the changes of all rows from their old values, then the update."""
    _, low, high, U, K = at
    B, real = high - low, E.dtype.type
    u, m, place_in = rows[:3]
    touches = buffers[1]
    shrink = math.log1p(-rate * input_rate * wd)
    for t in range(len(H)):
        left, right = t * tile, min((t + 1) * tile, E.shape[1])
        n = right - left
        # Cut one buffer into N (K, n) old rows of negatives, and the changes dN (K, n), dH (B, n), dE (U, n).
        space = buffers[0]
        N, space = space[: K * n].reshape(K, n), space[K * n :]
        dN, space = space[: K * n].reshape(K, n), space[K * n :]
        dH, space = space[: B * n].reshape(B, n), space[B * n :]
        dE, h_tile = space[: U * n].reshape(U, n), H[t, : B * n].reshape(B, n)
        if B == 1:
            dH[0] = 0
            for k in range(K):
                row, factor = R[m[k], left:right], G[0, k]
                for c in range(n):
                    dH[0, c] += factor * row[c]
                    dN[k, c] = factor * h_tile[0, c]
        else:
            # dH = G N: the error that reaches h; dN = G^T h: the change of the negatives.
            for k in range(K):
                N[k] = R[m[k], left:right]
            np.dot(G, N, dH)
            np.dot(G.T, h_tile, dN)
        dE[:] = 0
        touches[:U] = 0
        for b in range(B):
            p = low + b
            row, d = R[tokens[p], left:right], dH[b]
            scale = real(input_rate if whole else input_rate / (last[p] - first[p] - 1))
            for c in range(n):  # add the target's error; then each context word's share of it
                d[c] = (d[c] + g[b] * row[c]) * scale
            for j in range(first[p], last[p]):
                if j != p:
                    x = place_in[tokens[j]]
                    touches[x] += 1
                    change = dE[x]
                    for c in range(n):
                        change[c] += d[c]
        # All changes are known, so the rows may be written now: first they decay, once for each touch.
        for x in range(U):
            row, keep = E[u[x], left:right], real(math.exp(touches[x] * shrink))
            for c in range(n):
                row[c] = keep * row[c] + dE[x, c]
        for k in range(K):
            row, keep = R[m[k], left:right], keep_m[k]
            for c in range(n):
                row[c] = keep * row[c] + dN[k, c]
        for b in range(B):
            row, keep, factor = R[tokens[low + b], left:right], keep_t[b], g[b]
            for c in range(n):
                row[c] = keep * row[c] + factor * h_tile[b, c]


@jit
def _all_batches(
    E, R, tokens, first, last, negatives, weight, batch_size, rates, wd, whole, input_rate, rows, H, S, s,
    tile, buffers
):  # fmt: skip
    """Train on a block; return the sum of the losses and the steps made: the last one's loss may be not finite."""
    total = 0.0
    for i in range(len(rates)):
        at = _batch(i, batch_size, tokens, first, last, negatives, rows)
        _forward(E, R, tokens, first, last, at, rows, H, S, s, tile, buffers)
        G, g, keep_m, keep_t, loss = _scores(tokens, negatives, weight, rates[i], wd, at, rows, S, s)
        _backward(
            E, R, tokens, first, last, rates[i], wd, whole, input_rate, at, rows, H, G, g, keep_m, keep_t,
            tile, buffers
        )  # fmt: skip
        _forget(at, rows)
        total += loss
        if not total < np.inf:  # NaN, too; `isfinite` subtracts, which the compiler may reorder to 0
            return total, i + 1
    return total, len(rates)
