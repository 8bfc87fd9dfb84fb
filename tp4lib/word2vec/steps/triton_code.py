"""The three kernels of `tp4lib.word2vec.steps.on_triton`, in Triton. Nothing but `on_triton` imports this module.

Every program works on tiles of COLUMNS columns: of all the rows a batch touches it sees the same few columns, so that
rows which several positions share are in its cache when they come again. Words are rows of ``E`` (embeddings) and ``R``
(readout), both with ``n`` columns; ``-1`` stands for "no word here".

The arrays of a plan hold all batches of a block. A kernel gets the number ``i`` of its batch rather than the addresses
where the batch's part begins: Triton compiles a kernel anew for each pattern of alignment among its addresses.
"""

import triton
import triton.language as tl

constexpr = tl.constexpr


@triton.jit
def _rows(base, row, column, stride, FLOAT: constexpr):
    """The tile of ``column`` of the rows ``row``; zeros where the row is -1.

    Rows end at ``stride``, a whole number of memory lines: what is past the last column is zero and stays zero, and
    so numbers are read four at a time.
    """
    there = (row >= 0)[:, None] & (column < stride)[None, :]
    # int64: a matrix may have more than 2^31 numbers.
    place = base + row.to(tl.int64)[:, None] * stride + column[None, :]
    return tl.load(place, mask=there, other=0.0).to(FLOAT)


@triton.jit
def _put_rows(base, row, column, stride, value, seed, FLOAT: constexpr, ROUND: constexpr):
    """Write rows; with ROUND to bfloat16, up or down at random with the right mean.

    A bfloat16 is the upper half of a float32's bits: a random carry into it goes up as often as the lower half says.
    Random bits are a function of (seed, row, column) alone: Philox for a row, a mixing of bits along it.
    """
    there = (row >= 0)[:, None] & (column < stride)[None, :]
    if ROUND:
        key = tl.randint(seed, row).to(tl.uint32, bitcast=True)
        # Each multiplication and shift spreads the column's bits over the number (an integer hash, as in murmur3).
        x = key[:, None] + column.to(tl.uint32)[None, :] * 0x9E3779B9
        x = (x ^ (x >> 16)) * 0x7FEB352D
        x = (x ^ (x >> 15)) * 0x846CA68B
        bits = value.to(tl.uint32, bitcast=True) + ((x ^ (x >> 16)) & 0xFFFF)  # the random carry
        value = (bits & 0xFFFF0000).to(tl.float32, bitcast=True)  # exactly a bfloat16
    place = base + row.to(tl.int64)[:, None] * stride + column[None, :]
    tl.store(place, value.to(base.dtype.element_ty), mask=there)


@triton.jit
def _window(first, last, place, low, size):
    """The windows of positions; no place is in that of a position outside the batch."""
    there = (place >= low) & (place < low + size)
    return tl.load(first + place, mask=there, other=0), tl.load(last + place, mask=there, other=-1)


@triton.jit
def _sees(place, left, right, j, FLOAT: constexpr):
    """(places, j): 1 where the position has j in its context."""
    p, a, z = place[:, None], left[:, None], right[:, None]
    return ((j[None, :] >= a) & (j[None, :] < z) & (j[None, :] != p)).to(FLOAT)


@triton.jit
def _banded(band, x, FLOAT: constexpr, PRECISION: constexpr):
    """``band @ x``, the band of zeros and ones: TF32 holds them, so that two products are as exact as three."""
    if PRECISION == "tf32x3":
        # -8192 clears the 13 bits that TF32 does not hold; a second product takes the rest.
        upper = (x.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
        return tl.dot(band, upper, input_precision="tf32") + tl.dot(band, x - upper, input_precision="tf32")
    else:
        return tl.dot(band, x, input_precision=PRECISION)


@triton.jit
def _hidden(
    E, tokens, first, last, place, low, size, total, column, stride,
    POSITIONS: constexpr, EDGE: constexpr, FLOAT: constexpr, PRECISION: constexpr,
):  # fmt: skip
    """Means over the contexts of POSITIONS neighbours, as products: of a band with the rows of their neighbourhood."""
    left, right = _window(first, last, place, low, size)
    start = tl.min(place, 0)
    before = start - EDGE + tl.arange(0, EDGE)
    after = start + POSITIONS + tl.arange(0, EDGE)
    # Three bands: over the positions' own places, and over EDGE places before and after them.
    word = tl.load(tokens + place, mask=place < total, other=-1)
    h = _banded(
        _sees(place, left, right, place, FLOAT), _rows(E, word, column, stride, FLOAT), FLOAT, PRECISION
    )
    word = tl.load(tokens + before, mask=before >= 0, other=-1)
    h += _banded(
        _sees(place, left, right, before, FLOAT), _rows(E, word, column, stride, FLOAT), FLOAT, PRECISION
    )
    word = tl.load(tokens + after, mask=after < total, other=-1)
    h += _banded(
        _sees(place, left, right, after, FLOAT), _rows(E, word, column, stride, FLOAT), FLOAT, PRECISION
    )
    return h / tl.maximum(right - left - 1, 1).to(FLOAT)[:, None]


@triton.jit
def _seen_by(
    room_d, first, last, j, low, size, offset,
    POSITIONS: constexpr, EDGE: constexpr, COLUMNS: constexpr, FLOAT: constexpr, PRECISION: constexpr,
):  # fmt: skip
    """For POSITIONS neighbouring places j the sum of ``room_d`` over the positions that see them."""
    start = tl.min(j, 0)
    total = tl.zeros([POSITIONS, COLUMNS], FLOAT)
    for part in tl.static_range(3):  # the bands of `_hidden`, transposed
        if part == 0:
            p = j
        elif part == 1:
            p = start - EDGE + tl.arange(0, EDGE)
        else:
            p = start + POSITIONS + tl.arange(0, EDGE)
        left, right = _window(first, last, p, low, size)
        there = (p >= low) & (p < low + size)
        d = tl.load(room_d + (p - low)[:, None] * COLUMNS + offset[None, :], mask=there[:, None], other=0.0)
        total += _banded(tl.trans(_sees(p, left, right, j, FLOAT)), d, FLOAT, PRECISION)
    return total


@triton.jit
def _batch(i, batch, total):
    """First position of batch i, and how many it has: the last one may be smaller."""
    low = i * batch
    return low, tl.minimum(batch, total - low)


@triton.jit(do_not_specialize=["i", "total"])
def forward(
    E, R, tokens, first, last, member, negatives, partial, i, total, batch, n, stride, K,
    POSITIONS: constexpr, EDGE: constexpr, NEGATIVES: constexpr, COLUMNS: constexpr, FLOAT: constexpr,
    PRECISION: constexpr,
):  # fmt: skip
    """(a) What some columns add to the scores ``S = H N^T`` of negatives, and to those of targets.

    Program (p, q, r): POSITIONS positions, NEGATIVES negatives, every num_programs(2)-th tile of columns from r on.
    ``partial`` is (num_programs(2), batch K + batch): sums over r are taken afterwards, in one order.
    """
    split, splits = tl.program_id(2), tl.num_programs(2)
    low, size = _batch(i, batch, total)
    b = tl.program_id(0) * POSITIONS + tl.arange(0, POSITIONS)
    k = tl.program_id(1) * NEGATIVES + tl.arange(0, NEGATIVES)
    inside, place = b < size, low + b
    own = inside & (tl.load(member + place, mask=inside, other=0) < 0)  # not among the negatives
    target = tl.load(tokens + place, mask=own, other=-1)
    m = tl.load(negatives + i * K + k, mask=k < K, other=-1)
    S = tl.zeros([POSITIONS, NEGATIVES], FLOAT)
    s = tl.zeros([POSITIONS], FLOAT)
    for tile in range(split, tl.cdiv(n, COLUMNS), splits):
        column = tile * COLUMNS + tl.arange(0, COLUMNS)
        h = _hidden(
            E, tokens, first, last, place, low, size, total, column, stride, POSITIONS, EDGE, FLOAT, PRECISION
        )
        N = _rows(R, m, column, stride, FLOAT)
        S += tl.dot(h, tl.trans(N), input_precision=PRECISION)
        s += tl.sum(h * _rows(R, target, column, stride, FLOAT), 1)  # every program (p, :, r) finds the same
    partial += split.to(tl.int64) * batch * (K + 1)
    tl.store(partial + b[:, None] * K + k[None, :], S, mask=inside[:, None] & (k < K)[None, :])
    tl.store(partial + batch * K + b, s, mask=inside & (tl.program_id(1) == 0))  # and one writes it


@triton.jit
def _softplus_sigmoid(x):
    """``log(1 + e^x)`` and ``1 / (1 + e^-x)``, without overflow."""
    e = tl.exp(-tl.abs(x))
    return tl.maximum(x, 0.0) + tl.log(1.0 + e), tl.where(x >= 0, 1.0, e) / (1.0 + e)


@triton.jit(do_not_specialize=["i", "total"])
def gradients(
    S, loss, member, weight, rate, i, total, batch, K, POSITIONS: constexpr, NEGATIVES: constexpr, FLOAT: constexpr
):  # fmt: skip
    """(b) In place of scores the descent direction by them, times the rate; and the loss of POSITIONS positions.

    A target that is among the negatives has its gradient in the column of that negative, so that the row is changed
    there, once; other targets have theirs at the end.
    """
    b, k = tl.program_id(0) * POSITIONS + tl.arange(0, POSITIONS), tl.arange(0, NEGATIVES)
    low, size = _batch(i, batch, total)
    inside, rate = b < size, tl.load(rate + i)
    same = tl.load(member + low + b, mask=inside, other=0)  # the target's place among the negatives, or -1
    hit = same[:, None] == k[None, :]
    W = tl.load(weight + i * K + k, mask=k < K, other=0.0)[None, :]
    there = inside[:, None] & (k < K)[None, :]
    scores = tl.load(S + b[:, None] * K + k[None, :], mask=there, other=0.0)
    plus, p = _softplus_sigmoid(scores)  # of a negative: loss W log(1 + e^f), gradient W p
    minus, q = _softplus_sigmoid(-scores)  # of a target: loss log(1 + e^-f), gradient -q
    tl.store(S + b[:, None] * K + k[None, :], rate * tl.where(hit, q, -W * p), mask=there)
    lost = tl.sum(tl.sum(tl.where(there, tl.where(hit, minus, W * plus), 0.0), 1), 0)
    own = inside & (same < 0)
    minus, q = _softplus_sigmoid(-tl.load(S + batch * K + b, mask=own, other=0.0))
    tl.store(S + batch * K + b, tl.where(own, rate * q, 0.0), mask=inside)
    tl.store(
        loss + i * tl.cdiv(batch, POSITIONS) + tl.program_id(0), lost + tl.sum(tl.where(own, minus, 0.0), 0)
    )


@triton.jit
def _gathered(room, g, start, order, x, count, COLUMNS: constexpr, WEIGHED: constexpr, FLOAT: constexpr):
    """For each group x of members the sum of their rows in ``room`` (times ``g``)."""
    there = x < count
    low = tl.load(start + x, mask=there, other=0)
    size = tl.load(start + x + 1, mask=there, other=0) - low
    total = tl.zeros([x.shape[0], COLUMNS], FLOAT)
    for q in range(0, tl.max(size, 0)):  # the q-th member of every group, until the largest group ends
        more = q < size
        b = tl.load(order + low + q, mask=more, other=0)
        change = tl.load(
            room + b[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :], mask=more[:, None], other=0.0
        )
        if WEIGHED:
            change *= tl.load(g + b, mask=more, other=0.0)[:, None]
        total += change
    return total


@triton.jit(do_not_specialize=["i", "total", "window", "seed"])
def update(
    E, R, tokens, first, last, member, G, room,
    negatives, weight, hits, own_words, own_start, own_order, own_count, own_touches,
    context_words, context_start, context_order, context_count, context_touches,
    shrink_in, shrink_out, input_rate, i, total, batch, n, stride, K, window, seed,
    POSITIONS: constexpr, EDGE: constexpr, COLUMNS: constexpr, SUM: constexpr, FLOAT: constexpr,
    ROUND: constexpr, PRECISION: constexpr,
):  # fmt: skip
    """(c) The changes of all rows from their old values, then the rows, each read and written once.

    A program takes every num_programs(0)-th tile of columns. Its ``room`` holds, for its columns, hidden vectors,
    gradients by them, and gradients by the words at each place: some 3 x batch x COLUMNS numbers that
    stay in the cache.
    """
    low, size = _batch(i, batch, total)
    # This batch's part of each array of the plan; `Groups` has the shapes.
    negatives, weight, hits = negatives + i * K, weight + i * K, hits + i * K
    own_words, own_start, own_order = (
        own_words + i * batch,
        own_start + i * (batch + 2),
        own_order + i * batch,
    )
    own_touches += i * batch
    places = batch + 2 * window
    context_words, context_start = context_words + i * places, context_start + i * (places + 2)
    context_order, context_touches = context_order + i * places, context_touches + i * places
    own_count, context_count = tl.load(own_count + i), tl.load(context_count + i)
    shrink_in, shrink_out = tl.load(shrink_in + i), tl.load(shrink_out + i)
    input_rate = tl.load(input_rate)
    room += tl.program_id(0).to(tl.int64) * (2 * batch + places) * COLUMNS
    room_d, room_e = room + batch * COLUMNS, room + 2 * batch * COLUMNS
    lane, offset = tl.arange(0, POSITIONS), tl.arange(0, COLUMNS)
    for tile in range(tl.program_id(0), tl.cdiv(n, COLUMNS), tl.num_programs(0)):
        column = tile * COLUMNS + offset
        for b0 in range(0, size, POSITIONS):  # hidden vectors, and gradients by them
            b = b0 + lane
            inside, place = b < size, low + b
            h = _hidden(
                E, tokens, first, last, place, low, size, total, column, stride, POSITIONS, EDGE, FLOAT, PRECISION
            )  # fmt: skip
            own = inside & (tl.load(member + place, mask=inside, other=0) < 0)
            g = tl.load(G + batch * K + b, mask=own, other=0.0)
            # dL/dh: the target's part, if it has one of its own, then that of the negatives (G times their rows).
            d = g[:, None] * _rows(R, tl.load(tokens + place, mask=own, other=-1), column, stride, FLOAT)
            for k0 in range(0, K, POSITIONS):
                k = k0 + lane
                there = inside[:, None] & (k < K)[None, :]
                g2 = tl.load(G + b[:, None] * K + k[None, :], mask=there, other=0.0)
                m = tl.load(negatives + k, mask=k < K, other=-1)
                d += tl.dot(g2, _rows(R, m, column, stride, FLOAT), input_precision=PRECISION)
            if SUM:  # gensim's: each word of the window receives the whole error
                d *= input_rate
            else:
                left, right = _window(first, last, place, low, size)
                d *= (input_rate / tl.maximum(right - left - 1, 1).to(FLOAT))[:, None]
            cells = b[:, None] * COLUMNS + offset[None, :]
            tl.store(room + cells, h, mask=inside[:, None])
            tl.store(room_d + cells, d.to(FLOAT), mask=inside[:, None])
        tl.debug_barrier()  # from here on rows change
        for k0 in range(0, K, POSITIONS):  # negatives, the targets among them included
            k = k0 + lane
            m = tl.load(negatives + k, mask=k < K, other=-1)
            change = tl.zeros([POSITIONS, COLUMNS], FLOAT)
            for b0 in range(0, size, POSITIONS):
                b = b0 + lane
                there = (b < size)[None, :] & (k < K)[:, None]
                g2 = tl.load(G + b[None, :] * K + k[:, None], mask=there, other=0.0)
                h = tl.load(
                    room + b[:, None] * COLUMNS + offset[None, :], mask=(b < size)[:, None], other=0.0
                )
                change += tl.dot(g2, h, input_precision=PRECISION)
            W = tl.load(weight + k, mask=k < K, other=0.0)
            # Each position touches a negative W times; where it is the position's target, once.
            touches = size * W + tl.load(hits + k, mask=k < K, other=0).to(FLOAT) * (1.0 - W)
            new = tl.exp(touches * shrink_out)[:, None] * _rows(R, m, column, stride, FLOAT) + change
            _put_rows(R, m, column, stride, new, seed, FLOAT, ROUND)
        for x0 in range(0, own_count, POSITIONS):  # the other targets
            x = x0 + lane
            m = tl.load(own_words + x, mask=x < own_count, other=-1)
            change = _gathered(room, G + batch * K, own_start, own_order, x, own_count, COLUMNS, True, FLOAT)
            touches = tl.load(own_touches + x, mask=x < own_count, other=0.0)
            new = tl.exp(touches * shrink_out)[:, None] * _rows(R, m, column, stride, FLOAT) + change
            _put_rows(R, m, column, stride, new, seed, FLOAT, ROUND)
        for j0 in range(0, size + 2 * window, POSITIONS):  # the gradient at each place, from all that see it
            j = low - window + j0 + lane
            change = _seen_by(
                room_d, first, last, j, low, size, offset, POSITIONS, EDGE, COLUMNS, FLOAT, PRECISION
            )
            cells = (j0 + lane)[:, None] * COLUMNS + offset[None, :]
            tl.store(room_e + cells, change, mask=(j0 + lane < size + 2 * window)[:, None])
        tl.debug_barrier()  # a word's places are in the parts of several warps
        for x0 in range(0, context_count, POSITIONS):  # context words
            x = x0 + lane
            u = tl.load(context_words + x, mask=x < context_count, other=-1)
            change = _gathered(
                room_e, G, context_start, context_order, x, context_count, COLUMNS, False, FLOAT
            )
            touches = tl.load(context_touches + x, mask=x < context_count, other=0.0)
            new = tl.exp(touches * shrink_in)[:, None] * _rows(E, u, column, stride, FLOAT) + change
            _put_rows(E, u, column, stride, new, seed + 1, FLOAT, ROUND)
        tl.debug_barrier()  # the room is free again
