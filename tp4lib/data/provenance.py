"""Where a number came from: what every ``metrics.json`` says beside its results."""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tp4lib import __version__
from tp4lib.base import paths
from tp4lib.data.catalogue import Found
from tp4lib.data.contents import readable_digest

if TYPE_CHECKING:
    import torch

_PACKAGES = ("torch", "numpy", "gensim", "learn2learn", "numba", "matplotlib", "papermill")


def record(
    *,
    seed: int,
    data: Iterable[Found | Path] = (),
    preset: str | None = None,
    device: "torch.device | str | None" = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """The part of a ``metrics.json`` that tells how to get the rest again: ``seed, preset, data, environment``.

    Args:
        data: what the run read, found by `tp4lib.data.catalogue.find` or a file that the user named.
        threads: CPU threads; None for what torch uses now.

    >>> sorted(record(seed=0, device="cpu"))
    ['data', 'environment', 'preset', 'seed']
    """
    return {
        "seed": seed,
        "preset": preset,
        "data": [source(each) for each in data],
        "environment": environment(device, threads),
    }


def source(data: Found | Path) -> dict[str, Any]:
    """A data set: what it is, where it came from (never a path of this machine), counts, its SHA-256 and licence.

    ``official`` is null where no official digest is known, ``licence`` where it is a file of the user's.
    """
    if isinstance(data, Path):
        # A name need not be UTF-8, JSON has to be.
        name = data.name.encode("utf-8", "backslashreplace").decode()
        return {
            "name": name, "title": name, "source": "file", "synthetic": False, "sha256": readable_digest(data),
            "counts": {"bytes": data.stat().st_size}, "official": None, "licence": None,
        }  # fmt: skip
    told = ("name", "title", "source", "synthetic", "sha256", "official", "licence")
    return {**{key: getattr(data, key) for key in told}, "counts": dict(data.counts)}


def environment(device: "torch.device | str | None" = None, threads: int | None = None) -> dict[str, Any]:
    """What a number depends on besides its input: versions, device, threads, command, and the commit in a checkout."""
    import torch  # here, as `tp4 doctor` asks for the commit alone

    versions = {"tp4lib": __version__}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    # A notebook does not say where it computes; `tp4 reproduce`, which starts it, does.
    device = device if device is not None else os.environ.get("TP4_DEVICE")
    return {
        "python": platform.python_version(),
        "versions": versions,
        "machine": platform.machine(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        **({"device": str(device)} if device is not None else {}),
        "threads": threads or torch.get_num_threads(),
        **commit(),
        "command": os.environ.get("TP4_COMMAND") or _command(),
    }


def commit() -> dict[str, Any]:
    """``{"commit": ..., "dirty": ...}`` of the checkout that this package runs from; empty outside of one."""
    root = paths.checkout()
    if root is None:
        return {}
    try:
        # Sources unpacked inside somebody else's repository are not a checkout of ours.
        if Path(_git(root, "rev-parse", "--show-toplevel")).resolve() != root.resolve():
            return {}
        return {
            "commit": _git(root, "rev-parse", "HEAD"),
            "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return {}


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=20,
        check=True,
    )
    return done.stdout.strip()


def _command() -> str:
    """The command of this process; of a Jupyter kernel the program alone, its arguments name a passing file."""
    program, *arguments = sys.argv or [""]
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None and Path(program).name == "__main__.py":
        program = f"python -m {spec.parent}"
    else:
        program = Path(program).name
    return program if "kernel" in program else " ".join([program, shlex.join(arguments)]).strip()
