"""The step of `cbow.torch_steps`, in numba: for CPUs, where small matrices make torch's calls cost more than its work.

Two orders of the same products, both with every row of a batch gathered once, used many times and written once:

- narrow (n up to a few hundred): contexts and targets as vectors, negatives as one small matrix;
- wide (n above the number of rows in a batch, width infinity): all as matrix products through ``P = E R^T`` (U, M),
  so that the hidden vectors of the B positions, 3 B n numbers, are never formed.

Numba is optional; `available` says whether it is here.
"""

import math

import numpy as np

from tp4lib.word2vec.cbow import CBOW, StepSettings
from tp4lib.word2vec.sampling import Block

try:
    import numba
except ImportError:  # pragma: no cover - the bare core runs on torch alone
    numba = None

WIDE = 768  # columns from which the wide order is the faster one


def available(model: CBOW, batch_size: int, shared: bool) -> bool:
    """Whether this engine can run: numba is here, parameters on the CPU, negatives shared or one position a batch."""
    return numba is not None and model.embeddings.device.type == "cpu" and (shared or batch_size == 1)


def numba_steps(model: CBOW, block: Block, settings: StepSettings) -> tuple[float, int]:
    """Train on a block; the same numbers as `cbow.torch_steps` up to rounding.

    Returns:
        sum of the losses of the positions, and their number.
    """
    run = _wide if model.columns >= WIDE else _narrow
    loss = run(
        model.embeddings.numpy(),
        model.readout.numpy(),
        block.tokens,
        block.first,
        block.last,
        block.negatives,
        block.weight,
        block.batch_size,
        block.rates,
        settings.wd,
        settings.window_gradient == "sum",
        settings.input_rate,
    )
    return float(loss), len(block)


def _jit(function):
    if numba is None:
        return function
    # Reordering sums is allowed; NaN and infinity keep their meaning, so that divergence is seen.
    flags = {"reassoc", "contract", "nsz", "arcp"}
    return numba.njit(nogil=True, cache=True, fastmath=flags, error_model="numpy")(function)


@_jit
def _number(words, place, found):
    """Number the distinct ``words`` from 0 in order of appearance: ``place[word]``; list them in ``found``."""
    count = 0
    for i in range(len(words)):
        if place[words[i]] < 0:
            place[words[i]] = count
            found[count] = words[i]
            count += 1
    return count


@_jit
def _forget(found, count, place):
    for i in range(count):
        place[found[i]] = -1


@_jit
def _sigmoids(S, q):
    """Replace scores by their sigmoids, and put ``1 - sigmoid`` in ``q``; both are exact where they are small."""
    for i in range(S.shape[0]):
        for j in range(S.shape[1]):
            s = S[i, j]
            if s > 80.0:
                s = S.dtype.type(80.0)
            e = S.dtype.type(math.exp(s))
            q[i, j] = 1 / (1 + e)
            S[i, j] = e * q[i, j]


@_jit
def _narrow(E, R, tokens, first, last, negatives, weight, batch_size, rates, wd, whole, input_rate):
    size, K, n = len(tokens), negatives.shape[1], E.shape[1]
    real = E.dtype.type
    place_in = np.full(E.shape[0], -1, np.int32)
    place_neg = np.full(E.shape[0], -1, np.int32)
    hits = np.zeros(E.shape[0], np.int32)  # how often a word is a target of the batch
    most = batch_size + 2 * (last - first).max() if size else 1
    u, m = np.empty(most, np.int32), np.empty(K, np.int32)
    touches = np.zeros(most, np.int32)
    W = np.empty(K, E.dtype)
    H, dH = np.empty((batch_size, n), E.dtype), np.empty((batch_size, n), E.dtype)
    N, dN = np.empty((K, n), E.dtype), np.empty((K, n), E.dtype)
    dE = np.empty((most, n), E.dtype)
    g = np.empty(batch_size, E.dtype)
    s_flat, q_flat = np.empty(batch_size * K, E.dtype), np.empty(batch_size * K, E.dtype)
    loss = 0.0
    for i in range(len(rates)):
        rate, shrink = rates[i], math.log1p(-rates[i] * wd)
        shrink_in = math.log1p(-rates[i] * input_rate * wd)
        low, high = i * batch_size, min((i + 1) * batch_size, size)
        B = high - low
        # Negatives: the distinct ones, with how much each counts.
        Ku = _number(negatives[i], place_neg, m)
        W[:Ku] = 0
        for k in range(K):
            W[place_neg[negatives[i, k]]] += real(weight)
        for k in range(Ku):
            N[k] = R[m[k]]
        # Forward.
        U = _number(tokens[first[low:high].min() : last[low:high].max()], place_in, u)
        dE[:U] = 0
        touches[:U] = 0
        for b in range(B):
            p = low + b
            h = H[b]
            h[:] = 0
            for j in range(first[p], last[p]):
                if j != p:
                    row = E[tokens[j]]
                    for c in range(n):
                        h[c] += row[c]
            scale = real(1.0 / (last[p] - first[p] - 1))
            for c in range(n):
                h[c] *= scale
        S, q = s_flat[: B * Ku].reshape(B, Ku), q_flat[: B * Ku].reshape(B, Ku)
        if B == 1:
            for k in range(Ku):
                s = real(0.0)
                for c in range(n):
                    s += H[0, c] * N[k, c]
                S[0, k] = s
        else:
            np.dot(H[:B], N[:Ku].T, S)
        _sigmoids(S, q)
        for b in range(B):
            w = tokens[low + b]
            s = real(0.0)
            for c in range(n):
                s += H[b, c] * R[w, c]
            s = min(max(s, real(-80.0)), real(80.0)) if s == s else s
            e = math.exp(-s)
            loss += math.log1p(e)
            g[b] = real(rate) * real(e / (1 + e))
            hits[w] += 1
            if place_neg[w] >= 0:  # a negative equal to the target is left out
                S[b, place_neg[w]] = 0
                q[b, place_neg[w]] = 1
        for k in range(Ku):
            product, logs = 1.0, 0.0
            for b in range(B):
                product *= q[b, k]
                S[b, k] *= -real(rate) * W[k]
                if product < 1e-200:
                    logs += math.log(product)
                    product = 1.0
            loss -= W[k] * (logs + math.log(product))
        # Backward, everything from the old rows.
        if B == 1:
            dH[0] = 0
            for k in range(Ku):
                for c in range(n):
                    dH[0, c] += S[0, k] * N[k, c]
                    dN[k, c] = S[0, k] * H[0, c]
        else:
            np.dot(S, N[:Ku], dH[:B])
            np.dot(S.T, H[:B], dN[:Ku])
        for b in range(B):
            p = low + b
            row, d = R[tokens[p]], dH[b]
            scale = real(input_rate if whole else input_rate / (last[p] - first[p] - 1))
            for c in range(n):
                d[c] = (d[c] + g[b] * row[c]) * scale
            for j in range(first[p], last[p]):
                if j != p:
                    x = place_in[tokens[j]]
                    touches[x] += 1
                    out = dE[x]
                    for c in range(n):
                        out[c] += d[c]
        # Update: each row is written once, or once more for each time it is a target.
        for x in range(U):
            row, keep = E[u[x]], real(math.exp(touches[x] * shrink_in))
            for c in range(n):
                row[c] = keep * row[c] + dE[x, c]
        for k in range(Ku):
            touched = W[k] * (B - hits[m[k]]) + hits[m[k]]
            row, keep = R[m[k]], real(math.exp(touched * shrink))
            for c in range(n):
                row[c] = keep * row[c] + dN[k, c]
        for b in range(B):
            w = tokens[low + b]
            row, keep = R[w], real(1.0)
            if hits[w] > 0:
                if place_neg[w] < 0:
                    keep = real(math.exp(hits[w] * shrink))
                hits[w] = 0
            for c in range(n):
                row[c] = keep * row[c] + g[b] * H[b, c]
        _forget(u, U, place_in)
        _forget(m, Ku, place_neg)
    return loss


@_jit
def _wide(E, R, tokens, first, last, negatives, weight, batch_size, rates, wd, whole, input_rate):
    size, K, n = len(tokens), negatives.shape[1], E.shape[1]
    real = E.dtype.type
    place_in = np.full(E.shape[0], -1, np.int32)
    place_out = np.full(E.shape[0], -1, np.int32)
    most = batch_size + 2 * (last - first).max() if size else 1
    u, m = np.empty(most, np.int32), np.empty(K + batch_size, np.int32)
    words = np.empty(K + batch_size, np.int32)
    touches_in = np.zeros(most, E.dtype)
    touches_out, W = np.zeros(K + batch_size, E.dtype), np.zeros(K + batch_size, E.dtype)
    EU, dE = np.empty((most, n), E.dtype), np.empty((most, n), E.dtype)
    RM, dR = np.empty((K + batch_size, n), E.dtype), np.empty((K + batch_size, n), E.dtype)
    loss = 0.0
    for i in range(len(rates)):
        rate, shrink = rates[i], math.log1p(-rates[i] * wd)
        shrink_in = math.log1p(-rates[i] * input_rate * wd)
        low, high = i * batch_size, min((i + 1) * batch_size, size)
        B = high - low
        words[:K] = negatives[i]
        words[K : K + B] = tokens[low:high]
        M = _number(words[: K + B], place_out, m)
        U = _number(tokens[first[low:high].min() : last[low:high].max()], place_in, u)
        W[:M] = 0
        touches_out[:M] = 0
        touches_in[:U] = 0
        for k in range(K):
            W[place_out[negatives[i, k]]] += real(weight)
        for x in range(U):
            EU[x] = E[u[x]]
        for y in range(M):
            RM[y] = R[m[y]]
        C, CT = np.zeros((B, U), E.dtype), np.zeros((U, B), E.dtype)
        for b in range(B):
            p = low + b
            value = real(1.0 / (last[p] - first[p] - 1))
            for j in range(first[p], last[p]):
                if j != p:
                    x = place_in[tokens[j]]
                    C[b, x] += value
                    CT[x, b] += real(input_rate) if whole else real(input_rate) * value
                    touches_in[x] += 1
        S = np.dot(C, np.dot(EU[:U], RM[:M].T))
        q = np.empty_like(S)
        _sigmoids(S, q)
        for b in range(B):
            y = place_out[tokens[low + b]]
            target = q[b, y]
            loss -= math.log(S[b, y])
            touches_out[y] += 1 - W[y]
            q[b, y] = 1
            S[b, y] = 0
            for k in range(M):
                S[b, k] *= -real(rate) * W[k]
            S[b, y] = real(rate) * target
        for k in range(M):
            if W[k] > 0:
                product, logs = 1.0, 0.0
                for b in range(B):
                    product *= q[b, k]
                    if product < 1e-200:
                        logs += math.log(product)
                        product = 1.0
                loss -= W[k] * (logs + math.log(product))
            touches_out[k] += B * W[k]
        np.dot(np.dot(CT, S), RM[:M], dE[:U])
        np.dot(np.dot(S.T, C), EU[:U], dR[:M])
        for x in range(U):
            row, keep = E[u[x]], real(math.exp(touches_in[x] * shrink_in))
            for c in range(n):
                row[c] = keep * row[c] + dE[x, c]
        for y in range(M):
            row, keep = R[m[y]], real(math.exp(touches_out[y] * shrink))
            for c in range(n):
                row[c] = keep * row[c] + dR[y, c]
        _forget(u, U, place_in)
        _forget(m, M, place_out)
    return loss
