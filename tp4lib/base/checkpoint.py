"""Checkpoints: one npz file of arrays plus JSON, written atomically, read without executing code.

Arrays pass through a buffer of a few megabytes, both ways: a run needs no room for a second copy of its parameters.
"""

import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.lib import format as npy

from tp4lib import __version__
from tp4lib.base import archives
from tp4lib.base.errors import InputError
from tp4lib.base.files import atomic_path

VERSION = 1
_META = "__meta__"
_PIECE = 1 << 24  # bytes


class DamagedCheckpoint(InputError):
    """A file that is not the checkpoint that was written."""


def save(
    path: str | Path,
    arrays: Mapping[str, torch.Tensor | np.ndarray],
    meta: Mapping[str, Any],
    keep_as: Path | None = None,
) -> None:
    """Write named arrays and a JSON-able ``meta`` to ``path`` (npz), atomically, with the version of tp4.

    A reader of ``path`` sees the old checkpoint or the new one, never a part: see `tp4lib.base.files.atomic_path`.

    Args:
        keep_as: what the old one is called from then on; None to let it go.

    Raises:
        InputError: an array holds NaN or infinity (the old checkpoint stays), or the folder cannot be written.
    """
    text = json.dumps({"version": VERSION, "tp4": __version__, "meta": dict(meta)})
    header = np.frombuffer(text.encode(), dtype=np.uint8)
    with atomic_path(path) as part, zipfile.ZipFile(part, "w") as file:
        for name, value in {_META: header, **arrays}.items():
            try:
                with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                    _write(member, value if isinstance(value, torch.Tensor) else torch.tensor(value))
            except FloatingPointError:
                raise InputError(
                    f"{name} is no longer finite, so that {path} was not written; expected finite numbers; "
                    "try a smaller --lr"
                ) from None
        file.close()
        if keep_as is not None and Path(path).exists():
            os.replace(path, keep_as)


def load(
    path: str | Path, into: Mapping[str, torch.Tensor] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `save` wrote: ``(arrays, meta)``.

    Args:
        into: tensors to fill with the arrays of their names, which are then not among those returned. Where the file
            turns out to be damaged, they may be filled in part.

    Raises:
        InputError: no such file, not a checkpoint, or written by another version of tp4, whose steps may differ.
            `DamagedCheckpoint`, a kind of it: the file is damaged, or its arrays are not those of ``into``.
    """
    into = into or {}
    with _opened(path) as file:
        meta = _meta(file, path)
        names = [name.removesuffix(".npy") for name in file.files]
        arrays = {}
        for name in names:
            if name in into:
                with file.open(f"{name}.npy") as member, archives.reasons():
                    _fill(member, into[name], name)
            elif name != _META:
                arrays[name] = archives.array(file, f"{name}.npy")
        if missing := set(into) - set(names):
            raise KeyError(min(missing))
    return arrays, meta


def load_meta(path: str | Path) -> dict[str, Any]:
    """The ``meta`` of a checkpoint alone; raises as `load` does."""
    with _opened(path) as file:
        return _meta(file, path)


@contextmanager
def restoring(path: str | Path) -> Iterator[None]:
    """Report any error while a run is restored from a checkpoint as damage of the checkpoint.

    Raises:
        DamagedCheckpoint: instead of any error but another `InputError`.
    """
    try:
        yield
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DamagedCheckpoint(
            f"{path} is damaged or not a checkpoint ({reason}); expected a file written by tp4; "
            "remove it and start again without --resume"
        ) from None


def require_same(saved: Mapping[str, Any], now: Mapping[str, Any], what: str) -> None:
    """Refuse to continue a run under other settings, naming the first difference."""
    for key in sorted(set(saved) | set(now)):
        before, after = (repr(part[key])[:100] if key in part else "nothing" for part in (saved, now))
        if before != after:
            raise InputError(
                f"{what} was started with {key} = {before}, now {key} = {after}; expected the same settings; "
                f"resume with {key} = {before}, or choose another --out"
            )


@contextmanager
def _opened(path: str | Path) -> Iterator[archives.Zip]:
    """The open archive; any failure, also while it is read, is an `InputError`."""
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"no checkpoint at {path}; expected one left by an earlier run; start without --resume"
        )
    with restoring(path), archives.Zip(path) as file:  # archives.Damaged is a ValueError
        yield file


def _meta(file: archives.Zip, path: str | Path) -> dict[str, Any]:
    header = json.loads(archives.array(file, f"{_META}.npy").tobytes().decode())
    version, meta = header["version"], header["meta"]
    if version != VERSION:
        raise InputError(
            f"{path} has checkpoint version {version!r}; this program reads version {VERSION}; "
            "start again without --resume, or finish with the version of tp4 that wrote it"
        )
    if not isinstance(meta, dict):
        raise TypeError("its meta is no dictionary")
    writer = " ".join(str(header.get("tp4", "of an earlier version")).split())[:40]
    if writer != __version__:
        raise InputError(
            f"{path} was written by tp4 {writer}, this is tp4 {__version__}; expected the same version; start again "
            "without --resume in another --out, or finish with the version that wrote it"
        )
    return meta


def _pieces(x: torch.Tensor) -> Iterator[torch.Tensor]:
    """The rows of a tensor, a few megabytes at a time."""
    rows = x.detach().reshape(1) if x.dim() == 0 else x.detach()
    size = rows[:1].numel() * rows.element_size()
    return iter(rows.split(max(1, _PIECE // max(size, 1)))) if rows.numel() else iter(())


def _write(member: BinaryIO, x: torch.Tensor) -> None:
    descr = npy.dtype_to_descr(torch.empty(0, dtype=x.dtype).numpy().dtype)
    npy.write_array_header_2_0(member, dict(descr=descr, fortran_order=False, shape=tuple(x.shape)))
    for piece in _pieces(x):
        # A sum is finite only if all numbers are, and ten times faster; it may be too large where they are not.
        if not (torch.isfinite(piece.sum()) or torch.isfinite(piece).all()):
            raise FloatingPointError
        member.write(piece.cpu().contiguous().numpy().data.cast("B"))


def _fill(member: BinaryIO, x: torch.Tensor, name: str) -> None:
    shape, fortran_order, dtype = archives.header(member)
    expected = torch.empty(0, dtype=x.dtype).numpy().dtype
    if (shape, dtype, fortran_order) != (tuple(x.shape), expected, False):
        raise ValueError(f"{name}: {shape} of {dtype} instead of {tuple(x.shape)} of {expected}")
    for piece in _pieces(x):
        buffer = np.empty(tuple(piece.shape), dtype)
        left = memoryview(buffer).cast("B")
        while left:
            if not (count := member.readinto(left)):
                raise EOFError(f"{name} ends {len(left)} bytes early")
            left = left[count:]
        if not np.isfinite(buffer).all():
            raise ValueError(f"{name} holds numbers that are not finite")
        piece.copy_(torch.from_numpy(buffer))
    if member.read(1):  # only reading to the end makes zipfile verify the checksum
        raise ValueError(f"{name} is longer than its shape")
