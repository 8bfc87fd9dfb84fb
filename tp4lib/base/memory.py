"""Available memory, and the peak memory of a process, as the operating system counts them."""

import os
import resource
import sys
from pathlib import Path

_UNIT = 1 if sys.platform == "darwin" else 1024


def available() -> int:
    """Bytes of RAM that can be allocated now, within any cgroup limit."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                there = int(line.split()[1]) * 1024
        # A container may hold less than its host has.
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        if limit != "max":
            there = min(there, int(limit) - used)
    except (OSError, ValueError):
        pass
    return max(there, 0)


def own_peak() -> int:
    """Peak resident memory of this process, in bytes."""
    try:
        # Linux adds to ru_maxrss what the parent held when it forked us; this is our own.
        for line in Path("/proc/self/status").read_text("utf-8", "replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT


def children_peak() -> int:
    """Peak resident memory of the largest child process that has ended, in bytes."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * _UNIT
