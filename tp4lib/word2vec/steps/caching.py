"""Rows asked for before they are needed, so that they are in the cache when they are.

Words come in no order that a processor could foresee, and where rows are short, most of a step's time would go into
waiting for memory.
"""

from tp4lib.base.jit import numba
from tp4lib.word2vec.steps import lines

AHEAD = 8  # rows
LINES = 8  # of a row's beginning: the rest of a long row the processor fetches by itself

if numba is not None:
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    size = lines.size

    @intrinsic
    def _prefetch(typing, array, row, column):
        """Begin to load the cache line of ``array[row, column]``, and do not wait for it."""

        def code(context, builder, signature, arguments):
            pointer = lines.address(context, builder, array, *arguments)
            address, number = ir.IntType(8).as_pointer(), ir.IntType(32)
            called = ir.FunctionType(ir.VoidType(), [address, number, number, number])
            prefetch = cgutils.get_or_insert_function(builder.module, called, "llvm.prefetch.p0i8")
            # To read (0), to be kept in all caches (3), data and no instructions (1).
            builder.call(prefetch, [builder.bitcast(pointer, address), number(0), number(3), number(1)])
            return context.get_dummy_value()

        return types.void(array, types.intp, types.intp), code

    @numba.njit(nogil=True, cache=True)
    def ask_ahead(matrix, words, first, last, i, left, right):
        """Ask for columns from ``left`` of the row of the word ``AHEAD`` places after number i of words[first:last]."""
        if 0 <= i + AHEAD < last - first:
            line = size(matrix)
            for column in range(left, min(left + LINES * line, right), line):
                _prefetch(matrix, words[first + i + AHEAD], column)
