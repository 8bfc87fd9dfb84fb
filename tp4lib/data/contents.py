"""What the files of a data set turn out to hold: a title that follows the content, counts, and a digest.

A name is no proof. A title such as "Omniglot, 1,623 handwritten characters" is given where the digest is that of the
known files; anything else of the same form may be used, and is called what it is.
"""

import hashlib
import os
from collections.abc import Collection, Mapping
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


def text(path: Path, title: str, known: Collection[str], official: Mapping[str, str]) -> dict[str, Any]:
    """A text or a packed text.

    Args:
        path: of the file; for `omniglot` and an unpacked `cifar10`, of the folder. So for all readers here.
        title: of the known content.
        known: digests that are proof of it, as ``"sha256:..."`` or ``"md5:..."``, besides
        official: names of the official downloads and their digests.

    Returns:
        ``title``, ``sha256``, ``counts``, ``official`` and ``held`` of `tp4lib.data.catalogue.Found`.

    Raises:
        InputError: no file, or an empty one; for all readers here: what cannot be read.
    """
    size, sha256, is_official = _of_file(path, official)
    same = is_official or any(_is(path, each, sha256) for each in known)
    told = title if same else f"{path.name}, {size:,} bytes, of unknown digest"
    return {"title": told, "sha256": sha256, "counts": {"bytes": size}, "official": is_official}


def questions(path: Path, title: str, known: Collection[str], official: Mapping[str, str]) -> dict[str, Any]:
    """Analogy questions: all lines but those that begin with a colon."""
    _, sha256, _ = _of_file(path, {})
    lines = path.read_bytes().splitlines()
    count = sum(bool(line.strip()) and not line.lstrip().startswith(b":") for line in lines)
    told = title if f"sha256:{sha256}" in known else f"{path.name}, {count:,} questions"
    return {"title": told, "sha256": sha256, "counts": {"questions": count}}


def omniglot(path: Path, title: str, known: Collection[str], official: Mapping[str, str]) -> dict[str, Any]:
    """All drawings under a folder in Omniglot's layout."""
    held = drawings.read(path)
    zips = [matches(each, official.get(each.name, "md5:")) for each in held.archives.values()]
    same = f"sha256:{held.sha256}" in known or (len(zips) == len(drawings.PARTS) and all(zips))
    counts = held.counts
    told = f"{counts['characters']:,} characters of {counts['alphabets']:,} alphabets in Omniglot's layout"
    told = title if same else told
    return {"title": told, "sha256": held.sha256, "counts": counts, "official": same, "held": held}


def cifar10(path: Path, title: str, known: Collection[str], official: Mapping[str, str]) -> dict[str, Any]:
    """CIFAR-10's archive, the folder it unpacks to, or a sample in one ``.npz`` file."""
    if path.is_dir():
        sha256, is_official = _cifar10_folder(path)
    else:
        _, sha256, is_official = _of_file(path, official)
    same = is_official or f"sha256:{sha256}" in known
    told = title if same else "images in CIFAR-10's form"
    return {"title": told, "sha256": sha256, "official": is_official}


def _cifar10_folder(path: Path) -> tuple[str, bool]:
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
    return found.hexdigest(), same


def is_official_batch(name: str, data: bytes) -> bool:
    """Whether ``data`` is the official file ``name`` of CIFAR-10, byte for byte."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest() == CIFAR10_BATCHES[name]


def readable_digest(path: Path, algorithm: str = "sha256") -> str:
    """`tp4lib.base.files.digest`; a file that cannot be read is told in one line."""
    try:
        return files.digest(path, algorithm)
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror or error}; expected a readable file; choose another folder"
        ) from None


def matches(path: Path, expected: str) -> bool:
    """Whether the file has the digest ``expected``, written ``"algorithm:hex"``."""
    algorithm, _, value = expected.partition(":")
    return readable_digest(path, algorithm) == value


def _is(path: Path, expected: str, sha256: str) -> bool:
    """`matches` for a file whose SHA-256 is known already."""
    return expected == f"sha256:{sha256}" if expected.startswith("sha256:") else matches(path, expected)


def _of_file(path: Path, official: Mapping[str, str]) -> tuple[int, str, bool | None]:
    """Bytes and SHA-256 of a file that is one, and not empty, and whether it is official; None where none is."""
    if not os.path.isfile(path):
        raise InputError(
            f"{path} is {archives.what_is(path)}; expected a file; move it away or choose another folder"
        )
    if not (size := os.path.getsize(path)):
        raise InputError(
            f"{path} is an empty file; expected data; remove it, or choose another folder with --data-dir"
        )
    sha256 = readable_digest(path)
    return size, sha256, _is(path, official[path.name], sha256) if path.name in official else None
