"""Omniglot's layout on disk: ``<part>/<alphabet>/<character>/<drawing>.png``, each part a folder or a zip.

Every drawing is read once, as bytes (8 MB for all of Omniglot), and its digest is taken of these very bytes: what is
said of the data is said of what is then decoded.
"""

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tp4lib.base import archives
from tp4lib.base.errors import InputError

PARTS = ("images_background", "images_evaluation")
OFFICIAL = "6741849fb07548c3fa4587fdfb76c3aab23f34c5dd1f4ab959df450e30f5ea75"
"""`Drawings.sha256` of all of Omniglot."""
MOST = 1 << 16
"""Bytes of a drawing's file; the largest of Omniglot's has 522."""

_EXPECTED = "expected images_background and images_evaluation, each a folder or a .zip of <alphabet>/<character>/*.png"


@dataclass(frozen=True)
class Drawings:
    """The drawings of one copy.

    Attributes:
        files: ``"images_background/Greek/character01/0001_01.png"`` and its bytes, sorted by name.
        archives: of each part that is a zip, its file.
    """

    files: dict[str, bytes]
    archives: dict[str, Path]

    @cached_property
    def sha256(self) -> str:
        """Digest over the name and the bytes of every drawing; the same for a folder and for a zip of it."""
        found = hashlib.sha256()
        for name, data in self.files.items():
            found.update(f"{name}\0{len(data)}\0".encode("utf-8", "surrogateescape"))
            found.update(data)
        return found.hexdigest()

    @cached_property
    def characters(self) -> dict[str, list[str]]:
        """``"images_background/Greek/character01"`` and the names of its drawings."""
        found: dict[str, list[str]] = {}
        for name in self.files:
            found.setdefault(name.rpartition("/")[0], []).append(name)
        return found

    @property
    def counts(self) -> dict[str, int]:
        """How many characters, alphabets and drawings there are."""
        alphabets = {name.rpartition("/")[0] for name in self.characters}
        return {"characters": len(self.characters), "alphabets": len(alphabets), "drawings": len(self.files)}

    def label(self, name: str) -> str:
        """How to tell a user which file is meant: a name in a zip comes after the zip's."""
        archive = self.archives.get(name.partition("/")[0])
        return f"{archive.name}:{name}" if archive else name


def read(folder: str | Path) -> Drawings:
    """Read all drawings under ``folder``; a part that is both a folder and a zip is taken from the folder.

    Files that macOS adds (``._*.png``, ``__MACOSX/``) are no drawings.

    Raises:
        InputError: a part is missing, a zip is damaged, a drawing is no file of at most `MOST` bytes.
    """
    folder, files, zips = Path(folder), {}, {}
    for part in PARTS:
        if (folder / part).is_dir():
            found = _of_folder(folder, part)
        elif os.path.isfile(path := folder / f"{part}.zip"):
            found, zips[part] = _of_zip(path, part), path
        else:
            raise InputError(
                f"no Omniglot in {folder}: {part} is missing; {_EXPECTED}; fetch them with: tp4 data omniglot"
            )
        files |= {name: found[name] for name in sorted(found)}
    return Drawings(files, zips)


def require_some(drawings: Drawings, folder: str | Path) -> None:
    """Refuse a copy without any drawing."""
    if not drawings.files:
        raise InputError(f"no drawings under {folder}; {_EXPECTED}; fetch them with: tp4 data omniglot")


def corrupt(name: str, why: object) -> InputError:
    """The line about a drawing that cannot be read."""
    return InputError(
        f"{name} is corrupt ({why}); expected a 105 x 105 PNG; remove that copy and fetch it again with: "
        "tp4 data omniglot"
    )


def _of_folder(root: Path, part: str) -> dict[str, bytes]:
    paths = {path.relative_to(root).as_posix(): path for path in (root / part).glob("*/*/*.png")}
    found = {}
    for name, path in paths.items():
        if not archives.is_clutter(name):
            try:
                found[name] = archives.whole_file(path, MOST)
            except archives.Damaged as error:
                raise corrupt(name, error) from None
    return found


def _of_zip(path: Path, part: str) -> dict[str, bytes]:
    try:
        archive = archives.Zip(path)
    except archives.Damaged as error:
        raise InputError(
            f"{path} is truncated or not a zip of Omniglot ({error}); expected the whole archive; remove it and "
            "fetch it again with: tp4 data omniglot"
        ) from None
    found: dict[str, bytes] = {}
    with archive:
        for inside in archive.files:
            if not inside.endswith(".png") or inside.count("/") < 2 or archives.is_clutter(inside):
                continue
            name = "/".join((part, *inside.split("/")[-3:]))
            label = f"{path.name}:{inside}"
            if name in found:
                raise corrupt(label, f"{name} is there twice")
            try:
                found[name] = archive.read(inside, MOST)
            except archives.Damaged as error:
                raise corrupt(label, error) from None
    return found
