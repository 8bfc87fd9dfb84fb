"""Reading Omniglot in its official layouts, drawing synthetic characters, dealing tasks."""

import math
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from tp4lib.base.errors import InputError
from tp4lib.data import drawn_characters as synthetic
from tp4lib.data import omniglot
from tp4lib.data.omniglot import Characters, Tasks

ALPHABETS = {
    "images_background": {"Greek": 2, "Armenian": 1},
    "images_evaluation": {"ULOG": 3},
}
DRAWERS = 4


def png(paper: np.ndarray) -> bytes:
    """A one-bit PNG as Omniglot's: ``paper`` (105, 105), true where white."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    bits = np.packbits(np.pad(paper, ((0, 0), (0, 7))), axis=1)
    rows = np.concatenate([np.zeros((105, 1), np.uint8), bits], axis=1)
    header = struct.pack(">IIBBBBB", 105, 105, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows.tobytes()))
        + chunk(b"IEND", b"")
    )


def drawings() -> dict[str, bytes]:
    """A small Omniglot: file name -> PNG."""
    generator = np.random.default_rng(0)
    files = {}
    for part, alphabets in ALPHABETS.items():
        for alphabet, count in alphabets.items():
            for c in range(count):
                for drawer in range(DRAWERS):
                    paper = np.ones((105, 105), bool)
                    y, x = generator.integers(10, 70, 2)
                    paper[y : y + 25, x : x + 8] = False
                    files[f"{part}/{alphabet}/character{c + 1:02d}/{c:04d}_{drawer + 1:02d}.png"] = png(paper)
    return files


def write_folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_zips(root: Path, files: dict[str, bytes]) -> Path:
    root.mkdir(exist_ok=True)
    for part in omniglot.PARTS:
        with zipfile.ZipFile(root / f"{part}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                if name.startswith(part):
                    archive.writestr(name, data)
    return root


def test_folders_and_zips_read_the_same_in_the_official_order(tmp_path):
    images, names = omniglot.read(write_folder(tmp_path / "folders", drawings()))
    zipped, zipped_names = omniglot.read(write_zips(tmp_path / "zips", drawings()))
    assert images.shape == (6, DRAWERS, 28, 28)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, zipped)
    assert names == zipped_names
    assert names == [
        "images_background/Armenian/character01",
        "images_background/Greek/character01",
        "images_background/Greek/character02",
        "images_evaluation/ULOG/character01",
        "images_evaluation/ULOG/character02",
        "images_evaluation/ULOG/character03",
    ]


def test_ink_is_one_and_paper_is_zero_and_upright(tmp_path):
    files = drawings()
    paper = np.ones((105, 105), bool)
    paper[15:30, 60:90] = False  # top right
    first = min(files)
    images, _ = omniglot.read(write_folder(tmp_path, {**files, first: png(paper)}))
    drawn = images[0, 0]
    assert drawn[5:7, 18:22].min() == 255
    assert drawn[12:].max() == 0
    # Resizing keeps the amount of ink.
    assert drawn.sum() / 255 / 28**2 == pytest.approx(15 * 30 / 105**2, rel=0.01)


def test_resizing_agrees_with_pillows(tmp_path):
    from PIL import Image

    ink = np.random.default_rng(1).random((105, 105)) < 0.2
    ours = omniglot._resize(torch.from_numpy(ink)[None])[0].numpy().astype(int)
    image = Image.fromarray(np.where(ink, 255, 0).astype(np.uint8))
    theirs = np.asarray(image.resize((28, 28), Image.Resampling.BILINEAR)).astype(int)
    assert abs(ours - theirs).max() <= 1


def test_decoding_agrees_with_pillow():
    import io

    from PIL import Image

    paper = np.random.default_rng(2).random((105, 105)) < 0.7
    data = png(paper)
    theirs = np.asarray(Image.open(io.BytesIO(data)).convert("L")) == 0
    np.testing.assert_array_equal(omniglot._ink(data, "x.png"), theirs)


def test_the_cache_is_used_is_keyed_by_content_and_is_made_again_when_damaged(tmp_path, monkeypatch):
    root, cache = write_zips(tmp_path / "data", drawings()), tmp_path / "cache"
    images, _ = omniglot.read(root, cache)
    (made,) = cache.iterdir()

    with monkeypatch.context() as patch:
        patch.setattr(omniglot, "_ink", None)  # decoding would fail now
        np.testing.assert_array_equal(omniglot.read(root, cache)[0], images)
        # The same content as folders has the same key.
        np.testing.assert_array_equal(
            omniglot.read(write_folder(tmp_path / "f", drawings()), cache)[0], images
        )

    made.write_bytes(made.read_bytes()[:50])
    np.testing.assert_array_equal(omniglot.read(root, cache)[0], images)
    np.testing.assert_array_equal(omniglot.read(root, cache)[0], images)

    files = drawings()
    files[min(files)] = png(np.zeros((105, 105), bool))
    other, _ = omniglot.read(write_zips(root, files), cache)
    assert other[0, 0].min() == 255
    assert len(list(cache.iterdir())) == 2


def test_folder_without_omniglot(tmp_path):
    with pytest.raises(InputError, match=r"images_background is missing; expected .*tp4 data omniglot"):
        omniglot.read(tmp_path)
    (tmp_path / "images_background").mkdir()
    (tmp_path / "images_evaluation").mkdir()
    with pytest.raises(InputError, match="no drawings under"):
        omniglot.read(tmp_path)


def test_truncated_zip(tmp_path):
    root = write_zips(tmp_path, drawings())
    path = root / "images_evaluation.zip"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"images_evaluation.zip is truncated or not a zip"):
        omniglot.read(root, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("layout", [write_folder, write_zips])
@pytest.mark.parametrize("harm", ["no png", "cut", "one bit", "other size", "empty"])
def test_a_corrupt_png_is_named(tmp_path, layout, harm):
    files = drawings()
    name = sorted(files)[7]
    good = files[name]
    files[name] = {
        "no png": b"not a picture",
        "cut": good[: len(good) // 2],
        "one bit": good[:50] + bytes([good[50] ^ 4]) + good[51:],
        "other size": good.replace(struct.pack(">I", 105), struct.pack(">I", 104)),
        "empty": b"",
    }[harm]
    with pytest.raises(InputError, match=f"{name} is corrupt"):
        omniglot.read(layout(tmp_path / "data", files), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_bytes_damaged_inside_a_zip_are_named(tmp_path):
    root = write_zips(tmp_path, drawings())
    path = root / "images_background.zip"
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.infolist()[3]
    data[info.header_offset + 30 + len(info.filename) + 20] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"{info.filename} is corrupt"):
        omniglot.read(root)


def test_a_missing_drawing_is_noticed(tmp_path):
    files = drawings()
    del files[sorted(files)[9]]
    with pytest.raises(InputError, match="has 3 drawings and others have 4"):
        omniglot.read(write_folder(tmp_path, files))


def numbered(classes: int, drawers: int = 20) -> np.ndarray:
    """Images that tell their own class and drawer in two pixels."""
    images = np.zeros((classes, drawers, 28, 28), np.uint8)
    images[:, :, 0, 0] = (np.arange(classes) % 256)[:, None]
    images[:, :, 0, 1] = (np.arange(classes) // 256)[:, None]
    images[:, :, 0, 2] = np.arange(drawers)
    return images


def class_of(images: np.ndarray) -> np.ndarray:
    return images[:, 0, 0, 0].astype(int) + 256 * images[:, 0, 0, 1].astype(int)


def test_split_has_vinyals_sizes_and_every_character_once():
    images = numbered(1623, drawers=2)
    parts = omniglot.split(images, seed=0)
    assert tuple(map(len, parts)) == (1028, 172, 423)
    assert sorted(np.concatenate([class_of(p) for p in parts])) == list(range(1623))
    np.testing.assert_array_equal(parts[0], omniglot.split(images, seed=0)[0])
    assert not np.array_equal(parts[0], omniglot.split(images, seed=1)[0])
    assert [len(p) for p in omniglot.split(numbered(3))] == [1, 1, 1]
    with pytest.raises(InputError, match="2 characters cannot be split"):
        omniglot.split(numbered(2))


def test_vinyals_split_holds_whole_alphabets_out():
    counts = {"Armenian": 41, "Bengali": 46, "Early_Aramaic": 22, "Hebrew": 22, "Mkhedruli_(Georgian)": 41}
    background = [f"images_background/{a}/character{c:02d}" for a, n in counts.items() for c in range(n)]
    background += [f"images_background/Zyx/character{c:03d}" for c in range(964 - len(background))]
    names = sorted(background) + [f"images_evaluation/Any/character{c:03d}" for c in range(659)]
    train, validation, test = omniglot.vinyals(Characters(numbered(1623, 2), names, "", synthetic=False))
    assert (len(train), len(validation), len(test)) == (1028, 172, 423)
    assert sorted(class_of(test)) == list(range(1623 - 423, 1623))
    assert {names[c].split("/")[1] for c in class_of(validation)} == set(counts)
    # Anything else is split at random.
    few = Characters(numbered(30), names[:30], "", synthetic=False)
    np.testing.assert_array_equal(omniglot.vinyals(few)[2], omniglot.split(few.images)[2])


def test_rotations_are_quarter_turns_as_new_classes():
    images = synthetic.draw(classes=3, drawers=2)
    turned = omniglot.rotations(images)
    assert turned.shape == (12, 2, 28, 28)
    np.testing.assert_array_equal(turned[:3], images)
    np.testing.assert_array_equal(turned[3:6, :, ::-1].swapaxes(2, 3), images)
    np.testing.assert_array_equal(np.rot90(turned[9:], axes=(2, 3)), images)


@pytest.mark.parametrize(("ways", "shots", "queries"), [(5, 1, 1), (3, 2, 4), (9, 1, 1)])
def test_tasks_are_what_they_say(ways, shots, queries):
    images = numbered(9, drawers=6)
    tasks = Tasks(images, ways=ways, shots=shots, queries=queries, seed=3)
    batch = tasks.batch(50)
    support_x, support_y, query_x, query_y = batch
    assert support_x.shape == (50, ways * shots, 784)
    assert query_x.shape == (50, ways * queries, 784)
    torch.testing.assert_close(batch.x, tasks.table[batch.index].float() / 255)
    characters, drawers = batch.index // 6, batch.index % 6
    for t in range(50):
        y = batch.y[t]
        assert sorted(support_y[t].tolist()) == sorted(list(range(ways)) * shots)
        assert sorted(query_y[t].tolist()) == sorted(list(range(ways)) * queries)
        names = [characters[t][y == k].unique() for k in range(ways)]
        assert all(len(n) == 1 for n in names)  # one label, one character
        assert len({n.item() for n in names}) == ways
        for k in range(ways):  # all drawings of a character in a task are different ones
            assert len(drawers[t][y == k].unique()) == shots + queries


def test_tasks_are_dealt_uniformly():
    tasks = Tasks(numbered(8, drawers=3), ways=3, seed=0)
    batch = tasks.batch(24_000)
    first = (batch.index // 3)[:, :3]
    counts = np.zeros((8, 8, 8))
    np.add.at(counts, tuple(first.T.numpy()), 1)
    expected = 24_000 / (8 * 7 * 6)
    possible = counts[counts > 0]
    assert len(possible) == 8 * 7 * 6  # every ordered triple, and no repetition
    chi2 = ((possible - expected) ** 2 / expected).sum()
    degrees = 8 * 7 * 6 - 1
    assert abs(chi2 - degrees) < 4 * math.sqrt(2 * degrees)
    pairs = np.bincount((batch.index % 3)[:, 0] * 3 + (batch.index % 3)[:, 3], minlength=9).reshape(3, 3)
    assert np.diag(pairs).sum() == 0
    assert abs(pairs[~np.eye(3, dtype=bool)] - 4000).max() < 4 * math.sqrt(4000)


@pytest.mark.parametrize("dealt", [0, 7, 500, 512, 700])
def test_tasks_go_on_from_a_saved_state_and_are_by_seed(dealt):
    tasks = Tasks(numbered(20), seed=1)
    tasks.batch(dealt)
    state = tasks.state()
    expected = tasks.batch(40)
    other = Tasks(numbered(20), seed=2)
    assert not torch.equal(other.batch(40).index, expected.index)
    other.restore(state)
    assert torch.equal(other.batch(40).index, expected.index)
    assert torch.equal(other.batch(9).index, tasks.batch(9).index)


def test_tasks_do_not_depend_on_how_they_are_batched():
    whole, parts = Tasks(numbered(20), seed=1), Tasks(numbered(20), seed=1, dtype=torch.float64)
    batches = [parts.batch(size) for size in (1, 500, 99, 600)]
    assert batches[0].x.dtype == torch.float64
    assert torch.equal(whole.batch(1200).index, torch.cat([b.index for b in batches]))


def test_too_few_of_anything():
    with pytest.raises(InputError, match=r"4 characters for tasks of 5 ways; expected at least as many"):
        Tasks(numbered(4), ways=5)
    with pytest.raises(InputError, match="3 drawings a character for 2 shots and 2 queries"):
        Tasks(numbered(6, drawers=3), shots=2, queries=2)
    with pytest.raises(InputError, match="shots = 0; expected a whole number >= 1"):
        Tasks(numbered(6), shots=0)


def test_synthetic_characters_are_reproducible_and_labelled():
    images = synthetic.draw(classes=20, drawers=5, seed=4)
    np.testing.assert_array_equal(images, synthetic.draw(classes=20, drawers=5, seed=4))
    assert not np.array_equal(images, synthetic.draw(classes=20, drawers=5, seed=5))
    ink = images.astype(float).mean((2, 3)) / 255
    assert 0.01 < ink.min() < ink.max() < 0.4
    loaded = omniglot.load("embedded")
    assert loaded.synthetic
    assert "synthetic" in loaded.title


def test_drawings_of_one_character_are_alike():
    flat = synthetic.draw(classes=100, drawers=2).reshape(100, 2, -1).astype(float)
    flat /= np.linalg.norm(flat, axis=2, keepdims=True)
    nearest = (flat[:, 0] @ flat[:, 1].T).argmax(1)
    right = (nearest == np.arange(100)).mean()
    assert 0.1 < right < 0.9  # alike, but far from the same
