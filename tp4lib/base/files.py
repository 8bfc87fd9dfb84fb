"""Files that are either whole or absent, and folders in which one run works at a time."""

import hashlib
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tp4lib.base.errors import InputError

PART = ".tp4.part"
"""How the names of our half-written files end; before it stands the process that writes."""

_OUR_PART = re.compile(r"\..+\.(\d+)-[a-z0-9_]+" + re.escape(PART))


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; on success it becomes ``path``, else it is removed.

    The data is flushed to disk before the rename, so that a machine that dies at any moment leaves either the
    old file or the new one, never a part of either.

    Raises:
        InputError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    part = path.parent / f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}{PART}"
    with _writable(path.parent):
        part.touch(exist_ok=False)
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another --out"
        ) from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """What fails inside, fails because ``folder`` cannot be written."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write to the output folder {folder}: {error.strerror}; "
            "expected a folder that can be created and written; choose another with --out DIR"
        ) from None


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as JSON, atomically, with sorted keys; NaN and infinity are refused (they are not JSON)."""
    content = json_bytes(value)
    with atomic_path(path) as part:
        part.write_bytes(content)


def json_bytes(value: Any) -> bytes:
    """What `write_json` writes."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    # A file name that is not UTF-8 holds lone surrogates: written as "\udcff" they are JSON, and come back the same.
    return text.encode("utf-8", "backslashreplace")


def digest(path: str | Path, algorithm: str = "sha256") -> str:
    """Digest of a file, in hexadecimal; read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def out_dir(path: str | Path) -> Path:
    """Create the folder ``path`` if need be, and prove that it can be written before any long work starts.

    Raises:
        InputError: it is a file, or cannot be created or written.
    """
    path = Path(path)
    with _writable(path):
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    return path


def require_disk(needed: int, folder: str | Path, what: str, hint: str) -> None:
    """Refuse, before long work, ``what`` takes more bytes than are free; ``hint`` says what to type instead."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{what} needs {needed / 2**30:.1f} GiB of disk, but {free / 2**30:.1f} GiB are free in {folder}; free "
            f"some space, choose another --out, or {hint}"
        )


@contextmanager
def alone_in(path: str | Path) -> Iterator[Path]:
    """`out_dir`, held for one run: a second one is refused as long as this process lives and is inside.

    The operating system frees the lock when the process ends, however it ends. What a killed run left half-written is
    removed at the start, and a folder made for a run that wrote nothing goes again at the end.

    Raises:
        InputError: the folder cannot be written, or another run works in it.
    """
    path = Path(path)
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        with _locked(out_dir(path) / ".tp4.lock"):
            remove_stale_parts(path)
            yield path
    finally:
        with suppress(OSError):  # the first that is not empty ends it
            for folder in made:
                folder.rmdir()


def remove_stale_parts(folder: Path) -> None:
    """Remove the half-written files that `atomic_path` left in ``folder`` when its process was killed; no others."""
    for part in folder.glob(f".*{PART}"):
        named = _OUR_PART.fullmatch(part.name)
        if named and not _is_running(int(named[1])):
            part.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except PermissionError:  # another user's
        return True
    except (OSError, OverflowError):
        return False
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # not a POSIX system: no such lock
        yield
        return
    while True:
        with _writable(path.parent):
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise InputError(
                f"another run works in {path.parent}; expected a folder that no other run writes to; wait until it "
                "ends, or choose another --out"
            ) from None
        except OSError:  # a file system without locks: go on as before there were any
            pass
        # The run before may have removed this very file between our opening and locking it: then take the new one.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                break
        os.close(handle)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)
