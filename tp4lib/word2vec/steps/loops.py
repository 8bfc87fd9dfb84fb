"""The loops of the numba step, compiled: a block's batches, each in two halves with the scores between them.

Columns are treated independently but for the scores. So both halves go through tiles of columns, and in a tile from row
to row, a cache line at a time (`lines`).
"""

import math

import numpy as np

from tp4lib.base.jit import numba
from tp4lib.word2vec.steps import caching, lines, meeting, products

LARGEST = 80.0  # score whose exponential is taken: e^80 is a float32

# Reordering sums is allowed, which vectorizes them; NaN and infinity keep their meaning, so that divergence is seen.
_OPTIONS = dict(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz", "arcp"}, error_model="numpy")
jit = numba.njit(**_OPTIONS) if numba else lambda function: function
inlined = numba.njit(**_OPTIONS, forceinline=True) if numba else lambda function: function
if numba:
    load, store, spread, total, size = lines.load, lines.store, lines.spread, lines.total, lines.size
    meet, ask_ahead = meeting.meet, caching.ask_ahead
    product, inner_products = products.product, products.inner_products


def _over_columns(body):
    """A loop over the first n columns of rows, a line at a time, and the rest of them: ``body(column, None or how many
    are left, sum so far, *rows)`` returns the sum that is carried on."""

    @inlined
    def row(n, seen, *rows):
        line = size(rows[0])
        for c in range(0, n - line + 1, line):
            seen = body(c, None, seen, *rows)
        if n % line:
            seen = body(n // line * line, n % line, seen, *rows)
        return seen

    return row


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


@_over_columns
@inlined
def _add(c, count, seen, P, j, E, word, left):
    """``P[j + 1] = P[j] + E[word]``."""
    store(load(P, j, c, None) + load(E, word, left + c, count), P, j + 1, c, None)
    return seen


@_over_columns
@inlined
def _mean(c, count, seen, P, enters, leaves, E, R, word, left, scale, H, b):
    """``H[b]``, the mean over a window without its target; and its inner product with the target's row of R."""
    h = (load(P, leaves, c, None) - load(P, enters, c, None) - load(E, word, left + c, count)) * spread(scale)
    store(h, H, b, c, None)
    return seen + h * load(R, word, left + c, count)


@_over_columns
@inlined
def _copy(c, count, seen, N, k, R, word, left):
    """``N[k] = R[word]``."""
    store(load(R, word, left + c, count), N, k, c, None)
    return seen


@jit
def _forward(t, E, R, tokens, first, last, at, m, H, N, S, s, tile, P):
    """In a tile of columns: hidden vectors H, and what the tile adds to the scores of negatives S and targets s."""
    _, low, high, begin, end, _, K = at
    B, left, right = high - low, t * tile, min((t + 1) * tile, E.shape[1])
    n, zero, h_tile, N_tile = right - left, spread(E.dtype.type(0)), H[t], N[t]
    for j in range(-caching.AHEAD, 0):  # the first rows; later ones are asked for as the loops go on
        ask_ahead(E, tokens, begin, end, j, left, right)
    # Windows overlap: the sum over a window is the difference of two running sums over the words of the batch.
    P[0] = 0
    for j in range(end - begin):
        ask_ahead(E, tokens, begin, end, j, left, right)
        ask_ahead(R, tokens, low, high, j - (end - begin), left, right)  # towards its end, for the next loop
        _add(n, zero, P, j, E, tokens[begin + j], left)
    for b in range(B):
        p = low + b
        ask_ahead(R, tokens, low, high, b, left, right)
        ask_ahead(R, m, 0, K, b - B, left, right)
        enters, leaves = first[p] - begin, last[p] - begin
        scale = E.dtype.type(1.0 / (leaves - enters - 1))
        # The target's own score needs only an inner product; it takes no part in the matrix product.
        s[t, b] = total(_mean(n, zero, P, enters, leaves, E, R, tokens[p], left, scale, h_tile, b))
    # Gather the negatives' rows side by side, then take all B x K scores in one product.
    for k in range(K):
        ask_ahead(R, m, 0, K, k, left, right)
        _copy(n, zero, N_tile, k, R, m[k], left)
    inner_products(h_tile, N_tile, n, S[t, :B, :K])


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


@_over_columns
@inlined
def _share(c, count, seen, D, enters, leaves, dH, b, R, word, left, factor, scale):
    """``d = (dH[b] + factor R[word]) scale``, kept in dH; it enters the differences D at a place, and leaves at one."""
    d = (load(dH, b, c, None) + spread(factor) * load(R, word, left + c, count)) * spread(scale)
    store(d, dH, b, c, None)
    store(load(D, enters, c, None) + d, D, enters, c, None)
    store(load(D, leaves, c, None) - d, D, leaves, c, None)
    return seen


@inlined
def _next(c, D, j):
    """The running sum of differences, ``D[j + 1] += D[j]``."""
    change = load(D, j + 1, c, None) + load(D, j, c, None)
    store(change, D, j + 1, c, None)
    return change


@_over_columns
@inlined
def _change_word(c, count, seen, E, word, left, kept, D, j):
    """``E[word] = kept E[word] + D[j + 1]``, the sum of what the windows share that place j is in."""
    row = spread(kept) * load(E, word, left + c, count) + _next(c, D, j)
    store(row, E, word, left + c, count)
    return seen + row


@_over_columns
@inlined
def _change_target(c, count, seen, E, word, left, kept, D, j, dH, b):
    """The same for a place that is itself a target, whose own window leaves it out."""
    row = spread(kept) * load(E, word, left + c, count) + (_next(c, D, j) - load(dH, b, c, None))
    store(row, E, word, left + c, count)
    return seen + row


@_over_columns
@inlined
def _change(c, count, seen, R, word, left, kept, factor, X, x):
    """``R[word] = kept R[word] + factor X[x]``."""
    row = spread(kept) * load(R, word, left + c, count) + spread(factor) * load(X, x, c, None)
    store(row, R, word, left + c, count)
    return seen + row


@jit
def _backward(
    t, E, R, tokens, first, last, whole, input_rate, at, m, H, N, G, g, keep_m, keep_t, keep, tile, changes
):
    """In a tile of columns: the changes of all rows from their old values, then the update.

    Returns:
        the sum of all that was written: it is finite only if they all are.
    """
    _, low, high, begin, end, _, K = at
    B, real, left, right = high - low, E.dtype.type, t * tile, min((t + 1) * tile, E.shape[1])
    n, zero, one, h_tile = right - left, spread(real(0)), real(1), H[t]
    # The changes dH of hidden vectors and dN of negatives; differences D of the changes of words, from row 1 on.
    dH, dN, D = changes
    product(G, N[t], n, dH)  # the error that reaches h
    product(G.T, h_tile, n, dN)  # the change of the negatives
    D[: end - begin + 2] = 0
    for b in range(B):
        p = low + b
        scale = real(input_rate if whole else input_rate / (last[p] - first[p] - 1))
        # Add the target's error; then each word of the window gets its share of it, from the window's first place on
        # and up to its last one.
        enters, leaves = first[p] - begin + 1, last[p] - begin + 1
        _share(n, zero, D, enters, leaves, dH, b, R, tokens[p], left, g[b], scale)
    # All changes are known, so the rows may be written now. A word's change is the sum over the windows it is in: a
    # running sum again.
    written = zero
    for j in range(end - begin):
        word, b = tokens[begin + j], begin + j - low
        if 0 <= b < B:
            written = _change_target(n, written, E, word, left, keep[j], D, j, dH, b)
        else:
            written = _change_word(n, written, E, word, left, keep[j], D, j)
    for k in range(K):
        written = _change(n, written, R, m[k], left, keep_m[k], one, dN, k)
    for b in range(B):  # targets last: they may be negatives too, with two changes and one decay
        written = _change(n, written, R, tokens[low + b], left, keep_t[b], g[b], h_tile, b)
    return total(written)


@jit
def all_batches(
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
    columns = H.shape[2]
    sums = np.empty((most + 2, columns), E.dtype)  # P in the first half, D in the second
    changes = np.empty((B, columns), E.dtype), np.empty((K, columns), E.dtype), sums
    from_tile, to_tile = _part(worker, workers, len(H))
    loss = seen = 0.0
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
                changes,
            )  # fmt: skip
        _forget(at, rows)
        for b in range(at[2] - at[1]):
            loss += losses[b]
        if not loss < np.inf:  # NaN, too; `isfinite` subtracts, which the compiler may reorder to 0
            return loss, i + 1, seen
    return loss, len(rates), seen
