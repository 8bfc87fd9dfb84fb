"""Omniglot: 1623 handwritten characters, 20 drawings each; `Tasks` deals them out."""

import hashlib
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from tp4lib import archives, datasets, paths, progress
from tp4lib.errors import InputError
from tp4lib.files import atomic_path
from tp4lib.maml import synthetic
from tp4lib.maml.tasks import Batch, Tasks

__all__ = ["Batch", "Characters", "Tasks", "load", "read", "rotations", "split", "vinyals"]

SIZE = 28
PARTS = ("images_background", "images_evaluation")
VINYALS = (1028, 172, 423)
_VINYALS_VALIDATION = ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")
_MOST = 1 << 16  # bytes of a drawing's file; the largest of Omniglot's has 522
_EXPECTED = "expected images_background and images_evaluation, each a folder or a .zip of <alphabet>/<character>/*.png"


@dataclass(frozen=True)
class Characters:
    """Drawings of characters: ``images`` uint8 ``(classes, drawers, 28, 28)``, ink 255 on paper 0.

    ``names`` are ``images_background/<alphabet>/<character>`` and so on, one a class; ``title`` says in words what they
    are; ``synthetic`` is true where this program drew them.
    """

    images: np.ndarray
    names: list[str]
    title: str
    synthetic: bool


def load(data_dir: str | Path | None = None) -> Characters:
    """Load Omniglot from wherever `tp4lib.datasets` finds it, or draw synthetic characters where it does not.

    Raises:
        InputError: the folder holds no Omniglot, or a damaged one.
    """
    found = datasets.find("omniglot", data_dir)
    if found.path is None:
        images = synthetic.draw()
        names = [f"synthetic/character{c + 1:03d}" for c in range(len(images))]
        return Characters(images, names, found.title, synthetic=True)
    return Characters(*read(found.path, cache=paths.cache_dir()), found.title, synthetic=False)


def read(folder: str | Path, cache: str | Path | None = None) -> tuple[np.ndarray, list[str]]:
    """Read the official layout, folders or zips, and scale every drawing to 28 x 28.

    The drawing, 105 x 105 black on white, is inverted (ink = 1) and resized by antialiased bilinear interpolation, as
    the common pipelines do. Characters come in sorted order, the background set first.

    Args:
        folder: holds ``images_background`` and ``images_evaluation``, each a folder or a ``.zip``.
        cache: a folder for the result, one npz under a name that depends on every drawing's checksum.

    Returns:
        uint8 images ``(classes, drawers, 28, 28)``, and the name of each class.

    Raises:
        InputError: not Omniglot, a truncated zip, a damaged PNG (named), characters with unequal numbers of drawings.
    """
    folder = Path(folder)
    sources = [_Source.open(folder, part) for part in PARTS]
    characters: dict[tuple[str, str, str], list[tuple[_Source, str]]] = {}
    for source in sources:
        for name in sorted(source.checksums):
            alphabet, character = name.split("/")[-3:-1]
            characters.setdefault((source.part, alphabet, character), []).append((source, name))
    if not characters:
        raise InputError(f"no drawings under {folder}; {_EXPECTED}; fetch them with: tp4 data omniglot")
    names = ["/".join(key) for key in characters]
    drawers = len(next(iter(characters.values())))
    for key, drawings in characters.items():
        if len(drawings) != drawers:
            raise InputError(
                f"{'/'.join(key)} has {len(drawings)} drawings and others have {drawers}; expected the same number "
                "of every character; fetch a whole copy with: tp4 data omniglot"
            )

    digest = hashlib.sha256(
        repr([sorted(source.checksums.items()) for source in sources]).encode()
    ).hexdigest()
    path = Path(cache) / f"omniglot28_{digest[:16]}.npz" if cache is not None else None
    if path is not None and path.is_file():
        try:
            images = archives.npz(path)["images"]
            if (images.shape, images.dtype) == ((len(names), drawers, SIZE, SIZE), np.uint8):
                return images, names
        except (archives.Damaged, KeyError):
            pass
        path.unlink()  # a damaged cache is made again

    images = np.empty((len(characters), drawers, SIZE, SIZE), dtype=np.uint8)
    for c, drawings in enumerate(
        progress.bar(characters.values(), desc="reading Omniglot", unit="character")
    ):
        ink = np.stack([_ink(source.bytes(name), f"{source.label}:{name}") for source, name in drawings])
        images[c] = _resize(torch.from_numpy(ink)).numpy()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as part, open(part, "wb") as file:
            np.savez_compressed(file, images=images)
    return images, names


@dataclass(frozen=True)
class _Source:
    """One half of the data set, a folder or a zip, seen as names with checksums."""

    part: str
    label: str
    folder: Path | None
    archive: archives.Zip | None
    checksums: dict[str, int]

    @classmethod
    def open(cls, root: Path, part: str) -> "_Source":
        if (root / part).is_dir():
            files = {p.relative_to(root).as_posix(): p for p in (root / part).glob("*/*/*.png")}
            return cls(part, part, root, None, {name: zlib.crc32(_bytes(p)) for name, p in files.items()})
        path = root / f"{part}.zip"
        if not path.is_file():
            raise InputError(
                f"no Omniglot in {root}: {part} is missing; {_EXPECTED}; fetch them with: tp4 data omniglot"
            )
        try:
            archive = archives.Zip(path)
        except archives.Damaged as error:
            raise InputError(
                f"{path} is truncated or not a zip of Omniglot ({error}); expected the whole archive; remove it and "
                "fetch it again with: tp4 data omniglot"
            ) from None
        inside = {
            name: info.CRC
            for name, info in archive.files.items()
            if name.endswith(".png") and name.count("/") >= 2 and "__MACOSX" not in name
        }
        return cls(part, path.name, None, archive, inside)

    def bytes(self, name: str) -> bytes:
        if self.folder is not None:
            return _bytes(self.folder / name)
        try:
            return self.archive.read(name, _MOST)
        except archives.Damaged as error:
            raise _corrupt(f"{self.label}:{name}", error) from None


def _bytes(path: Path) -> bytes:
    """A drawing from a folder; what is no file, or larger than any drawing, is not read."""
    try:
        if not path.is_file() or path.stat().st_size > _MOST:
            raise _corrupt(path.name, f"no file of at most {_MOST:,} bytes")
        return path.read_bytes()
    except OSError as error:
        raise _corrupt(path.name, error.strerror or error) from None


def _corrupt(name: str, why: object) -> InputError:
    return InputError(
        f"{name} is corrupt ({why}); expected a 105 x 105 PNG; remove that copy and fetch it again with: "
        "tp4 data omniglot"
    )


def _ink(data: bytes, name: str) -> np.ndarray:
    """Decode a drawing to ``(105, 105)`` bool, true where there is ink.

    Omniglot's PNGs have one bit a pixel, no interlacing and unfiltered rows: inflating them is all it takes.
    """
    try:
        if data[:8] != b"\x89PNG\r\n\x1a\n":
            raise ValueError("no PNG signature")
        header, packed, at = b"", b"", 8
        while at + 12 <= len(data):
            (length,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
            body = data[at + 8 : at + 8 + length]
            if data[at + 8 + length : at + 12 + length] != struct.pack(">I", zlib.crc32(kind + body)):
                raise ValueError("a checksum is wrong")
            header = body if kind == b"IHDR" else header
            packed += body if kind == b"IDAT" else b""
            at += 12 + length
        if header != struct.pack(">IIBBBBB", 105, 105, 1, 0, 0, 0, 0):
            raise ValueError("not 105 x 105 pixels of one bit")
        inflated = zlib.decompressobj().decompress(packed, 105 * 15 + 1)  # no more, whatever is packed there
        rows = np.frombuffer(inflated, dtype=np.uint8).reshape(105, 15)
        if rows[:, 0].any():
            raise ValueError("filtered rows")
    except (ValueError, struct.error, zlib.error) as error:
        raise _corrupt(name, error) from None
    return np.unpackbits(rows[:, 1:], axis=1)[:, :105] == 0  # a black pixel, bit 0, is ink


def _resize(ink: torch.Tensor) -> torch.Tensor:
    """(n, 105, 105) bool -> (n, 28, 28) uint8 by antialiased bilinear interpolation."""
    small = F.interpolate(ink[:, None].float(), size=(SIZE, SIZE), mode="bilinear", antialias=True)
    return (255 * small[:, 0]).round().clamp(0, 255).to(torch.uint8)


def split(images: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split characters at random into training, validation and test, in Vinyals' proportions 1028 : 172 : 423.

    Args:
        images: ``(classes, drawers, 28, 28)``; Omniglot's 1623 classes give exactly 1028, 172 and 423.
        seed: of the shuffle; it is a property of the experiment, not of a run.

    Returns:
        three arrays of the same form.

    Raises:
        InputError: fewer than 3 classes.
    """
    classes = len(images)
    if classes < 3:
        raise InputError(
            f"{classes} characters cannot be split in three; expected at least 3; use the whole data set"
        )
    order = np.random.default_rng(seed).permutation(classes)
    validation, test = (max(1, round(classes * size / sum(VINYALS))) for size in VINYALS[1:])
    parts = np.split(order, [classes - validation - test, classes - test])
    return tuple(images[np.sort(part)] for part in parts)


def vinyals(characters: Characters) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The split that the paper used: new *alphabets* to be tested on, not only new characters.

    Test: the last 423 characters of the evaluation set in sorted order. Validation: five alphabets of the background
    set, 172 characters. Training: the other 1028. (Vinyals et al. 2016.) Characters of one alphabet look alike and
    are drawn by the same people, so that this is a little harder than a random `split` of the same sizes.

    Returns:
        three arrays ``(classes, drawers, 28, 28)``; for anything but the whole of Omniglot, `split` with seed 0.
    """
    test = set(characters.names[-VINYALS[2] :])
    validation = {name for name in characters.names if name.split("/")[1] in _VINYALS_VALIDATION} - test
    sizes = (len(characters.names) - len(validation) - len(test), len(validation), len(test))
    if sizes != VINYALS:
        return split(characters.images)
    part = np.array([2 if name in test else name in validation for name in characters.names])
    return tuple(characters.images[part == p] for p in range(3))


def rotations(images: np.ndarray) -> np.ndarray:
    """Add every character turned by 90, 180 and 270 degrees as a character of its own: ``(4 classes, ...)``."""
    return np.concatenate([np.rot90(images, k, axes=(2, 3)) for k in range(4)])
