"""Images with labels as plain matrices: CIFAR-10 and scikit-learn's digits.

One function, `load`, gives both in the same form: one flattened image per row, centred and scaled to mean square 1.
CIFAR-10 is read from the official archive, from the folder it unpacks to, or from a sample in one ``.npz`` file;
whatever `tp4lib.data.catalogue.find` comes upon.
"""

import hashlib
import itertools
import pickle
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tp4lib.base import archives, checks, packages
from tp4lib.base.device import resolve
from tp4lib.base.errors import InputError
from tp4lib.data.catalogue import Found, find
from tp4lib.data.contents import CIFAR10_BATCHES, CIFAR10_MOST, is_official_batch
from tp4lib.data.listing import DIGITS

CLASSES = 10
_DIGITS_TEST = 297  # of 1,797
_TRAIN_BATCHES = list(CIFAR10_BATCHES)[:-1]  # the last is the test batch


class Images(NamedTuple):
    """Images and labels, ready for a perceptron.

    Attributes:
        train_x: (N, d) training images, one flattened image per row; columns of mean 0, mean square 1 over all.
        train_y: (N,) labels 0..9, int64.
        test_x, test_y: the same for the test images, shifted and scaled by the training images' numbers.
        label: what this is, for titles and captions, e.g. "CIFAR-10, a sample of 5,000 + 1,000 images, at 16 x 16".
        shape: (height, width, channels) of an image, with height * width * channels = d.
        found: where it came from, for `tp4lib.collection.report.Report.data`.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    label: str
    shape: tuple[int, int, int]
    found: Found


def load(
    name: str,
    data_dir: str | Path | None = None,
    *,
    side: int | None = None,
    train_size: int | None = None,
    test_size: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Images:
    """Load images and labels, flattened, centred and scaled to mean square 1 per coordinate.

        x  <-  (x - mean over training images) / s,     s^2 = mean square of all centred training coordinates

    One number s for all coordinates keeps the relative contrast of pixels. A row then has mean square norm d.

    Args:
        name: "cifar10" (falls back to the digits where there is no CIFAR-10; ``.label`` says so) or "digits".
        data_dir: a folder to look in first; see `tp4lib.data.catalogue.find`.
        side: shrink the images to side x side by averaging blocks; it has to divide the side they have. The
            digits (8 x 8) stay as they are if they are no larger.
        train_size, test_size: keep that many images, drawn without replacement; all if None.
        seed: of that draw, and of the digits' split into 1,500 + 297.

    Raises:
        InputError: the name is unknown, a size is impossible, a file is damaged or is not CIFAR-10, or the digits are
            asked for where scikit-learn is not installed.

    >>> images = load("digits", train_size=100)
    >>> images.train_x.shape, images.label
    (torch.Size([100, 64]), "scikit-learn's 8 x 8 handwritten digits, 100 + 297 images")
    """
    if name == "digits":
        found = Found("digits", None, "embedded", DIGITS[0], licence=DIGITS[1])
    elif name == "cifar10":
        found = find("cifar10", data_dir)
    else:
        raise InputError(f"no images called {name!r}; expected cifar10 or digits; try load('digits')")
    seed = checks.whole("seed", seed, least=0, example=0)
    parts = _digits(seed) if found.path is None else _cifar10(found.path)
    counts = {"train_images": len(parts[0][0]), "test_images": len(parts[1][0])}
    found = replace(found, counts=counts, sha256=found.sha256 or _digest(parts))
    train, train_y = _take(*parts[0], train_size, "train_size", seed)
    test, test_y = _take(*parts[1], test_size, "test_size", seed)
    original = train.shape[1]
    if side is not None and (side < original or found.path is not None):
        train, test = _shrink(train, side), _shrink(test, side)
    shape = train.shape[1:]
    resized = "" if shape[0] == original else f", at {side} x {side}"
    label = _label(found.title, len(train), len(test)) + resized
    device = resolve(device)
    train_x, test_x = (x.to(device, dtype) for x in _standardized(train, test, dtype))
    labels = [torch.from_numpy(y).to(device) for y in (train_y, test_y)]
    return Images(train_x, labels[0], test_x, labels[1], label, shape, found)


def _standardized(train: np.ndarray, test: np.ndarray, dtype: torch.dtype) -> list[Tensor]:
    """Flattened images, centred by the mean and divided by the one scale of the training images."""
    # The official training set is 1.2 GB in float64: not more precision than was asked for.
    precision = np.float64 if dtype == torch.float64 else np.float32
    mean = train.mean(axis=0, dtype=np.float64)
    train, test = (np.subtract(x, mean, dtype=precision).reshape(len(x), -1) for x in (train, test))
    scale = np.sqrt(np.square(train).mean(dtype=np.float64))
    if not scale > 0:  # as NaN is not
        raise InputError(
            "all training images are the same, or some hold NaN; expected different ones; try train_size=100"
        )
    return [torch.from_numpy(np.divide(x, scale, out=x, casting="same_kind")) for x in (train, test)]


def _label(title: str, train: int, test: int) -> str:
    """The title with the numbers of images, where it does not have them already."""
    counts = f"{train:,} + {test:,}"
    return title if counts in title else f"{title.split(',')[0]}, {counts} images"


def one_hot(y: Tensor, classes: int = CLASSES, dtype: torch.dtype = torch.float32) -> Tensor:
    """Targets for the square loss, e_y - 1/classes: (N,) labels -> (N, classes), rows of sum 0.

    Centred, so that a network whose logits start near 0 need not learn the constant first.

    >>> one_hot(torch.tensor([1]), 2)
    tensor([[-0.5000,  0.5000]])
    """
    return torch.nn.functional.one_hot(y, classes).to(dtype) - 1 / classes


def _digest(parts: Any) -> str:
    """Of images that are made in memory: of the training images, their labels, and the same of the test."""
    found = hashlib.sha256()
    for array in itertools.chain.from_iterable(parts):
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


# -- sizes ----------------------------------------------------------------------------------------------------------


def _take(x: np.ndarray, y: np.ndarray, size: int | None, what: str, seed: int):
    if size is None or size == len(x):
        return x, y
    size = checks.whole(what, size, most=len(x))
    keep = np.sort(np.random.default_rng(seed).permutation(len(x))[:size])
    return x[keep], y[keep]


def _shrink(x: np.ndarray, side: int) -> np.ndarray:
    """Average blocks: (N, S, S, C) -> (N, side, side, C)."""
    n, s, _, c = x.shape
    side = checks.whole("side", side, most=s, example=s // 2)
    if s % side:
        raise InputError(f"side = {side}; expected a divisor of {s}, the images' side; try side={s // 2}")
    return x.reshape(n, side, s // side, side, s // side, c).mean(axis=(2, 4))


# -- sources: each gives ((train_x, train_y), (test_x, test_y)), x (N, side, side, channels), y (N,) int64 -------


def _digits(seed: int):
    with packages.needed():
        from sklearn.datasets import load_digits
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.images))
    x, y = digits.images[order][..., None].astype(np.float64), digits.target[order].astype(np.int64)
    return (x[:-_DIGITS_TEST], y[:-_DIGITS_TEST]), (x[-_DIGITS_TEST:], y[-_DIGITS_TEST:])


def _cifar10(path: Path):
    try:
        if path.is_dir():
            raw = _from_batches(
                {batch: archives.whole_file(path / batch, CIFAR10_MOST) for batch in CIFAR10_BATCHES}
            )
        elif path.suffix == ".npz":
            arrays = archives.npz(path)
            raw = [(arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in ("train", "test")]
        else:
            raw = _from_batches(dict(archives.tar_gz(path, CIFAR10_BATCHES, CIFAR10_MOST)))
        return tuple(_checked(x, y) for x, y in raw)
    except KeyError as missing:
        problem = f"it holds no {missing}"
    except (OSError, ValueError) as error:  # archives.Damaged among them
        problem = " ".join(str(error).split())
    raise InputError(
        f"cannot read {path.name} as CIFAR-10: {problem}; expected the official "
        "cifar-10-python.tar.gz, its folder cifar-10-batches-py, or cifar10_6k.npz; fetch it again with `tp4 data`"
    )


def _checked(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x), np.asarray(y)
    if x.dtype != np.uint8 or not len(x) or x.shape != (len(x), 32, 32, 3) or y.shape != x.shape[:1]:
        raise ValueError(
            f"images {x.dtype} {x.shape} with labels {y.shape}, not uint8 (N, 32, 32, 3) with (N,)"
        )
    y = y.astype(np.int64)
    if y.min() < 0 or y.max() >= CLASSES:
        raise ValueError(f"labels from {y.min()} to {y.max()}, not 0 to {CLASSES - 1}")
    return x, y


def _from_batches(files: dict[str, bytes]):
    """Only the official batches are unpickled, known byte for byte: a pickle can run anything."""

    def read(batch: str) -> tuple[np.ndarray, list[int]]:
        if not is_official_batch(batch, files[batch]):
            raise archives.Damaged(f"{batch} is not the official file, by its MD5")
        with warnings.catch_warnings(action="ignore"):  # they were written by Python 2 and an old NumPy
            content = pickle.loads(files[batch], encoding="bytes")
        # A row is the red plane, then the green, then the blue one.
        return content[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), content[b"labels"]

    x, y = zip(*map(read, _TRAIN_BATCHES), strict=True)
    return [(np.concatenate(x), np.concatenate(y)), read("test_batch")]
