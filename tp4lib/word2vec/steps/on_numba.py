"""The step of `steps.reference`, in numba: for CPUs, where torch's calls cost more than its work on small matrices.

Only the B x K scores of a batch, 2 B n K flops each way, are matrix products (`products`); contexts (about nine a
position) and targets are sums and inner products of vectors. A batch has two halves, `_forward` up to the scores and
`_backward` from them, and both treat columns independently: they go through tiles of columns that stay in a core's
cache.

Numba is optional; `available` says whether it is installed.
"""

import functools
import math
import time
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import torch

from tp4lib.base.divergence import Diverged
from tp4lib.base.jit import numba
from tp4lib.word2vec.blocks import Block
from tp4lib.word2vec.model import CBOW
from tp4lib.word2vec.settings import StepSettings
from tp4lib.word2vec.steps import caching, meeting, products
from tp4lib.word2vec.steps.on_torch import require_finite

TILE = 512  # columns worked on at a time, at most a cache line more
LEAST = 512  # numbers of hidden vectors that are worth a thread more
LARGEST = 80.0  # score whose exponential is taken: e^80 is a float32


def available(model: CBOW, batch_size: int, shared: bool) -> bool:
    """Whether this engine can run: numba, float32 or float64 parameters on the CPU, and negatives that are shared or
    batches of one position."""
    fits = model.embeddings.device.type == "cpu" and model.embeddings.dtype != torch.bfloat16
    return numba is not None and fits and (shared or batch_size == 1)


def numba_steps(model: CBOW, block: Block, settings: StepSettings, cores: int = 1) -> tuple[float, int]:
    """Train on a block; see `on_torch.torch_steps`, of which these are the numbers up to rounding.

    ``cores`` threads may share the work of each step; the bits do not depend on it.
    """
    E, R = model.embeddings.numpy(), model.readout.numpy()
    n, K, B = model.columns, block.negatives.shape[1], min(block.batch_size, max(len(block), 1))
    tile, tiles = tiling(n)
    workers = min(cores, tiles, max(B * n // LEAST, 1)) if meeting.SUPPORTED else 1
    # What all workers see, as `_all_batches` names it: H, N, S, s of each tile; G, g, keep_m, keep_t; losses.
    of_tiles = ((B * tile,), (K * tile,), (B, K), (B,))
    shared = (
        *(np.empty((tiles, *shape), E.dtype) for shape in of_tiles),
        *(np.empty(size, E.dtype) for size in (B * K, B, K, B)),
        np.empty(B),
    )
    place = meeting.place()

    def work(worker: int) -> tuple[float, int, float]:
        try:
            return _all_batches(
                (worker, workers, place), E, R, block.tokens, block.first, block.last, block.negatives, block.weight,
                block.batch_size, block.rates, settings.wd, settings.window_gradient == "sum", settings.input_rate,
                shared, tile,
            )  # fmt: skip
        except BaseException:
            meeting.leave_open(place)
            raise

    others = [_pool(workers - 1).submit(work, worker) for worker in range(1, workers)]
    try:
        loss, steps, seen = work(0)
    finally:
        wait(others)
    written = [seen, *(other.result()[2] for other in others)]  # raises what a thread has raised
    if not math.isfinite(loss):
        raise Diverged(f"the loss of step {steps} of {block.batches} is {loss:g}")
    if not all(map(math.isfinite, written)):
        require_finite(model, block)  # a sum may be too large while its numbers are finite
    return float(loss), len(block)


class Team:
    """`numba_steps` on all cores or on one, whichever is faster now: the bits are the same.

    Threads that meet twice in a step need their cores at the same time, which a busy machine does not give them.
    """

    AGAIN = 32  # blocks after which the slower way is tried again

    def __init__(self, cores: int) -> None:
        self.pace, self.blocks = dict.fromkeys((cores, 1), 0.0), 0  # seconds a position; 0 until it is tried

    def __call__(self, model: CBOW, block: Block, settings: StepSettings) -> tuple[float, int]:
        ways = sorted(self.pace, key=self.pace.get)  # the fastest first, and before it what was never tried
        self.blocks += 1
        cores, started = ways[-1 if self.blocks % self.AGAIN == 0 else 0], time.perf_counter()
        result = numba_steps(model, block, settings, cores)
        pace, before = (time.perf_counter() - started) / max(len(block), 1), self.pace[cores]
        self.pace[cores] = 0.7 * before + 0.3 * pace if before else pace  # one slow block decides nothing
        return result


def load(model: CBOW) -> None:
    """Compile the loops for a model, or read what was compiled before: training on no position changes nothing."""
    none = np.empty(0, np.int32)
    numba_steps(model, Block(none, none, none, none.reshape(0, 1), True, 1.0, 1, np.empty(0)), StepSettings())


def tiling(columns: int) -> tuple[int, int]:
    """Columns of a tile, and the number of tiles: even, of equal size, and the same for any number of cores."""
    tiles = 2 * -(-columns // (2 * TILE))
    tile = -(-columns // (16 * tiles)) * 16  # 16 float32 are a cache line: no two tiles share one
    if tile % 256 == 0:  # rows that lie a multiple of 1 KiB apart would compete for few places in the cache
        tile += 16
    return min(tile, columns), -(-columns // tile)


@functools.cache
def _pool(size: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(size, 1), thread_name_prefix="tp4-step")


# Reordering sums is allowed, which vectorizes them; NaN and infinity keep their meaning, so that divergence is seen.
_OPTIONS = dict(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz", "arcp"}, error_model="numpy")
jit = numba.njit(**_OPTIONS) if numba else lambda function: function
meet, ask_ahead = (meeting.meet, caching.ask_ahead) if numba else (None, None)
product, inner_products = (products.product, products.inner_products) if numba else (None, None)


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
def _batch(i, batch_size, tokens, first, last, negatives, rows):
    """Which positions batch i has, the span of words that their windows cover, and how many rows it touches: context
    words ``u``, negatives ``m``."""
    u, m, place_in, place_neg = rows[:4]
    low, high = i * batch_size, min((i + 1) * batch_size, len(tokens))
    left, right = first[low:high].min(), last[low:high].max()
    U = numbered(tokens[left:right], place_in, u)
    return i, low, high, left, right, U, numbered(negatives[i], place_neg, m)


@jit
def _forget(at, rows):
    """Make `_batch` ready for the next batch: only what it has numbered is set back, not an array of |V|."""
    u, m, place_in, place_neg = rows[:4]
    for x in range(at[5]):
        place_in[u[x]] = -1
    for k in range(at[6]):
        place_neg[m[k]] = -1


@jit
def _part(worker, workers, count):
    """The worker's share of ``count`` things."""
    return worker * count // workers, (worker + 1) * count // workers


@jit
def _forward(t, E, R, tokens, first, last, at, m, H, N, S, s, tile, sums):
    """In a tile of columns: hidden vectors H, and what the tile adds to the scores of negatives S and targets s."""
    _, low, high, begin, end, _, K = at
    B, left, right = high - low, t * tile, min((t + 1) * tile, E.shape[1])
    n = right - left
    h_tile, N_tile = H[t, : B * n].reshape(B, n), N[t, : K * n].reshape(K, n)
    for j in range(-caching.AHEAD, 0):  # the first rows; later ones are asked for as the loops go on
        ask_ahead(E, tokens, begin, end, j, left, right)
    # Windows overlap: the sum over a window is the difference of two running sums over the words of the batch.
    P = sums[: (end - begin + 1) * n].reshape(end - begin + 1, n)
    P[0] = 0
    for j in range(end - begin):
        ask_ahead(E, tokens, begin, end, j, left, right)
        ask_ahead(R, tokens, low, high, j - (end - begin), left, right)  # towards its end, for the next loop
        row, before, after = E[tokens[begin + j], left:right], P[j], P[j + 1]
        for c in range(n):  # columns innermost everywhere: they are next to each other, so this is vectorized
            after[c] = before[c] + row[c]
    for b in range(B):
        p, h = low + b, h_tile[b]
        ask_ahead(R, tokens, low, high, b, left, right)
        ask_ahead(R, m, 0, K, b - B, left, right)
        own, target = E[tokens[p], left:right], R[tokens[p], left:right]
        before, after = P[first[p] - begin], P[last[p] - begin]
        scale, score = E.dtype.type(1.0 / (last[p] - first[p] - 1)), E.dtype.type(0)
        for c in range(n):  # the mean over the window without its target
            h[c] = (after[c] - before[c] - own[c]) * scale
        # The target's own score needs only an inner product; it takes no part in the matrix product. Sums have loops of
        # their own: in one that also writes, their order may depend on where in memory the arrays are.
        for c in range(n):
            score += h[c] * target[c]
        s[t, b] = score
    # Gather the negatives' rows side by side, then take all B x K scores in one product.
    for k in range(K):
        ask_ahead(R, m, 0, K, k, left, right)
        N_tile[k] = R[m[k], left:right]
    inner_products(h_tile, N_tile, S[t, :B, :K])


@jit
def _scores(part, tokens, negatives, weight, rate, wd, at, rows, W, S, s, G, g, keep_m, keep_t, losses):
    """From the scores to the gradient by them, times -rate: G (B, K) and g (B,); the factors by which weight decay
    shrinks the rows of negatives and of targets; the losses (B,). All of it for this worker's share of B and K."""
    worker, workers, _ = part
    i, low, high, _, _, _, K = at
    B, real = high - low, S.dtype.type  # numbers of another type would make the compiler compute in float64
    m, place_neg, hits = rows[1], rows[3], rows[4]
    # W: how often each distinct negative was drawn; it counts as often.
    W[:K] = 0
    for k in range(negatives.shape[1]):
        W[place_neg[negatives[i, k]]] += 1
    for b in range(B):  # how many positions have each word for target
        hits[tokens[low + b]] += 1
    shrink = math.log1p(-rate * wd)  # of (1 - rate wd), which t touches take to the power t
    for k in range(*_part(worker, workers, K)):
        # A touch a position by the negative's weight, but one of 1 where it is the target.
        touched = B * weight * W[k] + hits[m[k]] * (1 - weight * W[k])
        keep_m[k] = math.exp(touched * shrink)
    for b in range(*_part(worker, workers, B)):
        own, loss, product = place_neg[tokens[low + b]], 0.0, 1.0
        for k in range(K):
            G[b, k] = S[0, b, k]
        # A score is the sum of its parts from all tiles of columns, in their order: the same on any number of cores.
        for t in range(1, S.shape[0]):
            for k in range(K):
                G[b, k] += S[t, b, k]
        for k in range(K):
            score = G[b, k]
            if k == own:  # a negative equal to the target is left out
                G[b, k] = 0
                continue
            if score > LARGEST:  # what it adds to the loss that LARGEST has: softplus is x there
                loss += weight * W[k] * (score - LARGEST)
                score = real(LARGEST)
            # sigmoid and 1 - sigmoid, both exact where they are small
            e = real(math.exp(score))
            q = 1 / (1 + e)
            G[b, k] = e * q * real(-rate * weight * W[k])
            # -sum log(1 - sigmoid) as the logarithm of a product, taken only before it underflows
            for _ in range(W[k]):
                product *= q
                if product < 1e-200:
                    loss -= weight * math.log(product)
                    product = 1.0
        loss -= weight * math.log(product)
        # Of the target: -log sigmoid(f) = log(1 + e^-f), which is -f where e^-f is too large.
        f = float(s[0, b])
        for t in range(1, S.shape[0]):
            f += s[t, b]
        if f < -LARGEST:
            loss += -LARGEST - f
            f = -LARGEST
        e = math.exp(-f)
        losses[b] = loss + math.log1p(e)
        g[b] = rate * (e / (1 + e))
    mine = _part(worker, workers, B)
    for b in range(B):  # each row decays once, by all its touches: as a negative, or at its first target
        word = tokens[low + b]
        if mine[0] <= b < mine[1]:
            keep_t[b] = math.exp(hits[word] * shrink) if place_neg[word] < 0 else 1
        hits[word] = 0  # so that later targets of the same word have the factor exp(0) = 1


@jit
def _decays(tokens, first, last, shrink, at, rows, touches, keep):
    """Factors of the words of the span: each row decays once, where it first appears, by the windows it is in."""
    _, low, high, begin, end, U, _ = at
    place_in = rows[2]
    for j in range(end - begin + 1):
        keep[j] = 0
    for p in range(low, high):  # where windows begin and end; running sums say how many a place is in
        keep[first[p] - begin] += 1
        keep[last[p] - begin] -= 1
    touches[:U] = 0
    inside = 0
    for j in range(end - begin):
        inside += int(keep[j])
        own = low <= begin + j < high  # no window holds its own target
        touches[place_in[tokens[begin + j]]] += inside - own
    for j in range(end - begin):
        x = place_in[tokens[begin + j]]
        keep[j] = math.exp(touches[x] * shrink) if touches[x] >= 0 else 1
        touches[x] = -1  # the word has decayed


@jit
def _backward(
    t, E, R, tokens, first, last, whole, input_rate, at, m, H, N, G, g, keep_m, keep_t, keep, tile, sums
):  # fmt: skip
    """In a tile of columns: the changes of all rows from their old values, then the update.

    Returns:
        the sum of all that was written: it is finite only if they all are.
    """
    _, low, high, begin, end, _, K = at
    B, real, left, right = high - low, E.dtype.type, t * tile, min((t + 1) * tile, E.shape[1])
    n, written = right - left, real(0)
    h_tile, N_tile = H[t, : B * n].reshape(B, n), N[t, : K * n].reshape(K, n)
    # Cut one buffer into the changes dN (K, n) of the negatives, dH (B, n), and differences D of the changes of words.
    dN, space = sums[: K * n].reshape(K, n), sums[K * n :]
    dH, space = space[: B * n].reshape(B, n), space[B * n :]
    D = space[: (end - begin + 1) * n].reshape(end - begin + 1, n)
    if B == 1:  # with one row, one pass does both
        dH[0] = 0
        for k in range(K):
            factor = G[0, k]
            for c in range(n):
                dH[0, c] += factor * N_tile[k, c]
                dN[k, c] = factor * h_tile[0, c]
    else:
        product(G, N_tile, dH)  # the error that reaches h
        product(G.T, h_tile, dN)  # the change of the negatives
    D[:] = 0
    for b in range(B):
        p = low + b
        row, d, enters, leaves = R[tokens[p], left:right], dH[b], D[first[p] - begin], D[last[p] - begin]
        scale, factor = real(input_rate if whole else input_rate / (last[p] - first[p] - 1)), g[b]
        for c in range(n):  # add the target's error; then each word of the window gets its share of it
            d[c] = (d[c] + factor * row[c]) * scale
            enters[c] += d[c]  # from the window's first place on
            leaves[c] -= d[c]  # up to its last one
    # All changes are known, so the rows may be written now. A word's change is the sum over the windows it is in: a
    # running sum again, without the window of which it is the target.
    for j in range(end - begin):
        row, change, kept = E[tokens[begin + j], left:right], D[j], keep[j]
        if j > 0:
            before = D[j - 1]
            for c in range(n):
                change[c] += before[c]
        if low <= begin + j < high:  # the place is itself a target, whose own window leaves it out
            d = dH[begin + j - low]
            for c in range(n):
                row[c] = kept * row[c] + (change[c] - d[c])
                written += row[c]
        else:
            for c in range(n):
                row[c] = kept * row[c] + change[c]
                written += row[c]
    for k in range(K):
        row, kept = R[m[k], left:right], keep_m[k]
        for c in range(n):
            row[c] = kept * row[c] + dN[k, c]
            written += row[c]
    for b in range(B):  # targets last: they may be negatives too, with two changes and one decay
        row, kept, factor = R[tokens[low + b], left:right], keep_t[b], g[b]
        for c in range(n):
            row[c] = kept * row[c] + factor * h_tile[b, c]
            written += row[c]
    return written


@jit
def _all_batches(
    part, E, R, tokens, first, last, negatives, weight, batch_size, rates, wd, whole, input_rate, shared, tile
):  # fmt: skip
    """Train on a block; return the sum of the losses and the steps made, of which the last one's loss may be not
    finite, and a number that is finite only if all that was written is.

    All workers run this, each on its own tiles of columns. They meet once all parts of the scores are there, and again
    once the gradient by the scores is: with G and the decays known, columns do not depend on each other.
    """
    worker, workers, place = part
    H, N, S, s, G_room, g, keep_m, keep_t, losses = shared
    K, B = negatives.shape[1], len(losses)
    most = B + 2 * (last - first).max() if len(tokens) else B  # words in the span of a batch
    rows = (
        np.empty(most, np.int32), np.empty(K, np.int32), np.full(len(E), -1, np.int32), np.full(len(E), -1, np.int32),
        np.zeros(len(E), np.int32),
    )  # fmt: skip
    W, touches, keep = np.empty(K, np.int64), np.empty(most, np.int32), np.empty(most + 1, E.dtype)
    # Each worker has its own copy of what is small, and works all of it out: cheaper than a third meeting.
    sums = np.empty((K + B + most + 1) * tile, E.dtype)
    from_tile, to_tile = _part(worker, workers, len(H))
    total = seen = 0.0
    for i in range(len(rates)):
        at = _batch(i, batch_size, tokens, first, last, negatives, rows)
        for t in range(from_tile, to_tile):
            _forward(t, E, R, tokens, first, last, at, rows[1], H, N, S, s, tile, sums)
        meet(place, workers, 2 * i + 1)  # all parts of the scores are there
        G = G_room[: (at[2] - at[1]) * at[6]].reshape(at[2] - at[1], at[6])
        _scores(
            part, tokens, negatives, weight, rates[i], wd, at, rows, W, S, s, G, g, keep_m, keep_t, losses
        )  # fmt: skip
        _decays(tokens, first, last, math.log1p(-rates[i] * input_rate * wd), at, rows, touches, keep)
        meet(place, workers, 2 * i + 2)  # G, and the losses, are whole
        for t in range(from_tile, to_tile):
            seen += _backward(
                t, E, R, tokens, first, last, whole, input_rate, at, rows[1], H, N, G, g, keep_m, keep_t, keep, tile,
                sums
            )  # fmt: skip
        _forget(at, rows)
        for b in range(at[2] - at[1]):
            total += losses[b]
        if not total < np.inf:  # NaN, too; `isfinite` subtracts, which the compiler may reorder to 0
            return total, i + 1, seen
    return total, len(rates), seen
