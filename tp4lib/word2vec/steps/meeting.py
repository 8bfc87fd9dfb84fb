"""A barrier at which compiled loops on several threads wait for each other by spinning.

The threads of a step of Word2Vec meet twice in it, and waking a sleeping thread takes about as long as the step. So
they read a counter again and again, and yield the core to other processes when the others are late.
"""

import os

import numpy as np

from tp4lib.base.jit import numba

PATIENCE = 2000  # reads of the counter before the core is yielded
_OPEN = 1 << 62


def place() -> np.ndarray:
    """A new meeting place: its first number counts arrivals, and nothing else shares its cache lines."""
    return np.zeros(32, np.int64)


def leave_open(place: np.ndarray) -> None:
    """Let everyone pass from now on: for a worker that has failed and will not arrive."""
    place[0] = _OPEN


if numba is not None:
    from numba.core import types
    from numba.extending import intrinsic

    def _atomic(build):
        """A function of an int64 array (and a number) that works on the array's first number in one step."""

        @intrinsic
        def function(typing, counter, number):
            def code(context, builder, signature, arguments):
                array = context.make_array(signature.args[0])(context, builder, arguments[0])
                return build(builder, array.data, arguments[1])

            return types.int64(counter, types.int64), code

        return function

    # "seq_cst": what a thread wrote before it arrived is seen by those that see it there.
    _add = _atomic(lambda builder, data, number: builder.atomic_rmw("add", data, number, "seq_cst"))
    _look = _atomic(lambda builder, data, number: builder.load_atomic(data, "seq_cst", 8))
    give_way = types.ExternalFunction("sched_yield", types.int32())

    @numba.njit(nogil=True, cache=True)
    def meet(place, workers, times):
        """Return once all ``workers`` have come here for the ``times``-th time."""
        if workers > 1:
            _add(place, 1)
            looks = 0
            while _look(place, 0) < workers * times:
                looks += 1
                if looks > PATIENCE:
                    give_way()


SUPPORTED = numba is not None and hasattr(os, "sched_yield")
"""Whether threads can meet; where they cannot, one thread does all the work."""
