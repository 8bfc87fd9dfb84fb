"""What the files of a data set turn out to hold: a title that follows the content, counts, and a digest.

A name is no proof. A title such as "Omniglot, 1,623 handwritten characters" is given where the digest is that of the
known files; anything else of the same form may be used, and is called what it is.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tp4lib.base import archives, files
from tp4lib.base.errors import InputError
from tp4lib.data import drawings

CIFAR10_BATCHES = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
"""The files of ``cifar-10-batches-py`` that are read, with their official MD5."""

CIFAR10_MOST = 1 << 26
"""Bytes of one of these files; each has 31 million."""


def text(path: Path, official: Mapping[str, str]) -> dict[str, Any]:
    """A text or a packed text.

    Args:
        path: of the file; for `omniglot` and an unpacked `cifar10`, of the folder. So for all readers here.
        official: names of the official downloads and their digests.

    Returns:
        ``title``, ``sha256``, ``counts``, ``official`` and ``held`` of `tp4lib.data.catalogue.Found`, the title as of
        content that is not known.

    Raises:
        InputError: no file, or an empty one; for all readers here: what cannot be read.
    """
    size = _size(path)
    title = f"{path.name}, {size:,} bytes, of unknown digest"
    return {"title": title, "counts": {"bytes": size}, **_digests(path, official)}


def questions(path: Path, official: Mapping[str, str]) -> dict[str, Any]:
    """Analogy questions: all lines but those that begin with a colon."""
    _size(path)
    with _readable(path):
        data = path.read_bytes()
    count = sum(bool(line.strip()) and not line.lstrip().startswith(b":") for line in data.splitlines())
    title, sha256 = f"{path.name}, {count:,} questions", hashlib.sha256(data).hexdigest()
    return {"title": title, "counts": {"questions": count}, "sha256": sha256, "official": None}


def omniglot(path: Path, official: Mapping[str, str]) -> dict[str, Any]:
    """All drawings under a folder in Omniglot's layout."""
    held = drawings.read(path)
    zips = [matches(each, official.get(each.name, "md5:")) for each in held.archives.values()]
    same = held.sha256 == drawings.OFFICIAL or (len(zips) == len(drawings.PARTS) and all(zips))
    counts = held.counts
    title = f"{counts['characters']:,} characters of {counts['alphabets']:,} alphabets in Omniglot's layout"
    return {"title": title, "counts": counts, "sha256": held.sha256, "official": same, "held": held}


def cifar10(path: Path, official: Mapping[str, str]) -> dict[str, Any]:
    """CIFAR-10's archive, the folder it unpacks to, or a sample in one ``.npz`` file."""
    if path.is_dir():
        told = _cifar10_folder(path)
    else:
        _size(path)
        told = _digests(path, official)
    return {"title": "images in CIFAR-10's form", **told}


def _cifar10_folder(path: Path) -> dict[str, Any]:
    found, same = hashlib.sha256(), True
    for name in CIFAR10_BATCHES:
        try:
            data = archives.whole_file(path / name, CIFAR10_MOST)
        except archives.Damaged as error:
            raise InputError(
                f"cannot read {path.name} as CIFAR-10: {name} is {error}; expected the official folder "
                "cifar-10-batches-py; fetch it again with `tp4 data cifar10`"
            ) from None
        found.update(f"{name}\0{len(data)}\0".encode())
        found.update(data)
        same &= is_official_batch(name, data)
    return {"sha256": found.hexdigest(), "official": same}


def is_official_batch(name: str, data: bytes) -> bool:
    """Whether ``data`` is the official file ``name`` of CIFAR-10, byte for byte."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest() == CIFAR10_BATCHES[name]


def readable_digest(path: Path, algorithm: str = "sha256") -> str:
    """`tp4lib.base.files.digest`; a file that cannot be read is refused in one line."""
    with _readable(path):
        return files.digest(path, algorithm)


def matches(path: Path, expected: str) -> bool:
    """Whether the file has the digest ``expected``, written ``"algorithm:hex"``."""
    algorithm, _, value = expected.partition(":")
    return readable_digest(path, algorithm) == value


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror or error}; expected a readable file; choose another folder"
        ) from None


def _size(path: Path) -> int:
    """Bytes of a file; what is no file, or empty, is refused."""
    if not os.path.isfile(path):
        raise InputError(
            f"{path} is {archives.what_is(path)}; expected a file; move it away or choose another folder"
        )
    if not (size := os.path.getsize(path)):
        raise InputError(
            f"{path} is an empty file; expected data; remove it, or choose another folder with --data-dir"
        )
    return size


def _digests(path: Path, official: Mapping[str, str]) -> dict[str, Any]:
    """SHA-256 of a file, and whether it is the official one; None where no official download has its name."""
    sha256, expected = readable_digest(path), official.get(path.name)
    return {"sha256": sha256, "official": expected and expected == f"sha256:{sha256}"}
