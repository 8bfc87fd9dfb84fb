"""What was read is what is said: titles, counts and digests follow the content of a data set, never a name."""

import io
import os
import shutil
import socket
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.data.test_images import batches, write_npz
from tests.data.test_images import write_folder as write_batches
from tests.data.test_omniglot import ALPHABETS, DRAWERS, drawings, png, write_folder, write_zips
from tp4lib.base import archives, environment
from tp4lib.base.errors import InputError
from tp4lib.data import catalogue as datasets
from tp4lib.data import drawings as layouts
from tp4lib.data import images, omniglot, provenance
from tp4lib.word2vec import Corpus

CHARACTERS = sum(count for part in ALPHABETS.values() for count in part.values())
TITLE = "6 characters of 3 alphabets in Omniglot's layout"


@pytest.fixture(autouse=True)
def nowhere_else(tmp_path, monkeypatch):
    """No data but what a test names; the cache in its own folder."""
    monkeypatch.delenv("TP4_DATA", raising=False)
    monkeypatch.setenv("TP4_OFFLINE", "1")
    monkeypatch.setenv("TP4_CACHE", str(tmp_path / "cache"))
    datasets._tell_if_useless.cache_clear()


def said(folder):
    """Title, counts and digest as ``metrics.json`` has them."""
    source = provenance.source(datasets.find("omniglot", folder))
    return source["title"], source["counts"], source["sha256"]


# -- Omniglot -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [write_folder, write_zips])
def test_a_small_copy_is_called_what_it_is(tmp_path, layout):
    folder = layout(tmp_path / "data", drawings())
    title, counts, digest = said(folder)
    assert title == TITLE
    assert counts == {"characters": CHARACTERS, "alphabets": 3, "drawings": CHARACTERS * DRAWERS}
    loaded = omniglot.load(folder)
    assert (loaded.title, loaded.found.sha256, len(loaded.images)) == (title, digest, CHARACTERS)
    assert datasets.verify(loaded.found) == "differs"


def test_folders_zips_and_one_of_each_are_the_same_data(tmp_path):
    files = drawings()
    folder, zips = write_folder(tmp_path / "folder", files), write_zips(tmp_path / "zips", files)
    mixed = write_folder(tmp_path / "mixed", {n: d for n, d in files.items() if "background" in n})
    shutil.copy(zips / "images_evaluation.zip", mixed)
    assert said(folder) == said(zips) == said(mixed)


def test_the_known_digest_gives_the_known_title(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "data", drawings())
    monkeypatch.setattr(layouts, "OFFICIAL", said(folder)[2])
    found = datasets.find("omniglot", folder)
    assert (found.title, found.official) == ("Omniglot, 1,623 handwritten characters", True)


CHANGES = [
    "add a character",
    "add an alphabet",
    "remove a character",
    "rename",
    "alter",
    "swap",
    "only metadata",
]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(change=st.sampled_from(CHANGES), at=st.integers(0, CHARACTERS - 1), zips=st.booleans())
def test_whatever_changes_in_the_drawings_is_seen(tmp_path_factory, change, at, zips):
    """The digest changes with any drawing; counts and title with the number of characters and alphabets."""
    files, layout = drawings(), write_zips if zips else write_folder
    before = said(layout(tmp_path_factory.mktemp("before"), files))
    character = sorted({name.rpartition("/")[0] for name in files})[at]
    mine = [name for name in files if name.startswith(f"{character}/")]
    other = next(name for name in files if files[name] != files[mine[0]])
    if change.startswith("add"):
        new = f"{character}b" if change == "add a character" else "images_background/Latin/character01"
        files |= {name.replace(character, new): files[name] for name in mine}
    elif change == "remove a character":
        files = {name: data for name, data in files.items() if name not in mine}
    elif change == "rename":
        files[f"{mine[0][:-4]}x.png"] = files.pop(mine[0])
    elif change == "alter":
        files[mine[0]] = png(np.eye(105, dtype=bool))
    elif change == "swap":
        files[mine[0]], files[other] = files[other], files[mine[0]]
    else:
        files[mine[0]] += b"\0"
    after = said(layout(tmp_path_factory.mktemp("after"), files))
    assert after[2] != before[2]
    moved = change.startswith(("add", "remove"))
    assert (after[1] != before[1]) == (after[0] != before[0]) == moved


@pytest.mark.parametrize("layout", [write_folder, write_zips])
def test_what_macos_adds_is_no_drawing(tmp_path, layout):
    files = drawings()
    plain = said(layout(tmp_path / "plain", files))
    clutter = {
        f"{name.rpartition('/')[0]}/._{name.rpartition('/')[2]}": b"\0\5\x16\7" for name in list(files)[:9]
    }
    clutter |= {"images_background/.DS_Store": b"x", "images_background/__MACOSX/a/b/._1.png": b"x"}
    assert said(layout(tmp_path / "mac", files | clutter)) == plain
    assert len(omniglot.read(tmp_path / "mac")[0]) == CHARACTERS


def test_a_zip_of_a_text_made_by_macos_is_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "text.zip", "w") as archive:
        archive.writestr("text", "good words here and there " * 40)
        archive.writestr("__MACOSX/._text", b"\0\5\x16\7")
    assert Corpus.load(tmp_path / "text.zip", min_count=1).raw_tokens == 200


def saved_by_another_program(data, mode, **options):
    file = io.BytesIO()
    Image.open(io.BytesIO(data)).convert(mode).save(file, "PNG", **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_the_same_pixels_saved_by_another_program_are_the_same_drawings(tmp_path, mode):
    files = drawings()
    others = {name: saved_by_another_program(data, mode, optimize=True) for name, data in files.items()}
    assert all(others[name] != files[name] for name in files)
    images, names = omniglot.read(write_folder(tmp_path / "other", others))
    expected, expected_names = omniglot.read(write_folder(tmp_path / "own", files))
    np.testing.assert_array_equal(images, expected)
    assert names == expected_names
    assert said(tmp_path / "other")[2] != said(tmp_path / "own")[2]


def test_pictures_of_another_kind_are_not_called_corrupt(tmp_path):
    paper = np.full((105, 105), 255, np.uint8)
    paper[20:30] = 100
    made = {
        "grey": (Image.fromarray(paper), "a PNG of mode L with 1,050 pixels of other colours"),
        "small": (Image.fromarray(paper[:28, :28]), "28 x 28 pixels"),
        "clear": (Image.new("RGBA", (105, 105)), "a PNG of mode RGBA with 11,025 pixels of other colours"),
    }
    for kind, (image, what) in made.items():
        files, file = drawings(), io.BytesIO()
        image.save(file, "PNG")
        files[min(files)] = file.getvalue()
        with pytest.raises(InputError, match=f"{min(files)} is {what}; expected a 105 x 105 PNG") as caught:
            omniglot.read(write_folder(tmp_path / kind, files))
        assert "remove" not in str(caught.value)


def test_drawn_characters_have_a_digest_and_say_that_they_are_drawn():
    source = provenance.source(omniglot.load("embedded").found)
    assert source["synthetic"]
    assert source["counts"]["characters"] == 300
    assert len(source["sha256"]) == 64
    assert "drawn by this program" in source["title"]


# -- texts, questions, pictures ---------------------------------------------------------------------------------------


def test_a_text_is_not_the_text8_by_its_name(tmp_path):
    (tmp_path / "text8").write_text("a few words")
    found = datasets.find("text8", tmp_path)
    assert found.title == "text8, 11 bytes, of unknown digest"
    assert provenance.source(found)["counts"] == {"bytes": 11}
    assert datasets.verify(found) == "no digest"
    (tmp_path / "text8").unlink()
    (tmp_path / "text8.zip").write_bytes(b"x")
    assert datasets.verify(datasets.find("text8", tmp_path)) == "differs"


def odd_things(tmp_path):
    """Paths of things that are no files, by what they are called."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "empty").touch()
    listener = socket.socket(socket.AF_UNIX)
    here = os.open(tmp_path, os.O_RDONLY)  # a socket's own path may not be long
    listener.bind(f"/proc/self/fd/{here}/socket")
    os.close(here)
    listener.close()
    return {"folder": "a folder", "pipe": "a pipe", "link": "a link that leads nowhere", "device": "a device",
            "empty": "an empty file", "socket": "a socket"}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("text8", "text8"),
        ("fil9", "fil9.xz"),
        ("questions", "questions-words.txt"),
        ("cifar10", "cifar10_6k.npz"),
    ],
)
@pytest.mark.parametrize("by", ["data_dir", "TP4_DATA"])
def test_what_is_no_file_is_named_as_what_it_is(tmp_path, monkeypatch, name, file, by):
    for thing, called in odd_things(tmp_path).items():
        folder = tmp_path / f"in_{thing}"
        folder.mkdir()
        os.rename(tmp_path / thing, folder / file)
        if by == "TP4_DATA":
            monkeypatch.setenv("TP4_DATA", str(folder))
        with pytest.raises(InputError, match=rf"{file} is {called}; expected"):
            datasets.find(name, folder if by == "data_dir" else None)


def test_questions_are_counted(tmp_path):
    (tmp_path / "questions-words.txt").write_text(": x\na b c d\n\nb c d e\n")
    found = datasets.find("questions", tmp_path)
    assert (found.title, found.counts) == ("questions-words.txt, 2 questions", {"questions": 2})
    assert datasets.find("questions").counts == {"questions": 19544}


def test_a_sample_of_cifar10_is_known_by_its_digest_alone(tmp_path):
    write_npz(tmp_path)
    before = images.load("cifar10", tmp_path).found
    write_npz(tmp_path, test_labels=np.zeros(20, int))
    after = images.load("cifar10", tmp_path).found
    assert before.title == after.title == "images in CIFAR-10's form"
    assert before.sha256 != after.sha256
    assert after.counts == {"train_images": 50, "test_images": 20}


def test_the_digest_of_cifar10s_folder_is_over_its_files(tmp_path):
    files = batches()
    write_batches(tmp_path, files)
    digests = {datasets.find("cifar10", tmp_path).sha256}
    for name in ("data_batch_4", "test_batch"):
        (tmp_path / "cifar-10-batches-py" / name).write_bytes(files["data_batch_1"])
        digests.add(datasets.find("cifar10", tmp_path).sha256)
    assert len(digests) == 3
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").unlink()
    with pytest.raises(InputError, match="as CIFAR-10: data_batch_2 is not there; expected"):
        datasets.find("cifar10", tmp_path)


def test_digits_have_a_digest():
    found = images.load("digits", train_size=100).found
    assert found.counts == {"train_images": 1500, "test_images": 297}
    assert found.sha256 == images.load("digits").found.sha256 != images.load("digits", seed=1).found.sha256


def test_no_picture_becomes_zeros_by_a_number_that_is_none(monkeypatch):
    real = images._digits

    def with_nan(seed):
        (x, y), test = real(seed)
        x[3, 2, 2] = np.nan
        return (x, y), test

    monkeypatch.setattr(images, "_digits", with_nan)
    with pytest.raises(InputError, match="hold NaN"):
        images.load("digits")
    with pytest.raises(InputError, match="images of float64; expected uint8"):
        omniglot.Tasks(np.full((6, 3, 28, 28), np.nan))


# -- where data are looked for ------------------------------------------------------------------------------------


@pytest.mark.parametrize("thing", ["a file", "not there"])
def test_a_folder_of_data_that_is_none(tmp_path, monkeypatch, thing):
    where = tmp_path / "here"
    if thing == "a file":
        where.touch()
    with pytest.raises(InputError, match=f"no data folder .*: it is {thing}; expected a folder"):
        datasets.find("omniglot", where)
    monkeypatch.setenv("TP4_DATA", str(where))
    with pytest.raises(InputError, match=f"TP4_DATA=.*: it is {thing}; expected a folder"):
        datasets.find("omniglot")


def test_a_folder_without_any_data_set_is_told_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TP4_DATA", str(tmp_path))
    assert datasets.find("omniglot").is_embedded
    assert datasets.find("omniglot").is_embedded
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "holds none of text8, fil9" in line
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "text8").write_text("words")
    monkeypatch.setenv("TP4_DATA", str(tmp_path / "other"))
    assert datasets.find("omniglot").is_embedded  # it is of use for another data set
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("value", "is_offline"), [("false", False), ("0", False), ("no", False), ("yes", True)]
)
def test_offline_is_a_switch(monkeypatch, value, is_offline):
    monkeypatch.setenv("TP4_OFFLINE", value)
    assert environment.flag("TP4_OFFLINE") is is_offline


def test_a_dump_is_cleaned_anew_when_it_is_another(tmp_path, monkeypatch):

    monkeypatch.setattr(datasets, "clean_wikipedia", lambda dump, target: shutil.copy(dump, target))
    folder = tmp_path / "data"
    folder.mkdir()
    for content in (b"one", b"another"):
        (folder / "enwik9.zip").write_bytes(content)
        assert datasets.find("fil9", folder).path.read_bytes() == content


def test_a_name_that_is_not_utf8_has_a_name_in_json(tmp_path):
    path = tmp_path / os.fsdecode(b"t\xffxt")
    path.write_text("words")
    assert provenance.source(path)["name"] == "t\\udcffxt"


def test_kinds_of_files_in_words(tmp_path):
    assert archives.what_is(tmp_path) == "a folder"
    assert archives.what_is(f"{tmp_path}/a\0b") == "no name of a file"
    assert archives.what_is(tmp_path / ("x" * 300)).startswith("unreadable (")


def test_devices_that_do_not_exist_however_they_are_given():
    from tp4lib.base import device

    for name in ("cuda:-1", "cpu:3", "cuda:99", "meta"):
        with pytest.raises(InputError, match="--device"):
            device.resolve(name)
    for made in (torch.device("meta"), torch.device("cuda", 99), torch.device("cpu", 3), None, 0):
        with pytest.raises(InputError, match="--device"):
            device.resolve(made)
    assert device.resolve(torch.device("cpu")) == torch.device("cpu")
