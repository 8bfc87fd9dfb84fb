"""Files that are either whole or absent."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tp4lib.errors import InputError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; on success it becomes ``path``, else it is removed.

    The data is flushed to disk before the rename, so that a machine that dies at any moment leaves either the
    old file or the new one, never a part of either.

    Raises:
        InputError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
    except OSError as error:
        raise InputError(
            f"cannot write in {path.parent}: {error.strerror}; expected a writable folder; choose another --out"
        ) from None
    part = Path(name)
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(part, 0o666 & ~_umask())
        os.replace(part, path)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another --out"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as JSON, atomically, with sorted keys; NaN and infinity are refused (they are not JSON)."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")


def out_dir(path: str | Path) -> Path:
    """Create the folder ``path`` if need be, and prove that it can be written before any long work starts.

    Raises:
        InputError: it is a file, or cannot be created or written.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(
            f"cannot write to the output folder {path}: {error.strerror}; "
            "expected a folder that can be created and written; choose another with --out DIR"
        ) from None
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
