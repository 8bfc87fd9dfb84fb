"""Files made to do harm, or damaged: refused in one line, nothing in them executed, in bounded memory."""

import bz2
import gzip
import io
import lzma
import os
import pickle
import stat
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
import zlib

import numpy as np
import pytest

from tests.data.test_images import batches, these_are_official, write_archive, write_folder, write_npz  # noqa: F401
from tests.data.test_omniglot import drawings, png, write_zips
from tests.data.test_omniglot import write_folder as write_drawings
from tp4lib.base import archives
from tp4lib.base.errors import InputError
from tp4lib.data import images, omniglot
from tp4lib.data.images import load
from tp4lib.word2vec.analogies import Questions
from tp4lib.word2vec.corpus import Corpus

WORDS = b"good words here and there " * 40


def refused(match, function, *arguments, **options):
    """The function ends in one line that matches."""
    with pytest.raises(InputError, match=match) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    return str(caught.value)


def tried(function, *arguments, **options):
    """What the function gives and "", or None and the line that refuses it."""
    try:
        return function(*arguments, **options), ""
    except InputError as error:
        return None, str(error)


def zipped(path, *members, method=zipfile.ZIP_DEFLATED):
    """A zip of (name or ZipInfo, content) pairs, duplicates and all."""
    with zipfile.ZipFile(path, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, content in members:
            archive.writestr(name, content)
    return path


def link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def encrypted(path):
    """Set the flag of encryption in every header of a zip."""
    data = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := data.find(mark, at + 1)) >= 0:
            data[at + place] |= 1
    path.write_bytes(data)
    return path


@pytest.fixture
def small_limits(monkeypatch):
    """Limits that a test reaches in a moment; the ratio stays as it is."""
    monkeypatch.setattr(archives, "FREE", 1 << 20)


# -- text -------------------------------------------------------------------------------------------------------------

PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("suffix", PACKERS)
def test_truncated_at_any_place_or_followed_by_anything(tmp_path, suffix):
    whole, path = PACKERS[suffix](WORDS), tmp_path / f"text{suffix}"
    path.write_bytes(whole)
    assert Corpus.load(path, min_count=1).raw_tokens == 200
    for cut in range(0, len(whole)):
        path.write_bytes(whole[:cut])
        refused("cannot read|no words", Corpus.load, path, min_count=1)
    for more in (b"x", b"garbage" * 99, whole[:-3], b"\0\0\0x", b"PK\x03\x04"):
        path.write_bytes(whole + more)
        refused("cannot read", Corpus.load, path, min_count=1)
    path.write_bytes(whole + whole)  # two streams are one text
    assert Corpus.load(path, min_count=1).raw_tokens == 400
    path.write_bytes(whole + b"\0" * 8)  # padding
    assert Corpus.load(path, min_count=1).raw_tokens == 200


@pytest.mark.parametrize("suffix", PACKERS)
def test_flipped_bits_are_noticed_or_harmless(tmp_path, suffix):
    whole, path = PACKERS[suffix](WORDS), tmp_path / f"text{suffix}"
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        found, line = tried(Corpus.load, path, min_count=1)
        assert line or found.raw_tokens == 200, place  # a time stamp, a name
        assert "\n" not in line


@pytest.mark.parametrize("suffix", [*PACKERS, ".zip"])
def test_a_text_that_unpacks_without_end(tmp_path, small_limits, suffix):
    text, path = b"a b " * (2 << 20), tmp_path / f"bomb{suffix}"  # 8 MB of two words
    if suffix == ".zip":
        zipped(path, ("text", text))
    else:
        path.write_bytes(PACKERS[suffix](text))
    # What deflate can do at most is 1,032 times; every limit is below that.
    assert path.stat().st_size * archives.RATIO < len(text)
    refused(r"do harm", Corpus.load, path, min_count=1)
    assert Corpus.load(path, min_count=1, max_bytes=1000).raw_tokens == 500 if suffix != ".zip" else True


def test_a_zip_that_lies_about_its_size(tmp_path):
    path = zipped(tmp_path / "text.zip", ("text", WORDS))
    data = path.read_bytes()
    for told in (10, 1, len(WORDS) - 1, 2**31):
        path.write_bytes(data.replace(struct.pack("<I", len(WORDS)), struct.pack("<I", told)))
        refused("cannot read", Corpus.load, path, min_count=1)


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([], "0 files"),
        ([("a", WORDS), ("b", WORDS)], "2 files"),
        ([("a", WORDS), ("a", WORDS)], "twice"),
        ([("/etc/passwd", WORDS)], "leads outside"),
        ([("../../text", WORDS)], "leads outside"),
        ([("a/../../text", WORDS)], "leads outside"),
        ([("..\\..\\text", WORDS)], "leads outside"),
        ([("C:\\text", WORDS)], "leads outside"),
        ([(link("text"), "/etc/passwd")], "is a link"),
        ([("inner.zip", b"PK\x03\x04" + bytes(30))], "control characters"),
    ],
)
def test_zips_of_other_things_than_one_text(tmp_path, members, says):
    refused(says, Corpus.load, zipped(tmp_path / "text.zip", *members), min_count=1)
    assert os.listdir(tmp_path) == ["text.zip"]


def test_encrypted_zips_and_unknown_methods(tmp_path):
    path = encrypted(zipped(tmp_path / "text.zip", ("text", WORDS)))
    refused("is encrypted", Corpus.load, path, min_count=1)
    data = zipped(path, ("text", WORDS)).read_bytes()
    for method in (1, 6, 9, 93, 99):
        path.write_bytes(data.replace(b"\x08\x00", struct.pack("<H", method)))
        refused("cannot read", Corpus.load, path, min_count=1)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no words"),
        (b" \r\n\t\v\f " * 9, "no words"),
        (b"\xef\xbb\xbf", "no words"),
        (b"\xef\xbb", "UTF-8"),
        (b"a b\0c a b", "not text"),
        (b"\0" * 99, "not text"),
        ("a b a b".encode("utf-16"), "not text"),
        (b"a b \xff\xfe a b", "UTF-8"),
        (b"a b \xed\xa0\x80 a b", "UTF-8"),  # half of a pair of surrogates
        (b"a b \xc0\xaf a b", "UTF-8"),  # a slash in too many bytes
        (b"x" * 300_000, "more than 65536 bytes"),
        (b"a b " * 9 + b"x" * 1_000_000 + b" a", "more than 65536 bytes"),
        (b"one", "occur"),
    ],
)
def test_texts_that_are_none(tmp_path, content, says):
    (tmp_path / "text").write_bytes(content)
    refused(says, Corpus.load, tmp_path / "text", min_count=1)


def test_line_ends_marks_and_endless_lines_are_no_obstacle(tmp_path):
    plain = b"the cat saw the dog the end " * 5
    forms = (
        plain,
        plain.replace(b" ", b"\r\n"),
        plain.replace(b" ", b"\r"),
        b"\xef\xbb\xbf" + plain,
        b"\r\n\r\n" + plain.replace(b" ", b" \t "),
        plain.rstrip(),
    )
    expected = None
    for form in forms:
        (tmp_path / "text").write_bytes(form)
        found = Corpus.load(tmp_path / "text", min_count=1)
        expected = expected or found
        assert found.vocab.words == ["the", "cat", "saw", "dog", "end"]
        assert np.array_equal(found.ids, expected.ids)
    (tmp_path / "text").write_bytes(plain * 20_000)  # 2.8 MB without a line end
    assert Corpus.load(tmp_path / "text", min_count=1).raw_tokens == 7 * 5 * 20_000


def measured(code, *arguments):
    """MiB of memory at most that a process took beyond what its imports did, and what it printed."""
    head = (
        "import sys\nfrom tp4lib.word2vec.corpus import Corpus\nfrom tp4lib.base.errors import InputError\n"
        "from tp4lib.base.memory import own_peak\nbefore = own_peak()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", head + code + "\nprint((own_peak() - before) / 2**20)", *map(str, arguments)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    *printed, grown = done.stdout.split()
    return float(grown), printed


def test_a_million_distinct_words_take_bounded_memory(tmp_path):
    path = tmp_path / "text"
    path.write_text(" ".join(f"w{i:07x}" for i in range(1_000_000)) + " w0000001 w0000002")
    code = "c = Corpus.load(sys.argv[1], min_count=2); print(len(c.vocab), c.raw_tokens)"
    grown, printed = measured(code, path)
    assert printed == ["2", "1000002"]
    assert grown < 500  # of a text of 9 MB


def test_a_bomb_takes_bounded_memory(tmp_path):
    path = tmp_path / "bomb.xz"
    pack = lzma.LZMACompressor(preset=0)
    with open(path, "wb") as file:
        for _ in range(256):  # 256 MB of one word in 40 kB
            file.write(pack.compress(b"word " * 200_000))
        file.write(pack.flush())
    assert path.stat().st_size < 100_000
    code = (
        "try: Corpus.load(sys.argv[1])\n"
        "except InputError as e: print('refused' if 'do harm' in str(e) else str(e))"
    )
    grown, printed = measured(code, path)
    assert printed == ["refused"]
    assert grown < 300


# -- analogy questions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b": x\na b c\n", "line 2 of .* has 3 words"),
        (b": x\na\n", "line 2 of .* has 1 words"),
        (b": x\r\na b c d\r\na b\r\n", "line 3 of .* has 2 words"),
        (b"a b c d\n", "in no section"),
        (b": x\n" + b"y " * 100_000, "has 100000 words"),
        (b"", "no questions"),
        (b"\n\n \n", "no questions"),
        (b": only\n: sections\n", "no questions"),
        (b": x\na b c \xff\n", "cannot read questions"),
        (b"\x1f\x8b\x08\x00", "cannot read questions"),
        (": x\na b c d".encode("utf-16"), "cannot read questions"),
    ],
)
def test_questions_with_short_lines_and_worse(tmp_path, content, says):
    (tmp_path / "questions").write_bytes(content)
    refused(says, Questions.load, tmp_path / "questions")


def test_questions_with_a_mark_and_other_line_ends(tmp_path):
    (tmp_path / "questions").write_bytes(b"\xef\xbb\xbf: x y\r\na b c d\r\n\r\n")
    assert Questions.load(tmp_path / "questions").quadruples == (("a", "b", "c", "d"),)
    assert Questions.load(tmp_path / "questions").sections == ("x y",)


def test_questions_that_are_too_many_or_no_file(tmp_path):
    with open(tmp_path / "questions", "wb") as file:
        file.truncate(1 << 27)
    refused("more than", Questions.load, tmp_path / "questions")
    refused("is a folder", Questions.load, tmp_path)
    refused("is unreadable", Questions.load, tmp_path / ("x" * 300))


# -- Omniglot -------------------------------------------------------------------------------------------------------


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(rows, *, side=105, bits=1, colour=0):
    header = struct.pack(">IIBBBBB", side, side, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


WHITE = np.ones((105, 105), bool)
PNGS = {
    "bomb": png_of(zlib.compress(bytes(30 << 20))),  # 30 MB in 30 kB
    "larger than any drawing": png_of(os.urandom(1 << 17)),
    "giant by its header": png_of(zlib.compress(bytes(1575)), side=2**31 - 1),
    "sixteen bits": png_of(zlib.compress(bytes(1575)), bits=16, colour=6),
    "too few rows": png_of(zlib.compress(bytes(1574))),
    "too many rows": png_of(zlib.compress(bytes(1576))),
    "no rows": png_of(b""),
    "not deflate": png_of(b"x" * 50),
    "length beyond the end": png(WHITE)[:8] + struct.pack(">I", 2**31) + png(WHITE)[12:],
    "jpeg": b"\xff\xd8\xff\xe0" + bytes(100),
    "empty": b"",
    "text": b"hello",
}  # fmt: skip


@pytest.mark.parametrize("layout", [write_drawings, write_zips])
@pytest.mark.parametrize("harm", PNGS)
def test_pictures_made_to_do_harm(tmp_path, layout, harm):
    files = drawings()
    name = sorted(files)[3]
    files[name] = PNGS[harm]
    refused(
        f"{os.path.basename(name)} is (corrupt|2,147,483,647 x 2,147,483,647 pixels; expected a 105 x 105)",
        omniglot.read,
        layout(tmp_path / "data", files),
        tmp_path / "c",
    )
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("member", "says"),
    [
        (("images_background/../../../etc/character01/0000_01.png", b""), "leads outside"),
        (("/images_background/Greek/character01/0000_01.png", b""), "leads outside"),
        ((link("images_background/Greek/character01/0000_01.png"), "/etc/passwd"), "is a link"),
        (("images_background/Greek/character01/0000_01.png", png(WHITE)), "twice"),
        (("images_background/bomb.png", bytes(300 << 20)), "do harm"),
    ],
)
def test_zips_of_drawings_made_to_do_harm(tmp_path, member, says):
    root = write_zips(tmp_path / "data", drawings())
    with warnings.catch_warnings(), zipfile.ZipFile(root / "images_background.zip", "a", 8) as archive:
        warnings.simplefilter("ignore")
        archive.writestr(*member)
    refused(says, omniglot.read, root, tmp_path / "c")
    assert sorted(os.listdir(tmp_path)) == ["data"]


def test_encrypted_and_nested_zips_of_drawings(tmp_path):
    root = write_zips(tmp_path / "a", drawings())
    encrypted(root / "images_background.zip")
    refused("is encrypted", omniglot.read, root)
    nested = write_zips(tmp_path / "b", drawings())
    for part in omniglot.PARTS:
        inner = (nested / f"{part}.zip").read_bytes()
        zipped(nested / f"{part}.zip", (f"{part}.zip", inner))
    refused("no drawings", omniglot.read, nested)


def test_a_folder_of_drawings_with_a_device_or_a_broken_link(tmp_path):
    for number, target in enumerate(("/dev/zero", "/nowhere", str(tmp_path))):
        files = drawings()
        root = write_drawings(tmp_path / str(number), files)
        (root / min(files)).unlink()
        (root / min(files)).symlink_to(target)
        refused("is corrupt", omniglot.read, root)


def test_a_cache_of_another_shape_or_made_to_do_harm_is_made_again(tmp_path):
    root, cache = write_zips(tmp_path / "data", drawings()), tmp_path / "cache"
    images, _ = omniglot.read(root, cache)
    (made,) = cache.iterdir()
    for damage in (
        lambda: np.savez(made, images=images[:2]),
        lambda: np.savez(made, images=images.astype(np.float64)),
        lambda: np.savez(made, images=np.array([Trap()], dtype=object)),
        lambda: np.savez(made, pictures=images),
        lambda: made.write_bytes(lying_npz(b"images", (10**12,), "|u1")),
    ):
        damage()
        np.testing.assert_array_equal(omniglot.read(root, cache)[0], images)
        np.testing.assert_array_equal(np.load(made)["images"], images)


# -- npz and pickles --------------------------------------------------------------------------------------------------


class Trap:
    """Unpickled by anything that executes what it reads, it leaves a folder."""

    def __reduce__(self):
        return os.mkdir, ("was-run",)


def lying_npz(name, shape, descr, body=b"x" * 64):
    header = str({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    header += b" " * (-(10 + len(header) + 1) % 64) + b"\n"
    npy = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name.decode() + ".npy", npy)
    return file.getvalue()


@pytest.mark.parametrize(
    ("shape", "descr"),
    [
        ((10**12,), "|u1"),
        ((2**62, 2**62), "|u1"),
        ((63,), "|u1"),
        ((65,), "|u1"),
        ((-64,), "|u1"),
        ((8,), "|O"),
        ((1,), "|V64"),
        ("x", "|u1"),
        ((64,), "nonsense"),
        ((64,), [("a", "|O")]),
        ((2.5,), "|u1"),
    ],
)
def test_npz_with_lying_headers(tmp_path, shape, descr):
    (tmp_path / "cifar10_6k.npz").write_bytes(lying_npz(b"train_images", shape, descr))
    refused("as CIFAR-10", load, "cifar10", tmp_path)


def test_npz_made_to_do_harm(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "cifar10_6k.npz"
    write_npz(tmp_path, train_labels=np.array([Trap()] * 50, dtype=object))
    refused("objects", load, "cifar10", tmp_path)
    path.write_bytes(pickle.dumps(Trap()))  # np.load would take it for a pickle
    refused("as CIFAR-10", load, "cifar10", tmp_path)
    zipped(path, ("train_images.npy", pickle.dumps(Trap())))
    refused("as CIFAR-10", load, "cifar10", tmp_path)
    np.savez_compressed(path, train_images=np.zeros(300 << 20, np.uint8))
    refused("do harm", load, "cifar10", tmp_path)
    write_npz(tmp_path)
    refused("is encrypted", load, "cifar10", encrypted(path).parent)
    assert not (tmp_path / "was-run").exists()


def opcode(*parts):
    return b"\x80\x02" + b"".join(parts) + b"."


def call(module, name, *arguments):
    packed = b"(" + b"".join(arguments) + b"t"
    return opcode(b"c%s\n%s\n" % (module, name), packed, b"R")


MARK = b"X\x07\x00\x00\x00was-run"
PICKLES = {
    "os.system": call(b"os", b"system", b"X\x0d\x00\x00\x00mkdir was-run"),
    "posix.system": call(b"posix", b"system", b"X\x0d\x00\x00\x00mkdir was-run"),
    "os.mkdir": call(b"os", b"mkdir", MARK),
    "eval": call(b"builtins", b"eval", b"X\x1d\x00\x00\x00__import__('os').mkdir('x-run')"),
    "exec": call(b"builtins", b"exec", b"X\x04\x00\x00\x00pass"),
    "python 2's eval": call(b"__builtin__", b"eval", b"X\x01\x00\x00\x001"),
    "getattr": call(b"builtins", b"getattr", b"X\x01\x00\x00\x00a", b"X\x01\x00\x00\x00b"),
    "subprocess": call(b"subprocess", b"Popen", b"X\x02\x00\x00\x00ls"),
    "numpy's own eval": call(b"numpy.testing", b"runstring", b"X\x04\x00\x00\x00pass", b"}"),
    "numpy.load": call(b"numpy", b"load", MARK),
    "a dotted name": call(b"numpy", b"ndarray.tofile", MARK),
    "an instance": b"(X\x0d\x00\x00\x00mkdir was-runios\nsystem\n.",
    "an object": b"(cos\nsystem\nX\x0d\x00\x00\x00mkdir was-runo.",
    "stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0dmkdir was-run\x85R.",
    "an extension": b"\x80\x02\x82\x01.",
    "a persistent name": b"Pname\n.",
    "a new object": opcode(b"cnumpy\nndarray\n", b"(I999999999999\nt", b"\x81"),
    "a huge array": call(b"numpy", b"ndarray", b"(I999999999999\nt"),
    "a huge type": call(b"numpy", b"dtype", b"X\x09\x00\x00\x00V99999999"),
    "a huge memo": b"\x80\x02Nr\xff\xff\xff\xff.",
    "a huge string": b"\x80\x02X\xff\xff\xff\x7fabc.",
    "eight bytes of length": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
    "a huge frame": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
    "a huge number": b"\x80\x02I" + b"9" * 10_000 + b"\n.",
    "deep lists": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "state set on a function": opcode(b"c_codecs\nencode\n", b"}X\x0c\x00\x00\x00__defaults__(tsb"),
    "slots set on a function": opcode(b"c_codecs\nencode\n", b"N}X\x05\x00\x00\x00_callX\x01\x00\x00\x00xs\x86b"),
    "nothing": b"",
    "a stop": b".",
    "noise": bytes(range(256)),
}  # fmt: skip


@pytest.mark.parametrize("harm", PICKLES)
@pytest.mark.parametrize("place", ["all", "data", "labels"])
def test_pickles_made_to_do_harm(tmp_path, monkeypatch, harm, place):
    monkeypatch.chdir(tmp_path)
    trap = PICKLES[harm]
    if place != "all":  # as one value of a dict that else looks right
        inner = trap.removesuffix(b".").removeprefix(b"\x80\x02").removeprefix(b"\x80\x04")
        trap = b"\x80\x04}C\x04data" + (inner if place == "data" else b"N") + b"sC\x06labels"
        trap += (inner if place == "labels" else b"]") + b"s."
    write_folder(tmp_path, batches() | {"data_batch_1": trap})
    refused("as CIFAR-10", load, "cifar10", tmp_path)
    assert os.listdir(tmp_path) == ["cifar-10-batches-py"]


def test_a_pickle_that_would_grow_when_looked_at(tmp_path):
    """Lists of lists: a few hundred bytes that stand for 10^30 numbers."""
    level = b"\x80\x02]q\x00(K\x00K\x01e"
    for n in range(1, 30):
        level += b"]q%c(" % n + b"h%c" % (n - 1) * 10 + b"e"
    trap = b"}C\x04data" + level.removeprefix(b"\x80\x02") + b"sC\x06labelsh\x1ds."
    write_folder(tmp_path, batches() | {"data_batch_1": b"\x80\x04" + trap})
    refused("as CIFAR-10", load, "cifar10", tmp_path)


def tar_of(path, *members):
    with tarfile.open(path, "w:gz") as archive:
        for name, content, changes in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in changes.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize(
    ("member", "says"),
    [
        (("data_batch_1", b"", {}), "twice"),
        (("../../data_batch_1", b"", {}), "leads outside"),
        (("/etc/data_batch_1", b"", {}), "leads outside"),
        (("x/data_batch_2", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}), "is a link"),
        (("x/data_batch_2", b"", {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"}), "is a link"),
        (("x/data_batch_2", b"", {"type": tarfile.CHRTYPE}), "is a link, or no file"),
        (("x/data_batch_2", bytes(9 << 20), {}), "at most"),
        (("x/bomb", bytes(40 << 20), {}), "do harm"),
    ],
)
def test_tars_made_to_do_harm(tmp_path, monkeypatch, small_limits, member, says):
    monkeypatch.setattr(images, "CIFAR10_MOST", 4 << 20)
    path = tmp_path / "cifar-10-python.tar.gz"
    tar_of(path, ("c/data_batch_1", b"x", {}), member, ("c/test_batch", b"x", {}))
    refused(says, load, "cifar10", tmp_path)
    assert os.listdir(tmp_path) == [path.name]


def test_a_tar_cut_at_any_place_or_with_flipped_bits(tmp_path, these_are_official):  # noqa: F811
    write_archive(tmp_path, batches())
    path = tmp_path / "cifar-10-python.tar.gz"
    whole, good = path.read_bytes(), load("cifar10", tmp_path)
    for place in np.random.default_rng(0).integers(0, len(whole), 40).tolist():
        path.write_bytes(whole[:place])
        refused("as CIFAR-10", load, "cifar10", tmp_path)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :])
        found, line = tried(load, "cifar10", tmp_path)
        assert line or found.train_x.equal(good.train_x)
        assert "\n" not in line
