"""Pictures come out whole, in the right order and scaled as promised, whatever file holds them."""

import builtins
import gzip
import hashlib
import io
import os
import pickle
import sys
import tarfile

import numpy as np
import pytest
import torch

from tp4lib.base.errors import InputError
from tp4lib.data.contents import CIFAR10_BATCHES
from tp4lib.data.images import load, one_hot

RNG = np.random.default_rng(0)
TRAIN = RNG.integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)
TRAIN_Y = np.arange(50) % 10
TEST = RNG.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
TEST_Y = np.arange(20)[::-1] % 10


def batch(images, labels):
    """One file of the official archive: planes of red, green and blue, in a pickle of protocol 2 with bytes keys."""
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    content = {b"data": np.ascontiguousarray(rows), b"labels": labels.tolist(), b"batch_label": b"one"}
    return pickle.dumps(content, protocol=2)


def batches():
    files = {f"data_batch_{i + 1}": batch(TRAIN[i::5], TRAIN_Y[i::5]) for i in range(5)}
    return files | {"test_batch": batch(TEST, TEST_Y), "batches.meta": b"not read"}


@pytest.fixture
def these_are_official(monkeypatch):
    """The batches above in the place of the official ones, by their digests."""
    for name in CIFAR10_BATCHES:
        digest = hashlib.md5(batches()[name]).hexdigest()
        monkeypatch.setitem(CIFAR10_BATCHES, name, digest)


def write_archive(folder, files):
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def write_folder(folder, files):
    (folder / "cifar-10-batches-py").mkdir()
    for name, content in files.items():
        (folder / "cifar-10-batches-py" / name).write_bytes(content)


def write_npz(folder, **changes):
    arrays = dict(train_images=TRAIN, train_labels=TRAIN_Y, test_images=TEST, test_labels=TEST_Y)
    np.savez(folder / "cifar10_6k.npz", **(arrays | changes))


def plain(images, mean, scale):
    return ((images.astype(np.float64) - mean) / scale).reshape(len(images), -1)


@pytest.mark.parametrize("form", ["archive", "folder", "npz"])
def test_every_form_of_cifar10_gives_the_same_pictures(tmp_path, these_are_official, form):
    if form == "npz":
        write_npz(tmp_path)
        order = np.arange(50)
    else:
        {"archive": write_archive, "folder": write_folder}[form](tmp_path, batches())
        order = np.concatenate([np.arange(50)[i::5] for i in range(5)])
    images = load("cifar10", tmp_path, dtype=torch.float64)
    mean = TRAIN.mean(axis=0, dtype=np.float64)
    scale = np.sqrt(np.mean((TRAIN - mean) ** 2))
    np.testing.assert_allclose(images.train_x.numpy(), plain(TRAIN[order], mean, scale), atol=1e-12)
    np.testing.assert_allclose(images.test_x.numpy(), plain(TEST, mean, scale), atol=1e-12)
    assert images.train_y.tolist() == TRAIN_Y[order].tolist()
    assert images.test_y.tolist() == TEST_Y.tolist()
    assert images.shape == (32, 32, 3)
    title = "CIFAR-10" if form == "folder" else "images in CIFAR-10's form"
    assert images.label == f"{title}, 50 + 20 images"
    assert images.found.counts == {"train_images": 50, "test_images": 20}
    assert images.found.official is {"archive": False, "folder": True, "npz": None}[form]
    assert images.found.source == "data_dir"


def test_scaled_and_centred_by_the_training_pictures_alone(tmp_path):
    write_npz(tmp_path)
    images = load("cifar10", tmp_path, dtype=torch.float64)
    assert images.train_x.mean(0).abs().max() < 1e-12
    assert images.train_x.square().mean() == pytest.approx(1)
    write_npz(tmp_path, test_images=TEST // 2)
    assert torch.equal(load("cifar10", tmp_path, dtype=torch.float64).train_x, images.train_x)


def test_shrinking_averages_blocks(tmp_path):
    write_npz(tmp_path)
    images = load("cifar10", tmp_path, side=8, dtype=torch.float64)
    blocks = np.zeros((50, 8, 8, 3))
    for i in range(8):
        for j in range(8):
            blocks[:, i, j] = TRAIN[:, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].mean(axis=(1, 2))
    mean = blocks.mean(axis=0)
    np.testing.assert_allclose(
        images.train_x.numpy(), plain(blocks, mean, np.sqrt(np.mean((blocks - mean) ** 2))), atol=1e-12
    )
    assert images.shape == (8, 8, 3)
    assert "at 8 x 8" in images.label


def test_a_draw_keeps_pictures_with_their_labels(tmp_path):
    write_npz(tmp_path)
    labels_of = {tuple(image.ravel()): label for image, label in zip(TRAIN, TRAIN_Y)}
    few = load("cifar10", tmp_path, train_size=17, test_size=5, seed=3, dtype=torch.float64)
    assert (len(few.train_x), len(few.test_y)) == (17, 5)
    assert "17 + 5 images" in few.label
    # Undo the scaling through two known pictures' difference: labels have to match pixels up to shift and scale.
    raw = np.array(list(labels_of))
    kept = np.array([TRAIN_Y.tolist()[i] for i in nearest(few.train_x.numpy(), raw)])
    assert kept.tolist() == few.train_y.tolist()
    again = load("cifar10", tmp_path, train_size=17, test_size=5, seed=3, dtype=torch.float64)
    assert torch.equal(few.train_x, again.train_x)
    other = load("cifar10", tmp_path, train_size=17, test_size=5, seed=4, dtype=torch.float64)
    assert not torch.equal(few.train_x, other.train_x)


def nearest(x, raw):
    """For each row the most correlated row of `raw`."""
    raw = raw - raw.mean(0)
    return np.argmax((x @ raw.T) / np.linalg.norm(raw, axis=1), axis=1)


def test_digits_are_whole_split_and_learnable():
    images = load("digits", dtype=torch.float64)
    assert images.train_x.shape == (1500, 64)
    assert images.test_x.shape == (297, 64)
    assert images.found.is_embedded
    assert images.label == "scikit-learn's 8 x 8 handwritten digits, 1,500 + 297 images"
    assert torch.bincount(torch.cat([images.train_y, images.test_y])).tolist() == [
        178, 182, 177, 183, 181, 182, 181, 179, 174, 180,
    ]  # fmt: skip
    # Pixels belong to their labels: least squares reads more than 9 in 10 unseen digits.
    w = torch.linalg.lstsq(
        images.train_x, one_hot(images.train_y, dtype=torch.float64), driver="gelsd"
    ).solution
    assert ((images.test_x @ w).argmax(1) == images.test_y).double().mean() > 0.9


def test_falls_back_to_digits_and_says_so(monkeypatch):
    monkeypatch.setenv("TP4_DATA", "embedded")
    images = load("cifar10", side=16)
    assert "digits" in images.label
    assert "CIFAR" not in images.label
    assert images.shape == (8, 8, 1)
    assert images.found.name == "cifar10"
    assert load("cifar10", side=4).shape == (4, 4, 1)


def test_one_hot_is_centred():
    targets = one_hot(torch.arange(10))
    torch.testing.assert_close(targets.sum(1), torch.zeros(10))
    assert targets.argmax(1).tolist() == list(range(10))


class Dangerous:
    def __reduce__(self):
        return os.mkdir, ("was-run",)


@pytest.mark.parametrize("content", [{b"data": Dangerous()}, {b"data": sys.exit}, {}])
def test_a_pickle_that_is_not_the_official_one_is_not_unpickled(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path, batches() | {"data_batch_1": pickle.dumps(content, protocol=2)})
    with pytest.raises(InputError, match="data_batch_1 is not the official file, by its MD5"):
        load("cifar10", tmp_path)
    assert not (tmp_path / "was-run").exists()


def cut(content):
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: write_npz(folder, train_images=TRAIN[:, :16]),
        lambda folder: write_npz(folder, train_images=TRAIN.astype(np.float32)),
        lambda folder: write_npz(folder, train_labels=TRAIN_Y[:-1]),
        lambda folder: write_npz(folder, train_labels=TRAIN_Y + 1),
        lambda folder: write_npz(folder, test_images=TEST[:0], test_labels=TEST_Y[:0]),
        lambda folder: np.savez(folder / "cifar10_6k.npz", train_images=TRAIN),
        lambda folder: np.savez(
            folder / "cifar10_6k.npz", train_images=np.array([None]), train_labels=TRAIN_Y
        ),
        lambda folder: (folder / "cifar10_6k.npz").write_bytes(b"not a zip"),
        lambda folder: (folder / "cifar-10-python.tar.gz").write_bytes(b"not an archive"),
        lambda folder: (folder / "cifar-10-python.tar.gz").write_bytes(
            gzip.compress(b"no tar")[:-9] + b"x" * 9
        ),
        lambda folder: write_archive(folder, {"data_batch_1": batches()["data_batch_1"]}),
        lambda folder: write_archive(folder, batches() | {"data_batch_3": cut(batches()["data_batch_3"])}),
        lambda folder: write_folder(folder, batches() | {"test_batch": b"\x80\x02K\x01."}),
        lambda folder: write_folder(folder, {"test_batch": batches()["test_batch"]}),
        lambda folder: write_folder(folder, batches() | {"data_batch_2": b""}),
    ],
)
def test_damaged_files_are_refused_in_one_line(tmp_path, these_are_official, damage):
    damage(tmp_path)
    with pytest.raises(InputError, match=r"as CIFAR-10.*tp4 data") as caught:
        load("cifar10", tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (dict(name="mnist"), "expected cifar10 or digits"),
        (dict(name="digits", train_size=0), "train_size = 0; expected a whole number from 1 to 1500"),
        (dict(name="digits", train_size=1), "images are the same"),
        (dict(name="digits", test_size=298), "test_size = 298; expected a whole number from 1 to 297"),
        (dict(name="digits", side=3), "side = 3; expected a divisor of 8"),
        (dict(name="digits", side=0), "side = 0"),
        (dict(name="cifar10", data_dir="nowhere"), "no data folder"),
    ],
)
def test_bad_arguments_are_refused(args, text):
    with pytest.raises(InputError, match=text):
        load(**args)


def test_without_scikit_learn_the_line_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def fake(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fake)
    with pytest.raises(InputError, match="scikit-learn is not installed"):
        load("digits")
