"""Word ids of long texts, kept on disk: a text is tokenized once, and its ids are never held in memory.

An entry is a NumPy array that is mapped into memory, and a JSON file that is written last: without it, or where the
array does not have the digest it names, there is no entry. It is found by the SHA-256 of the text's file and by how it
was read; size and modification time can stay the same when a text does not, and are not used.
"""

import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from tp4lib.base import paths
from tp4lib.base.errors import InputError
from tp4lib.base.files import atomic_path, digest, write_json

VERSION = 1
LONG = 32_000_000  # bytes of text from which on it is worth keeping its ids
_PACKED = 3  # bytes of text in a byte of an archive, roughly
_CHUNK = 1 << 22  # ids


Kept = tuple[np.ndarray, dict[str, Any]]
"""The ids, mapped, and what was saved with them."""


class Store:
    """Where the ids of one text, read in one way (``how``), are kept; OSError where the folder cannot be written."""

    def __init__(self, folder: Path, text: Path, how: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.text = folder, text
        with tempfile.TemporaryFile(dir=folder):
            pass
        name = f"{digest(text)[:32]}-{how}-v{VERSION}"
        self._ids, self._about = folder / f"{name}.npy", folder / f"{name}.json"

    @classmethod
    def of(cls, text: Path, how: str, max_bytes: int | None, folder: Path | None = None) -> "Store | None":
        """The store of a long text; None for a short one, and, with a line on stderr, where the folder is read-only."""
        size = text.stat().st_size * (_PACKED if text.suffix in (".xz", ".gz", ".bz2", ".zip") else 1)
        if min(size, max_bytes or size) < LONG:
            return None
        try:
            return cls(folder or paths.cache_dir() / "corpora", text, how)
        except OSError as error:
            say(f"cannot keep the word ids of {text.name} ({error.strerror or error}); they stay in memory")
            return None

    def keep(self, read: Callable[[BinaryIO], tuple[Iterable[np.ndarray], dict[str, Any]]]) -> Kept | None:
        """The entry; where there is none yet, it is made from what ``read`` returns, called with a scratch file.

        None, and a line on stderr, where the disk is full.
        """
        try:
            if (found := self.load()) is None:
                with self.scratch() as scratch:
                    found = self.save(*read(scratch))
            return found
        except Full as error:
            say(f"cannot keep the word ids of {self.text.name} ({error}); reading it into memory")
            return None

    def load(self) -> Kept | None:
        """The entry; None where there is none, or a damaged one."""
        if not self._about.exists():
            return None
        try:
            about = json.loads(self._about.read_text(encoding="utf-8"))
            ids = np.asarray(np.load(self._ids, mmap_mode="r", allow_pickle=False))
            same = about.pop("check") == _check(about) and ids_digest(ids) == about["digest"]
            if same and ids.dtype == np.int32:
                return ids, about
            problem = "not what was saved"
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            problem = type(error).__name__
        say(f"the kept word ids of {self.text.name} are damaged ({problem}); reading the text again")
        return None

    def scratch(self) -> BinaryIO:
        """A nameless file beside the entry, which disappears when it is closed or the process ends."""
        return tempfile.TemporaryFile(dir=self.folder)

    def save(self, ids: Iterable[np.ndarray], about: dict[str, Any]) -> Kept:
        """Write ids that come in pieces, then the entry itself; returns what `load` gives from now on; raises `Full`.

        ``about`` has the ``counts`` of the words, whose sum is the number of ids.
        """
        seen, shape = hashlib.sha256(), (sum(about["counts"]),)
        try:
            with atomic_path(self._ids) as part, open(part, "wb") as file:
                npy.write_array_header_1_0(file, dict(descr="<i4", fortran_order=False, shape=shape))
                for piece in ids:
                    data = np.ascontiguousarray(piece, dtype="<i4")
                    seen.update(data)
                    file.write(data)
            about = about | {"digest": seen.hexdigest()}
            write_json(self._about, about | {"check": _check(about)})
        except InputError as error:
            raise Full(getattr(error.__cause__, "strerror", None) or error) from None
        return np.asarray(np.load(self._ids, mmap_mode="r", allow_pickle=False)), about


def append(scratch: BinaryIO, ids: np.ndarray) -> None:
    """Write int32 ids at the end of a scratch file; raises `Full`."""
    try:
        scratch.write(ids)
    except OSError as error:
        raise Full(error.strerror or error) from None


def pieces(scratch: BinaryIO) -> Iterator[np.ndarray]:
    """The ids of a scratch file, some megabytes at a time."""
    scratch.seek(0)
    while data := scratch.read(4 * _CHUNK):
        yield np.frombuffer(data, dtype=np.int32)


class Full(Exception):
    """There is no room for the ids on disk."""


def ids_digest(ids: np.ndarray) -> str:
    """SHA-256 of ids, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(ids)).hexdigest()


def say(line: str) -> None:
    print(f"tp4: {line}", file=sys.stderr)


def _check(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
