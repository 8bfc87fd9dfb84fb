"""Omniglot: 1623 handwritten characters, 20 drawings each; `Tasks` deals them out."""

import hashlib
import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from tp4lib.base import archives, packages, paths, progress
from tp4lib.base.errors import InputError
from tp4lib.base.files import atomic_path
from tp4lib.data import catalogue as datasets
from tp4lib.data import drawings
from tp4lib.data import drawn_characters as synthetic
from tp4lib.data.few_shot import Batch, Tasks

__all__ = ["Batch", "Characters", "Tasks", "load", "read", "rotations", "split", "vinyals"]

SIZE = 28
PARTS = drawings.PARTS
VINYALS = (1028, 172, 423)
_VINYALS_VALIDATION = ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")
_SIDE = 105  # of a drawing
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.pack(">IIBBBBB", _SIDE, _SIDE, 1, 0, 0, 0, 0)  # grey levels of one bit, not interlaced


@dataclass(frozen=True)
class Characters:
    """Drawings of characters: ``images`` uint8 ``(classes, drawers, 28, 28)``, ink 255 on paper 0.

    ``names`` are ``images_background/<alphabet>/<character>`` and so on, one a class; ``title`` says in words what they
    are; ``synthetic`` is true where this program drew them; ``found`` is where they came from, with their digest.
    """

    images: np.ndarray
    names: list[str]
    title: str
    synthetic: bool
    found: datasets.Found | None = None


def load(data_dir: str | Path | None = None) -> Characters:
    """Load Omniglot from wherever `tp4lib.data.catalogue` finds it, or draw synthetic characters where it does not.

    Raises:
        InputError: the folder holds no Omniglot, or a damaged one.
    """
    found = datasets.find("omniglot", data_dir)
    if found.path is None:
        images = synthetic.draw()
        names = [f"synthetic/character{c + 1:03d}" for c in range(len(images))]
        counts = {"characters": len(images), "drawings": images.shape[0] * images.shape[1]}
        found = replace(found, sha256=hashlib.sha256(images.data).hexdigest(), counts=counts)
        return Characters(images, names, found.title, synthetic=True, found=found)
    # `held` has the very bytes that the title and the digest are of.
    images, names = _images(found.held, found.path, paths.cache_dir())
    return Characters(images, names, found.title, synthetic=False, found=found)


def read(folder: str | Path, cache: str | Path | None = None) -> tuple[np.ndarray, list[str]]:
    """Read the official layout, folders or zips, and scale every drawing to 28 x 28.

    The drawing, 105 x 105 black on white, is inverted (ink = 1) and resized by antialiased bilinear interpolation, as
    the common pipelines do. Characters come in sorted order, the background set first.

    Args:
        folder: holds ``images_background`` and ``images_evaluation``, each a folder or a ``.zip``.
        cache: a folder for the result, one npz under a name that depends on the name and the bytes of every drawing.

    Returns:
        uint8 images ``(classes, drawers, 28, 28)``, and the name of each class.

    Raises:
        InputError: not Omniglot, a truncated zip, a damaged PNG (named), characters with unequal numbers of drawings.
    """
    return _images(drawings.read(folder), folder, cache)


def _images(
    drawn: drawings.Drawings, folder: str | Path, cache: str | Path | None
) -> tuple[np.ndarray, list[str]]:
    drawings.require_some(drawn, folder)
    names = list(drawn.characters)
    drawers = len(drawn.characters[names[0]])
    for character, files in drawn.characters.items():
        if len(files) != drawers:
            raise InputError(
                f"{character} has {len(files)} drawings and others have {drawers}; expected the same number of every "
                "character; fetch a whole copy with: tp4 data omniglot"
            )
    path = Path(cache) / f"omniglot28_{drawn.sha256[:32]}.npz" if cache is not None else None
    shape = (len(names), drawers, SIZE, SIZE)
    if path is not None and path.is_file():
        try:
            images = archives.npz(path)["images"]
            if (images.shape, images.dtype) == (shape, np.uint8):
                return images, names
        except (archives.Damaged, KeyError):
            pass
        path.unlink()  # a damaged cache is made again

    images = np.empty(shape, dtype=np.uint8)
    characters = progress.bar(drawn.characters.values(), desc="reading Omniglot", unit="character")
    for c, files in enumerate(characters):
        ink = np.stack([_ink(drawn.files[name], drawn.label(name)) for name in files])
        images[c] = _resize(torch.from_numpy(ink)).numpy()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as part, open(part, "wb") as file:
            np.savez_compressed(file, images=images)
    return images, names


def _ink(data: bytes, name: str) -> np.ndarray:
    """Decode a drawing to ``(105, 105)`` bool, true where there is ink.

    Omniglot's own PNGs have one bit a pixel, no interlacing and unfiltered rows: inflating them is all it takes. What
    another program saved of the same pixels is left to Pillow.
    """
    try:
        chunks = list(_chunks(data))
        header = next((body for kind, body in chunks if kind == b"IHDR"), b"")
        width, height = struct.unpack(">II", header[:8])
        if (width, height) != (_SIDE, _SIDE):
            raise _unfit(name, f"{width:,} x {height:,} pixels")
        if header != _HEADER:
            return _ink_by_pillow(data, name)
        packed = b"".join(body for kind, body in chunks if kind == b"IDAT")
        row = 1 + (_SIDE + 7) // 8  # a filter's number, then the bits
        # One byte more than there should be, and no more than that, whatever is packed there.
        inflated = zlib.decompressobj().decompress(packed, _SIDE * row + 1)
        rows = np.frombuffer(inflated, dtype=np.uint8).reshape(_SIDE, row)
        if rows[:, 0].any():
            return _ink_by_pillow(data, name)
    except InputError:
        raise
    except (ValueError, struct.error, zlib.error) as error:
        raise drawings.corrupt(name, error) from None
    return np.unpackbits(rows[:, 1:], axis=1)[:, :_SIDE] == 0  # a black pixel, bit 0, is ink


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and body of a PNG's chunks, each with the right checksum."""
    if data[:8] != _SIGNATURE:
        raise ValueError("no PNG signature")
    at, kind = 8, b""
    while at + 12 <= len(data):
        (length,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        body, check = data[at + 8 : at + 8 + length], data[at + 8 + length : at + 12 + length]
        if check != struct.pack(">I", zlib.crc32(kind + body)):
            raise ValueError("a checksum is wrong")
        yield kind, body
        at += 12 + length


def _ink_by_pillow(data: bytes, name: str) -> np.ndarray:
    """The same of a PNG in any form whose pixels are all black or white."""
    with packages.needed():
        from PIL import Image, UnidentifiedImageError
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            mode = image.mode
            pixels = np.asarray(image.convert("RGBA"))
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as error:
        raise ValueError(" ".join(str(error).split())[:100]) from None
    black, white = ((pixels == (*[shade] * 3, 255)).all(-1) for shade in (0, 255))
    if not (black | white).all():
        raise _unfit(
            name, f"a PNG of mode {mode} with {int((~(black | white)).sum()):,} pixels of other colours"
        )
    return black


def _unfit(name: str, what: str) -> InputError:
    """A whole PNG, but none of Omniglot's form: to remove it is not the advice."""
    return InputError(
        f"{name} is {what}; expected a 105 x 105 PNG of black ink on white paper, without grey or transparent pixels; "
        "convert it, or use the official files: tp4 data omniglot"
    )


def _resize(ink: torch.Tensor) -> torch.Tensor:
    """(n, 105, 105) bool -> (n, 28, 28) uint8 by antialiased bilinear interpolation."""
    small = F.interpolate(ink[:, None].float(), size=(SIZE, SIZE), mode="bilinear", antialias=True)
    return (255 * small[:, 0]).round().clamp(0, 255).to(torch.uint8)


def split(images: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split characters at random into training, validation and test, in Vinyals' proportions 1028 : 172 : 423.

    Args:
        images: ``(classes, drawers, 28, 28)``; Omniglot's 1623 classes give exactly 1028, 172 and 423.
        seed: of the shuffle; it is a property of the experiment, not of a run.
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

    For anything but the whole of Omniglot it is `split` with seed 0.
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
