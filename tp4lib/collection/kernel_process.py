"""The Jupyter kernel that `tp4 reproduce` starts: IPython's own, in this environment, ended with its parent."""

import ctypes
import json
import os
import signal
import sys
from pathlib import Path

from tp4lib.base import environment

QUIT = "TP4_KERNEL_QUIT"
"""Environment variable: the file into which the kernel writes, as JSON, the code that asked it to end."""

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


if __name__ == "__main__":
    from ipykernel.kernelapp import IPKernelApp

    end_with_parent()
    app = IPKernelApp.instance()
    app.initialize()
    # quit() ends the kernel a moment after its cell, when the next one may have begun already.
    note = Path(os.environ[QUIT])
    app.shell.observe(
        lambda _: note.write_text(json.dumps(app.kernel.get_parent("shell")["content"]["code"])), "exit_now"
    )
    app.start()
