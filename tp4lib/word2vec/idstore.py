"""Word ids of long texts, kept on disk: a text is tokenised once, and its ids are never held in memory.

An entry is a NumPy array that is mapped into memory, and a JSON file that is written last: without it, or where the
array does not have the digest it names, there is no entry. It is found by the SHA-256 of the text's file and by how it
was read. Reading a gigabyte to hash it takes about a second, tokenising it a minute; size and time of change, which can
stay the same when a text does not, are never trusted.
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
        """The store of a long text; None for a short one, and, with a line on stderr, where nothing can be written."""
        size = text.stat().st_size * (_PACKED if text.suffix in (".xz", ".gz", ".bz2", ".zip") else 1)
        if min(size, max_bytes or size) < LONG:
            return None
        try:
            return cls(folder or paths.cache_dir() / "corpora", text, how)
        except OSError as error:
            say(f"cannot keep the word ids of {text.name} ({error.strerror or error}); they stay in memory")
            return None

    def keep(
        self, read: Callable[[BinaryIO], tuple[Iterable[np.ndarray], int, dict[str, Any]]]
    ) -> Kept | None:
        """What is kept; where there is nothing, what ``read`` gives `save`, with a scratch file to work in.

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
        """A nameless file beside the entry, which is gone when it is closed, or this process is."""
        return tempfile.TemporaryFile(dir=self.folder)

    def save(self, pieces: Iterable[np.ndarray], total: int, about: dict[str, Any]) -> Kept:
        """Write ``total`` ids that come in pieces, then the entry itself; what `load` gives from now on, or `Full`."""
        seen = hashlib.sha256()
        try:
            with atomic_path(self._ids) as part, open(part, "wb") as file:
                npy.write_array_header_1_0(file, dict(descr="<i4", fortran_order=False, shape=(total,)))
                for piece in pieces:
                    data = np.ascontiguousarray(piece, dtype="<i4")
                    seen.update(data)
                    file.write(data)
            about = about | {"digest": seen.hexdigest()}
            write_json(self._about, about | {"check": _check(about)})
        except InputError as error:
            raise Full(getattr(error.__cause__, "strerror", None) or error) from None
        return np.asarray(np.load(self._ids, mmap_mode="r", allow_pickle=False)), about


class Pieces:
    """Arrays of ids one after another: in memory, or in a scratch file."""

    def __init__(self, scratch: BinaryIO | None = None) -> None:
        self._scratch, self._held = scratch, []

    def append(self, ids: np.ndarray) -> None:
        """Take more ids; raises `Full`."""
        if self._scratch is None:
            self._held.append(ids)
            return
        try:
            self._scratch.write(np.ascontiguousarray(ids, dtype=np.int32))
        except OSError as error:
            raise Full(error.strerror or error) from None

    def __iter__(self) -> Iterator[np.ndarray]:
        if self._scratch is None:
            yield from self._held
            return
        self._scratch.seek(0)
        while data := self._scratch.read(4 * _CHUNK):
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
