"""Checkpoints: one npz file of arrays plus JSON, written atomically, read without executing code."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tp4lib.errors import InputError
from tp4lib.files import atomic_path

VERSION = 1
_META = "__meta__"


def save(path: str | Path, arrays: Mapping[str, torch.Tensor | np.ndarray], meta: Mapping[str, Any]) -> None:
    """Write named arrays and a JSON-able ``meta`` to ``path`` (npz), atomically.

    A reader of ``path`` sees the old checkpoint or the new one, never a part: see `tp4lib.files.atomic_path`.
    """
    packed = {name: _to_numpy(value) for name, value in arrays.items()}
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
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if name != _META}
            header = json.loads(file[_META].tobytes().decode())
        version, meta = header["version"], header["meta"]
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        EOFError,
        zipfile.BadZipFile,
        NotImplementedError,
    ) as error:
        raise InputError(
            f"{path} is damaged or not a checkpoint ({type(error).__name__}); expected a file written by tp4; "
            "remove it and start again without --resume"
        ) from None
    if version != VERSION:
        raise InputError(
            f"{path} has checkpoint version {version}; this program reads version {VERSION}; "
            "start again without --resume, or finish with the version of tp4 that wrote it"
        )
    return arrays, meta


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


def _to_numpy(value: torch.Tensor | np.ndarray) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
