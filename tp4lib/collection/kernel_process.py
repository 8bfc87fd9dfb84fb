"""The Jupyter kernel that `tp4 reproduce` starts: IPython's own, in this environment, ended with its parent."""

import ctypes
import os
import signal
import sys

from tp4lib.base import environment

PARENT = "TP4_PARENT"
"""Environment variable with the process id of whoever starts a process that calls `end_with_parent`."""

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Have Linux kill this process as soon as its parent has ended, even by ``kill -9``; elsewhere do nothing.

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


def stay(*_: object) -> None:
    """In the place of ``quit`` and ``exit``: a kernel that ends takes the cells below with it, and the reason."""
    raise RuntimeError(
        "the notebook ended its own kernel in this cell; expected it to run to its last cell; remove quit() or exit()"
    )


if __name__ == "__main__":
    from ipykernel.kernelapp import IPKernelApp

    end_with_parent()
    app = IPKernelApp.instance()
    app.initialize()
    app.shell.push({"quit": stay, "exit": stay}, interactive=False)
    app.start()
