"""How much memory a process has held at most, as the operating system counted it."""

import resource
import sys
from pathlib import Path

_UNIT = 1 if sys.platform == "darwin" else 1024


def own_peak() -> int:
    """Bytes that this process has held at most (resident)."""
    try:
        # Linux adds to ru_maxrss what the parent held when it forked us; this is our own.
        for line in Path("/proc/self/status").read_text("utf-8", "replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT


def children_peak() -> int:
    """Bytes that the largest of the children of this process that have ended held at most (resident)."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * _UNIT
