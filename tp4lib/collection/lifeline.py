"""A process that ends when the one that started it does, even by ``kill -9``, so that none writes on unseen."""

import ctypes
import os
import signal
import sys

from tp4lib.base import environment

PARENT = "TP4_PARENT"
"""Environment variable with the process id of whoever starts a process that calls `end_with_parent`."""

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Have Linux kill this process as soon as its parent has ended; elsewhere do nothing.

    A parent that was gone before this call, by ``$TP4_PARENT``, ends the process here. Children do not inherit it:
    each calls it for itself.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    expected = environment.whole_number(PARENT, 0)
    os.environ.pop(PARENT, None)
    if expected and os.getppid() != expected:
        os._exit(1)
