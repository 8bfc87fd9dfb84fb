"""Checkpoints: one npz file of arrays plus JSON, written atomically, read without executing code."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tp4lib import archives
from tp4lib.errors import InputError
from tp4lib.files import atomic_path

VERSION = 1
_META = "__meta__"
_PART = 1 << 20


def save(path: str | Path, arrays: Mapping[str, torch.Tensor | np.ndarray], meta: Mapping[str, Any]) -> None:
    """Write named arrays and a JSON-able ``meta`` to ``path`` (npz), atomically.

    A reader of ``path`` sees the old checkpoint or the new one, never a part: see `tp4lib.files.atomic_path`.

    Raises:
        InputError: an array holds NaN or infinity (the old checkpoint stays), or the folder cannot be written.
    """
    packed = {name: _to_numpy(value) for name, value in arrays.items()}
    for name, value in packed.items():
        if not _finite(value):
            raise InputError(
                f"{name} is no longer finite, so that {path} was not written; expected finite numbers; "
                "try a smaller --lr"
            )
    text = json.dumps({"version": VERSION, "meta": dict(meta)})
    packed[_META] = np.frombuffer(text.encode(), dtype=np.uint8)
    with atomic_path(path) as part, open(part, "wb") as file:
        np.savez(file, **packed)


def load(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `save` wrote: ``(arrays, meta)``.

    Raises:
        InputError: no such file, not a checkpoint, damaged, or written by another version.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"no checkpoint at {path}; expected one left by an earlier run; start without --resume"
        )
    try:
        arrays = archives.npz(path)
        header = json.loads(arrays.pop(_META).tobytes().decode())
        version, meta = header["version"], header["meta"]
        if not isinstance(meta, dict):
            raise TypeError("its meta is no dictionary")
    except (ValueError, KeyError, TypeError, RecursionError) as error:  # archives.Damaged among them
        raise _damaged(path, error) from None
    if version != VERSION:
        raise InputError(
            f"{path} has checkpoint version {version}; this program reads version {VERSION}; "
            "start again without --resume, or finish with the version of tp4 that wrote it"
        )
    return arrays, meta


@contextmanager
def restoring(path: str | Path) -> Iterator[None]:
    """What goes wrong while a checkpoint is put back says that the checkpoint is wrong.

    Raises:
        InputError: instead of any error but another `InputError`.
    """
    try:
        yield
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError) as error:
        raise _damaged(path, error) from None


def put_back(tensor: torch.Tensor, saved: np.ndarray, name: str) -> None:
    """Copy a saved array into the tensor that it was made from.

    Raises:
        ValueError: it has another shape or type, or holds NaN or infinity.
    """
    found = torch.from_numpy(saved)
    if found.shape != tensor.shape or found.dtype != tensor.dtype or not _finite(saved):
        raise ValueError(
            f"{name}: finite {tensor.dtype} {tuple(tensor.shape)} expected, {found.dtype} {tuple(found.shape)} found"
        )
    with torch.no_grad():
        tensor.copy_(found)


def require_same(saved: Mapping[str, Any], now: Mapping[str, Any], what: str) -> None:
    """Refuse to continue a run under other settings, naming the first difference.

    Raises:
        InputError: some key of ``now`` differs from, or is missing in, ``saved``.
    """
    for key in sorted(set(saved) | set(now)):
        before, after = saved.get(key), now.get(key)
        if before != after:
            raise InputError(
                f"{what} was started with {key} = {before!r}, now {key} = {after!r}; expected the same settings; "
                f"resume with {key} = {before!r}, or choose another --out"
            )


def _damaged(path: str | Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return InputError(
        f"{path} is damaged or not a checkpoint ({reason}); expected a file written by tp4; "
        "remove it and start again without --resume"
    )


def _finite(array: np.ndarray) -> bool:
    """Whether all numbers are finite, looked at a part at a time."""
    if not np.issubdtype(array.dtype, np.floating):
        return True
    flat = array.reshape(-1)
    return all(np.isfinite(flat[at : at + _PART]).all() for at in range(0, flat.size, _PART))


def _to_numpy(value: torch.Tensor | np.ndarray) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
