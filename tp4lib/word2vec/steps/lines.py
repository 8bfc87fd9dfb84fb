"""A cache line of a row as one value in compiled loops: loaded, computed with, and stored.

    total = load(E, word, column, None) + load(sums, j, 0, None)

A loop over columns leaves it to the compiler to work on several at a time, and it has to find out each time whether the
arrays overlap. Rows are short, and that would take longer than the arithmetic.
"""

import operator

from tp4lib.base.jit import numba

BYTES, PARTS = 64, 2  # of a line, and how many registers it fills on most processors

if numba is not None:
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic, models, overload, register_model

    FLAGS = ("contract", "reassoc", "nsz")  # one rounding for a product and its sum; sums in any order

    class Line(types.Type):
        """The type of ``BYTES`` bytes of float32 or float64 numbers, or of half as many."""

        def __init__(self, number: types.Float, parts: int = 1) -> None:
            self.number, self.count = number, 8 * BYTES // (number.bitwidth * parts)
            super().__init__(f"Line({number}, {self.count})")

        @property
        def vector(self) -> ir.VectorType:
            number = ir.FloatType() if self.number == types.float32 else ir.DoubleType()
            return ir.VectorType(number, self.count)

    @register_model(Line)
    class _Model(models.PrimitiveModel):
        def __init__(self, manager, kind):
            super().__init__(manager, kind, kind.vector)

    @intrinsic
    def size(typing, matrix):
        """How many numbers of the matrix a line holds: a constant in the compiled loop."""
        count = Line(matrix.dtype).count
        return types.intp(matrix), lambda context, builder, signature, arguments: ir.IntType(64)(count)

    def address(context, builder, kind, matrix, row, column):
        """Code for where a number of a matrix lies; rows and columns count from the start."""
        view = context.make_array(kind)(context, builder, matrix)
        return cgutils.get_item_pointer(context, builder, kind, view, [row, column], wraparound=False)

    def _each(builder, count, source, target):
        """Copy ``count`` numbers, one by one."""
        with cgutils.for_range(builder, count) as loop:
            builder.store(builder.load(builder.gep(source, [loop.index])), builder.gep(target, [loop.index]))

    def _loaded(builder, matrix, kind, place):
        line = builder.load(builder.bitcast(place, kind.vector.as_pointer()))
        line.align = matrix.dtype.bitwidth // 8  # a row may begin anywhere
        return line

    @intrinsic
    def load(typing, matrix, row, column, count):
        """A line of the matrix; with a ``count`` only so many numbers of it, and zeros."""
        kind = Line(matrix.dtype)

        def code(context, builder, signature, arguments):
            place = address(context, builder, matrix, *arguments[:3])
            if isinstance(count, types.NoneType):
                return _loaded(builder, matrix, kind, place)
            room = cgutils.alloca_once(builder, kind.vector)
            builder.store(ir.Constant(kind.vector, [0.0] * kind.count), room)
            _each(builder, arguments[3], place, builder.bitcast(room, kind.vector.element.as_pointer()))
            return builder.load(room)

        return kind(matrix, types.intp, types.intp, _count(count)), code

    @intrinsic
    def load_part(typing, matrix, row, column):
        """Half a line: one register of most processors."""
        kind = Line(matrix.dtype, PARTS)

        def code(context, builder, signature, arguments):
            return _loaded(builder, matrix, kind, address(context, builder, matrix, *arguments))

        return kind(matrix, types.intp, types.intp), code

    @intrinsic
    def store(typing, line, matrix, row, column, count):
        """Write a line to the matrix, or its first ``count`` numbers."""

        def code(context, builder, signature, arguments):
            place = address(context, builder, matrix, *arguments[1:4])
            if isinstance(count, types.NoneType):
                written = builder.store(arguments[0], builder.bitcast(place, line.vector.as_pointer()))
                written.align = matrix.dtype.bitwidth // 8
            else:
                room = cgutils.alloca_once(builder, line.vector)
                builder.store(arguments[0], room)
                _each(builder, arguments[4], builder.bitcast(room, line.vector.element.as_pointer()), place)
            return context.get_dummy_value()

        return types.void(line, matrix, types.intp, types.intp, _count(count)), code

    def _count(count):
        return count if isinstance(count, types.NoneType) else types.intp

    def _spread(parts):
        @intrinsic
        def same(typing, number):
            kind = Line(number, parts)

            def code(context, builder, signature, arguments):
                none = ir.Constant(kind.vector, ir.Undefined)
                first = builder.insert_element(none, arguments[0], ir.IntType(32)(0))
                places = ir.Constant(ir.VectorType(ir.IntType(32), kind.count), None)
                return builder.shuffle_vector(first, none, places)

            return kind(number), code

        return same

    # A line, and half a line, that is the given number everywhere.
    spread, spread_part = _spread(1), _spread(PARTS)

    @intrinsic
    def total(typing, line):
        """The sum of a line's numbers."""

        def code(context, builder, signature, arguments):
            number, name = (
                line.vector.element,
                f"llvm.vector.reduce.fadd.v{line.count}f{line.number.bitwidth}",
            )
            function = ir.FunctionType(number, [number, line.vector])
            reduced = cgutils.get_or_insert_function(builder.module, function, name)
            # -0 + x is x, for every x
            return builder.call(reduced, [number(-0.0), arguments[0]], fastmath=("reassoc", "nsz"))

        return line.number(line), code

    def _operator(symbol, instruction):
        @intrinsic
        def compute(typing, a, b):
            def code(context, builder, signature, arguments):
                return getattr(builder, instruction)(*arguments, flags=FLAGS)

            return a(a, b), code

        @overload(symbol)
        def choose(a, b):
            if isinstance(a, Line) and a == b:
                return lambda a, b: compute(a, b)

    _operator(operator.add, "fadd")
    _operator(operator.iadd, "fadd")
    _operator(operator.sub, "fsub")
    _operator(operator.mul, "fmul")
