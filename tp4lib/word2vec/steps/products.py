"""Products of the small matrices of a batch, for the numba step: scores, and the gradient back from them.

A library's product first copies its operands into an order of its own. With 32 positions, 24 negatives and 500 columns
that takes as long as the product; here the operands lie in the cache already, in the right order: line by line of
columns, as `lines` has them. A block of the result stays in registers while it is summed up, so that what limits it is
arithmetic, not reading.
"""

from tp4lib.base.jit import numba
from tp4lib.word2vec.steps import lines

if numba is not None:
    load, store, spread, total, size = lines.load, lines.store, lines.spread, lines.total, lines.size
    load_part, spread_part = lines.load_part, lines.spread_part
    jit = numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})

    @jit
    def product(A, X, n, out):
        """``out = A X``, shapes (rows, inner), (inner, n) and (rows, n); columns are rounded up to whole lines."""
        rows, inner, line, zero = A.shape[0], A.shape[1], size(X), spread(X.dtype.type(0))
        for column in range(0, n, line):  # outermost: these columns of X stay in the cache for all rows
            for i in range(0, rows - 3, 4):
                a = b = c = d = zero
                for k in range(inner):
                    x = load(X, k, column, None)
                    a += spread(A[i, k]) * x
                    b += spread(A[i + 1, k]) * x
                    c += spread(A[i + 2, k]) * x
                    d += spread(A[i + 3, k]) * x
                store(a, out, i, column, None)
                store(b, out, i + 1, column, None)
                store(c, out, i + 2, column, None)
                store(d, out, i + 3, column, None)
            for i in range(rows // 4 * 4, rows):
                rest = zero
                for k in range(inner):
                    rest += spread(A[i, k]) * load(X, k, column, None)
                store(rest, out, i, column, None)

    @jit
    def inner_products(H, N, n, S):
        """``S = H N^T``, shapes (B, n), (K, n) and (B, K); columns are rounded up to whole lines, filled with zeros."""
        B, K = S.shape
        line, zero = size(H), spread_part(H.dtype.type(0))
        whole, step = -(-n // line) * line, line // lines.PARTS
        for i in range(0, B - 3, 4):
            for k in range(0, K - 2, 3):
                a0 = a1 = a2 = b0 = b1 = b2 = c0 = c1 = c2 = d0 = d1 = d2 = zero
                for column in range(0, whole, step):
                    x, y, z = (
                        load_part(N, k, column),
                        load_part(N, k + 1, column),
                        load_part(N, k + 2, column),
                    )
                    a = load_part(H, i, column)
                    a0, a1, a2 = a0 + a * x, a1 + a * y, a2 + a * z
                    b = load_part(H, i + 1, column)
                    b0, b1, b2 = b0 + b * x, b1 + b * y, b2 + b * z
                    c = load_part(H, i + 2, column)
                    c0, c1, c2 = c0 + c * x, c1 + c * y, c2 + c * z
                    d = load_part(H, i + 3, column)
                    d0, d1, d2 = d0 + d * x, d1 + d * y, d2 + d * z
                S[i, k], S[i, k + 1], S[i, k + 2] = total(a0), total(a1), total(a2)
                S[i + 1, k], S[i + 1, k + 1], S[i + 1, k + 2] = total(b0), total(b1), total(b2)
                S[i + 2, k], S[i + 2, k + 1], S[i + 2, k + 2] = total(c0), total(c1), total(c2)
                S[i + 3, k], S[i + 3, k + 1], S[i + 3, k + 2] = total(d0), total(d1), total(d2)
        for i in range(B):
            for k in range(0 if i >= B // 4 * 4 else K // 3 * 3, K):
                rest = zero
                for column in range(0, whole, step):
                    rest += load_part(H, i, column) * load_part(N, k, column)
                S[i, k] = total(rest)
