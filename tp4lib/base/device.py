"""Where to compute, and whether it fits there."""

import torch

from tp4lib.base import memory
from tp4lib.base.errors import InputError


def resolve(device: str | torch.device = "auto") -> torch.device:
    """Turn ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"`` into a device that exists here.

    ``"auto"`` is the GPU where there is one, else the CPU.

    Raises:
        InputError: the name is unknown, or there is no such device.
    """
    name = str(device)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda") or (found.type == "cpu" and found.index):
        raise InputError(
            f"unknown device {name[:40]!r}; expected auto, cpu, cuda or cuda:N; try --device auto"
        )
    if found.type == "cuda" and not 0 <= (found.index or 0) < torch.cuda.device_count():
        raise InputError(
            f"device {name!r} was asked for, but torch sees {torch.cuda.device_count()} CUDA devices; "
            "try --device cpu"
        )
    return found


def resolve_optional(device: str | torch.device | None) -> torch.device | None:
    """As `resolve`, for what may also be left to torch: None, its default device, and "meta" stay as they are."""
    return device if device is None or str(device) == "meta" else resolve(device)


def available_memory(device: torch.device) -> int:
    """Bytes that can be allocated on ``device`` now: free GPU memory, or available RAM within any cgroup limit."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory.available()


def require_memory(needed: int, device: torch.device, what: str, hint: str = "") -> None:
    """Refuse, before anything is allocated, what cannot fit.

    Args:
        needed: bytes that ``what`` will take.
        hint: what to type instead, for example ``"try --max-vocab 20000"``.
    """
    there = available_memory(device)
    if needed > there:
        tail = f"; {hint}" if hint else ""
        gib = min(needed, 2**1000) / 2**30  # a float, whatever was asked for
        raise InputError(
            f"{what} needs {gib:.1f} GiB, but {there / 2**30:.1f} GiB are available on {device}{tail}"
        )
