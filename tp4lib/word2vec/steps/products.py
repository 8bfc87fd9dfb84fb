"""Products of the small matrices of a batch, for the numba step: scores, and the gradient back from them.

A library's product first copies its operands into an order of its own. With 32 positions, 24 negatives and 500 columns
that takes as long as the product; here the operands lie in the cache already, in the right order. A block of the result
stays in registers while it is summed up, so that what limits it is arithmetic, not reading.
"""

from tp4lib.base.jit import numba

LINE = 64  # bytes of a cache line: this much of a row is one vector

if numba is not None:
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    FUSED = ("contract", "reassoc", "nsz")  # one rounding for a product and its sum; sums in any order

    def _vector(kind):
        """The type of a cache line of numbers of the array's type."""
        number = ir.FloatType() if kind.dtype.bitwidth == 32 else ir.DoubleType()
        return ir.VectorType(number, 8 * LINE // kind.dtype.bitwidth)

    class _Matrix:
        """A matrix in code that is being written."""

        def __init__(self, context, builder, kind, value):
            self.context, self.builder, self.kind = context, builder, kind
            self.view = context.make_array(kind)(context, builder, value)

        def _at(self, row, column):
            where = [row, column]
            return cgutils.get_item_pointer(
                self.context, self.builder, self.kind, self.view, where, wraparound=False
            )

        def number(self, row, column):
            return self.builder.load(self._at(row, column))

        def put(self, number, row, column):
            self.builder.store(number, self._at(row, column))

        def _line(self, row, column):
            return self.builder.bitcast(self._at(row, column), _vector(self.kind).as_pointer())

        def line(self, row, column):
            """The numbers from ``column`` on, a cache line of them, wherever they start."""
            loaded = self.builder.load(self._line(row, column))
            loaded.align = self.kind.dtype.bitwidth // 8
            return loaded

        def put_line(self, line, row, column):
            self.builder.store(line, self._line(row, column)).align = self.kind.dtype.bitwidth // 8

    def _matrices(context, builder, signature, arguments):
        """The first three arguments."""
        return [_Matrix(context, builder, *one) for one in zip(signature.args[:3], arguments[:3])]

    def _sums(builder, vector, height, width):
        """Vectors that are 0, by row and column of a block; the compiler keeps them in registers."""
        sums = {(p, q): cgutils.alloca_once(builder, vector) for p in range(height) for q in range(width)}
        for one in sums.values():
            builder.store(ir.Constant(vector, [0.0] * vector.count), one)
        return sums

    def _add(builder, total, a, b):
        product = builder.fmul(a, b, flags=FUSED)
        builder.store(builder.fadd(builder.load(total), product, flags=FUSED), total)

    def _from(builder, first, count):
        """first, first + 1, ..."""
        return [builder.add(first, first.type(r)) for r in range(count)]

    def _of_product(height):
        @intrinsic
        def block(typing, A, X, out, i, c):
            """Rows i .. i + height of A X, a line of columns from c on."""

            def code(context, builder, signature, arguments):
                a, x, result = _matrices(context, builder, signature, arguments)
                vector, column, rows = _vector(X), arguments[4], _from(builder, arguments[3], height)
                none, places = ir.Constant(vector, ir.Undefined), ir.VectorType(ir.IntType(32), vector.count)
                sums = _sums(builder, vector, height, 1)
                with cgutils.for_range(builder, cgutils.unpack_tuple(builder, x.view.shape, 2)[0]) as loop:
                    line = x.line(loop.index, column)
                    for p, row in enumerate(rows):
                        one = builder.insert_element(none, a.number(row, loop.index), ir.IntType(32)(0))
                        same = builder.shuffle_vector(one, none, ir.Constant(places, None))  # in every place
                        _add(builder, sums[p, 0], same, line)
                for p, row in enumerate(rows):
                    result.put_line(builder.load(sums[p, 0]), row, column)
                return context.get_dummy_value()

            return types.void(A, X, out, types.intp, types.intp), code

        return block

    def _of_inner_products(height, width):
        @intrinsic
        def block(typing, H, N, S, i, k, n):
            """H[i : i + height, :n] times N[k : k + width, :n] transposed; n columns are whole lines."""

            def code(context, builder, signature, arguments):
                h, other, result = _matrices(context, builder, signature, arguments)
                vector, bits, n = _vector(H), H.dtype.bitwidth, arguments[5]
                ours, theirs = _from(builder, arguments[3], height), _from(builder, arguments[4], width)
                sums = _sums(builder, vector, height, width)
                with cgutils.for_range_slice(builder, n.type(0), n, n.type(vector.count)) as (column, _):
                    lines = [h.line(row, column) for row in ours]
                    for q, row in enumerate(theirs):
                        line = other.line(row, column)
                        for p in range(height):
                            _add(builder, sums[p, q], lines[p], line)
                kind, name = vector.element, f"llvm.vector.reduce.fadd.v{vector.count}f{bits}"
                reduced = cgutils.get_or_insert_function(
                    builder.module, ir.FunctionType(kind, [kind, vector]), name
                )
                for (p, q), total in sums.items():
                    parts = [kind(-0.0), builder.load(total)]  # -0 + x is x, for every x
                    number = builder.call(reduced, parts, fastmath=("reassoc", "nsz"))
                    result.put(number, ours[p], theirs[q])
                return context.get_dummy_value()

            return types.void(H, N, S, types.intp, types.intp, types.intp), code

        return block

    _product4, _product1 = _of_product(4), _of_product(1)
    _inner2x3, _inner2x1, _inner1x1 = (_of_inner_products(*size) for size in ((2, 3), (2, 1), (1, 1)))
    jit = numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})

    @jit
    def product(A, X, out):
        """``out = A X``, shapes (rows, inner), (inner, n), (rows, n)."""
        rows, n, line = out.shape[0], out.shape[1], LINE // out.itemsize
        whole = n // line * line  # columns in whole lines
        for c in range(0, whole, line):  # outermost: these columns of X stay in the cache for all rows
            for i in range(0, rows - 3, 4):
                _product4(A, X, out, i, c)
            for i in range(rows // 4 * 4, rows):
                _product1(A, X, out, i, c)
        for i in range(rows):
            for c in range(whole, n):
                rest = out.dtype.type(0)
                for j in range(len(X)):
                    rest += A[i, j] * X[j, c]
                out[i, c] = rest

    @jit
    def inner_products(H, N, S):
        """``S = H N^T``, shapes (B, n), (K, n), (B, K)."""
        B, K, n, line = S.shape[0], S.shape[1], H.shape[1], LINE // H.itemsize
        whole = n // line * line
        for i in range(0, B - 1, 2):
            for k in range(0, K - 2, 3):
                _inner2x3(H, N, S, i, k, whole)
            for k in range(K // 3 * 3, K):
                _inner2x1(H, N, S, i, k, whole)
        for i in range(B // 2 * 2, B):
            for k in range(K):
                _inner1x1(H, N, S, i, k, whole)
        if whole < n:
            for i in range(B):
                for k in range(K):
                    rest = H.dtype.type(0)
                    for c in range(whole, n):
                        rest += H[i, c] * N[k, c]
                    S[i, k] += rest
