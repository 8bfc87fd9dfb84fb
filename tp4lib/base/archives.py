"""Files from outside, read within limits: packed text, zips, tars, npz. Nothing is unpacked onto the disk or executed.

Every reader here raises `Damaged`, with the reason in a few words, for whatever is wrong with a file; the caller knows
what it should have been, and says so in an `InputError`.
"""

import bz2
import codecs
import gzip
import io
import lzma
import math
import os
import stat
import tarfile
import zipfile
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

RATIO = 200
"""Times its own size that an archive may unpack to; text packs 3 to 5 times, images hardly."""
FREE = 64 << 20
"""Bytes that may come out of an archive whatever the ratio: short repetitive texts pack better."""
MOST = 10**11
"""Bytes that may come out of any archive: five times the English Wikipedia."""

_CHUNK = 1 << 16


class Damaged(ValueError):
    """A file that cannot be what it should be; the text says why, on one line."""


@contextmanager
def reasons() -> Iterator[None]:
    """Turn any error of a reader into `Damaged`: a damaged file can fail anywhere, also with a MemoryError."""
    try:
        yield
    except Damaged:
        raise
    except Exception as error:
        words = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise Damaged(words[:200] or type(error).__name__) from None


class Stream:
    """Bytes of a packed file of ``packed`` bytes, no more of them than `RATIO`, `FREE` and `MOST` allow."""

    def __init__(self, file: BinaryIO | io.RawIOBase, packed: int, most: int = MOST) -> None:
        self._file, self._left = file, min(most, max(FREE, RATIO * packed))
        self._limit, self._ahead = self._left, b""

    def skip(self, mark: bytes) -> "Stream":
        """Drop ``mark`` if the bytes begin with it."""
        while len(self._ahead) < len(mark) and (data := self._fresh(len(mark) - len(self._ahead))):
            self._ahead += data
        self._ahead = b"" if self._ahead == mark else self._ahead
        return self

    def read(self, size: int = -1) -> bytes:
        """``size`` bytes, or all that are left where these are fewer or ``size`` is negative."""
        data = self._ahead if size < 0 else self._ahead[:size]
        self._ahead = self._ahead[len(data) :]
        return data + self._fresh(size - len(data) if size >= 0 else -1)

    def _fresh(self, size: int) -> bytes:
        with reasons():
            data = self._file.read(self._left + 1 if size < 0 else min(size, self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise Damaged(f"it unpacks to more than {self._limit:,} bytes, as archives made to do harm do")
        return data


class _Streams(io.RawIOBase):
    """The bytes of all streams of a .xz or .bz2 file.

    Python's own readers stop in silence where something else follows a whole stream, and so take a file whose second
    stream is damaged for one that ends there.
    """

    def __init__(self, file: BinaryIO, start: type) -> None:
        self._file, self._start, self._stream = file, start, start()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        data = b""
        while not data:
            packed = b""
            if self._stream.eof:
                packed = self._stream.unused_data.lstrip(b"\0")  # padding between streams
                while not packed:
                    if not (packed := self._file.read(_CHUNK)):
                        return 0
                    packed = packed.lstrip(b"\0")
                self._stream = self._start()
            elif self._stream.needs_input and not (packed := self._file.read(_CHUNK)):
                raise EOFError("it ends before its text does")
            data = self._stream.decompress(packed, len(buffer))
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def unpacked(path: Path) -> Iterator[Stream]:
    """Open a text, unpacking .xz, .gz, .bz2 and .zip (its one member) on the way, without its byte order mark."""
    with ExitStack() as opened:
        with reasons():
            packed = path.stat().st_size
            raw = opened.enter_context(open(path, "rb"))
        if path.suffix == ".zip":
            with Zip(path) as archive:
                names = [name for name in archive.files if not is_clutter(name)]
                if len(names) != 1:
                    raise Damaged(f"it holds {len(names)} files instead of one text")
                with archive.open(*names) as file:
                    yield Stream(file, packed).skip(codecs.BOM_UTF8)
            return
        with reasons():
            file = _UNPACKED.get(path.suffix, lambda plain: plain)(raw)
        yield Stream(file, packed).skip(codecs.BOM_UTF8)


_UNPACKED = {
    ".gz": lambda raw: gzip.GzipFile(fileobj=raw),
    ".xz": lambda raw: io.BufferedReader(_Streams(raw, lzma.LZMADecompressor)),
    ".bz2": lambda raw: io.BufferedReader(_Streams(raw, bz2.BZ2Decompressor)),
}


class Zip:
    """A zip file in which no name leads outside, nothing is a link or there twice, and the sizes are believable.

    `zipfile` itself refuses what is encrypted or packed by an unknown method, when it is opened.

    Attributes:
        files: the regular files by name, in the order of the archive.
    """

    def __init__(self, path: Path) -> None:
        with ExitStack() as refused, reasons():
            self._zip = refused.enter_context(zipfile.ZipFile(path))
            self.files = self._checked(path.stat().st_size)
            refused.pop_all()  # what is refused is closed; what is not stays open

    def _checked(self, packed: int) -> dict[str, zipfile.ZipInfo]:
        files: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            name, kind = info.filename, stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir():
                continue
            require_inside(name)
            if kind not in (0, stat.S_IFREG):
                raise Damaged(f"its {name[:80]!r} is a link, or no file")
            if name in files:
                raise Damaged(f"it holds {name[:80]!r} twice")
            files[name] = info
        total = sum(info.file_size for info in files.values())
        if total > max(packed, min(MOST, max(FREE, RATIO * packed))):
            raise Damaged(f"its {packed:,} bytes unpack to {total:,}, as archives made to do harm do")
        return files

    def open(self, name: str) -> BinaryIO:
        """A file of the archive; no more comes out of it than ``files[name].file_size`` says."""
        with reasons():
            return self._zip.open(self.files[name])

    def read(self, name: str, most: int) -> bytes:
        """A whole file of at most ``most`` bytes."""
        if self.files[name].file_size > most:
            raise Damaged(f"{self.files[name].file_size:,} bytes where at most {most:,} are expected")
        with reasons():
            return self._zip.read(self.files[name])

    def __enter__(self) -> "Zip":
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()


def tar_gz(path: Path, wanted: Collection[str], most: int) -> Iterator[tuple[str, bytes]]:
    """The regular files of a .tar.gz whose last part of the name is ``wanted``, each of at most ``most`` bytes.

    The archive is read once from front to back, so that no header can send the reader in circles; the checksum is
    verified at the end.
    """
    found: set[str] = set()
    with reasons(), gzip.open(path) as raw:
        stream = Stream(raw, path.stat().st_size, most=(len(wanted) + 1) * most)
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                require_inside(member.name)
                name = PurePosixPath(member.name).name
                if name not in wanted:
                    continue
                if not member.isreg():
                    raise Damaged(f"its {member.name[:80]!r} is a link, or no file")
                if name in found:
                    raise Damaged(f"it holds {name!r} twice")
                if member.size > most:
                    raise Damaged(f"its {name!r} has {member.size:,} bytes; at most {most:,} are expected")
                found.add(name)
                yield name, archive.extractfile(member).read()
        while stream.read(_CHUNK):  # to its end, where the checksum is
            pass


def npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an npz file; none of them may hold objects, and each must be as long as its header says."""
    with Zip(path) as archive:
        return {name.removesuffix(".npy"): array(archive, name) for name in archive.files}


def array(archive: Zip, name: str) -> np.ndarray:
    """One array of an npz file."""
    with archive.open(name) as member, reasons():
        shape, _, dtype = header(member)
        told = dtype.itemsize * math.prod(shape)
        # Before anything is allocated: NumPy believes a header, and reads (and so checksums) no more than it says.
        if min(shape, default=0) < 0 or member.tell() + told != archive.files[name].file_size:
            size = archive.files[name].file_size
            raise Damaged(f"an array of {told:,} bytes by its header, in a file of {size:,}")
    with archive.open(name) as member, reasons():
        return np.lib.format.read_array(member, allow_pickle=False)


def header(member: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether by columns, and type of the array that begins here; objects are refused."""
    version = np.lib.format.read_magic(member)
    if version not in ((1, 0), (2, 0)):
        raise Damaged(f"an array of unknown format {version}")
    first = version == (1, 0)
    read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
    told = read(member)
    if told[2].hasobject:
        raise Damaged("an array of objects, which only a pickle could hold")
    return told


def is_clutter(name: str) -> bool:
    """Whether a file is one that macOS adds to folders and zips; none of them holds data.

    >>> is_clutter("__MACOSX/a/._1.png"), is_clutter("a/._1.png"), is_clutter("a/.DS_Store"), is_clutter("a/1.png")
    (True, True, True, False)
    """
    *folders, last = name.split("/")
    return "__MACOSX" in folders or last.startswith("._") or last == ".DS_Store"


def what_is(path: str | Path) -> str:
    """What a path leads to, in words for a message: "a folder", "a pipe", .., "not there"."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if os.path.islink(path):
            return "a link that leads nowhere"
        return "not there" if isinstance(error, FileNotFoundError) else f"unreadable ({error.strerror})"
    except ValueError:  # a NUL in the name
        return "no name of a file"
    return next((word for is_it, word in _KINDS if is_it(mode)), "no ordinary file")


_KINDS = (
    (stat.S_ISREG, "a file"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def whole_file(path: Path, most: int) -> bytes:
    """A file of at most ``most`` bytes; anything else, such as a pipe, is not opened."""
    if not os.path.isfile(path):
        raise Damaged(what_is(path))
    if (size := os.path.getsize(path)) > most:
        raise Damaged(f"a file of {size:,} bytes, where at most {most:,} are expected")
    with reasons():
        return path.read_bytes()


def require_inside(name: str) -> None:
    """Refuse names that lead out of the archive: absolute ones, and those that go up."""
    plain = name.replace("\\", "/")
    if plain.startswith("/") or ".." in plain.split("/") or "\0" in name or ":" in name[:2]:
        raise Damaged(f"it holds a path that leads outside, {name[:80]!r}")
