"""Random inputs for everything that reads: a good answer or one line, never a traceback, and nothing executed.

Each target gets 60 inputs in an ordinary run, always the same ones; `make fuzz` gives each 10,000 and counts them. What
takes long is cut off where the computation would begin (`cut_off`).
"""

import codecs
import contextlib
import io
import json
import math
import os
import re
import struct
import sys
import tempfile
import zipfile
from collections import Counter
from fractions import Fraction
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import typer
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from tests.base.test_hostile_files import PACKERS, PICKLES
from tests.data.test_images import batch
from tests.data.test_omniglot import png
from tp4lib.base import archives, checkpoint, device, text
from tp4lib.base.errors import InputError
from tp4lib.collection import cli, execution
from tp4lib.data import catalogue as datasets
from tp4lib.data import drawn_characters as synthetic
from tp4lib.data import images, omniglot, wikipedia
from tp4lib.data.contents import CIFAR10_BATCHES
from tp4lib.maml import train as maml_train
from tp4lib.parametrization import ABC
from tp4lib.word2vec import training as w2v_train
from tp4lib.word2vec import words as words_module
from tp4lib.word2vec.analogies import Questions
from tp4lib.word2vec.corpus import Corpus

INPUTS = int(os.environ.get("TP4_FUZZ", 60))
SEEN: Counter[tuple[str, str]] = Counter()

fuzz = settings(
    max_examples=INPUTS,
    deadline=None,
    derandomize="TP4_FUZZ" not in os.environ,  # else by --hypothesis-seed
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)


@pytest.fixture(scope="module", autouse=True)
def told():
    """Say what each target was given, and what became of it."""
    yield
    with open(os.environ.get("TP4_FUZZ_LOG", os.devnull), "a") as log:
        log.writelines(f"{target}: {n} {what}\n" for (target, what), n in sorted(SEEN.items()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def tried(target, function, *arguments, **options):
    """(result, "") or (None, the one line that refuses it); anything else is the test's failure."""
    try:
        result = function(*arguments, **options)
    except (InputError, archives.Damaged) as error:
        line = str(error)
        assert line, target
        assert "\n" not in line, line
        SEEN[target, "refused"] += 1
        return None, line
    SEEN[target, "accepted"] += 1
    return result, ""


def mutations(whole):
    """Bytes with a few places changed, left out, put in, doubled or cut off."""
    what = st.sampled_from(["flip", "set", "insert", "leave out", "copy", "cut", "number"])
    edit = st.tuples(what, st.integers(0, len(whole)), st.integers(0, 255), st.integers(1, 40))

    def apply(edits):
        data = whole
        for kind, at, byte, size in edits:
            at = min(at, max(len(data) - 1, 0))
            head, tail = data[:at], data[at:]
            if kind == "flip" and tail:
                tail = bytes([tail[0] ^ (byte or 1)]) + tail[1:]
            elif kind == "set":
                tail = bytes([byte]) * min(size, len(tail)) + tail[size:]
            elif kind == "insert":
                tail = bytes([byte]) * size + tail
            elif kind == "leave out":
                tail = tail[size:]
            elif kind == "copy":
                tail = tail[:size] + tail
            elif kind == "cut":
                tail = b""
            elif kind == "number":  # of four bytes, near the ends of what it can be
                tail = struct.pack("<i", (-1) ** byte * (2 ** (size % 32) - byte % 3) % 2**31) + tail[4:]
            data = head + tail
        return data

    return st.lists(edit, min_size=1, max_size=4).map(apply)


# -- parametrizations -----------------------------------------------------------------------------------------------

numbers = st.one_of(
    st.integers(-16, 16).map(lambda k: k / 8),
    st.floats(),
    st.sampled_from([math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324, 1e-10, 1000.0, 1001.0, 10**400]),
    st.fractions(max_denominator=50),
    st.sampled_from([None, True, "0.5", "x", 1j, [0.5], b"1"]),
)
exponents = st.lists(numbers, max_size=5)
likely = st.integers(1, 4).flatmap(
    lambda L: st.tuples(*[st.lists(st.integers(-16, 16).map(lambda k: k / 8), min_size=L + 1, max_size=L + 1)] * 2)
)  # fmt: skip
stable = likely.map(
    lambda ab: (ab[0], [0.5 * (k > 0) - a for k, a in enumerate(ab[0][:-1])] + [1.0 - ab[0][-1]])
)


@fuzz
@given(st.one_of(likely, stable, st.tuples(exponents, exponents)), numbers, numbers)
def test_parametrizations(ab, c, t):
    p, _ = tried("parametrization", ABC, *ab, c)
    if p is None:
        return
    verdicts = [p.regime == name for name in ("unstable", "trivial", "kernel", "feature learning")]
    assert sum(verdicts) == 1
    assert [not p.is_stable, p.is_stable and not p.is_nontrivial, p.is_kernel, p.learns_features] == verdicts
    assert p.explain()
    assert all(map(math.isfinite, (*p.initial_exponents, *p.change_exponents, *p.adam_exponents, p.r)))
    moved, _ = tried("parametrization, shifted", p.shift, t)
    if moved is not None:
        assert moved.regime == p.regime
        assert moved.r == pytest.approx(p.r, abs=1e-9)
        assert p.same_orbit(moved)
        assert moved.shift(-Fraction(t) if isinstance(t, Fraction) else -t).same_orbit(p)


# -- texts ----------------------------------------------------------------------------------------------------------

MARKUP = [
    b"<text xml:space=\"preserve\">", b"</text>", b"<page>", b"#REDIRECT", b"[[", b"]]", b"[", b"]", b"|",
    b"{{", b"}}", b"{", b"}", b"[[Category:", b"[[Image:", b"|thumb", b"|100px", b"|left", b"[http://a.b c]",
    b"&lt;", b"&gt;", b"&amp;", b"&nbsp;", b"<ref", b"</ref>", b"<", b">", b":", b"de:", b"Word", b" ", b"\n",
    b"19", b"\xc3\xa9", b"\0", b"'''", b";", b"&",
]  # fmt: skip
markup = st.lists(st.one_of(st.sampled_from(MARKUP), st.binary(max_size=3)), max_size=60).map(b"".join)
# The recipe's pattern for categories as it was published; ours does not try again what must fail.
CATEGORY = (rb"\[\[category:([^|\]]*)[^]]*\]\]", rb"[[\1]]")


class NoBar:
    def update(self, _):
        pass


def cleaned(data, piece):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wikipedia, "_PIECE", piece)
        return b"".join(wikipedia.cleaned_records(wikipedia._records(io.BytesIO(data), NoBar())))


@fuzz
@given(markup, st.integers(1, 50))
def test_cleaning(data, piece):
    found = cleaned(b"<text >" + data, 1 << 20)
    assert set(found) <= set(b" abcdefghijklmnopqrstuvwxyz")
    assert b"  " not in found
    assert found == cleaned(b"<text >" + data, piece)  # wherever the pieces are cut
    assert cleaned(data.replace(b"<text ", b""), piece) == b""  # nothing outside of a text
    ours, new = next(rule for rule in wikipedia._RULES if b"category" in rule[0].pattern)
    assert ours.sub(new, data) == re.sub(CATEGORY[0], CATEGORY[1], data, flags=re.IGNORECASE)
    SEEN["cleaning", "accepted" if found.strip() else "without words"] += 1


WORDS = [
    b"a",
    b"bc",
    b"the",
    b"abcdefgh" * 3,
    "é".encode(),
    "日本".encode(),
    b"\x7f",
    b"\xef\xbb\xbf",
    b"\xc2\xa0",
]
SPACES = [b" ", b"\n", b"\r\n", b"\t", b"\v", b"\f"]
text_bytes = st.one_of(
    st.lists(st.sampled_from(WORDS + SPACES), max_size=80).map(b"".join), st.binary(max_size=60)
)


@fuzz
@given(text_bytes, st.integers(1, 64))
@example(b"\xef\xbb\xbf\xef\xbb\xbfa b a b", 1)
def test_tokenizing(folder, data, piece):
    (folder / "text").write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words_module, "_PIECE", piece)
        corpus, line = tried("tokenizing", Corpus.load, folder / "text", min_count=1)
    words = data.removeprefix(b"\xef\xbb\xbf").split()
    if line:
        good = len(set(words)) >= 2 and not any(b < 32 and b not in b"\t\n\v\f\r" for b in data)
        with contextlib.suppress(UnicodeDecodeError):
            b" ".join(words).decode()
            assert not good, line
        return
    assert [corpus.vocab.words[i].encode() for i in corpus.ids] == words
    counts = Counter(words)
    assert corpus.vocab.counts.tolist() == [counts[word.encode()] for word in corpus.vocab.words]
    assert corpus.raw_tokens == len(words)


LINES = [": capitals", "a b c d", "Athens Greece Oslo Norway", ":", "", " ", "a b c", "\t", ": :", "é è ê ë"]
lines = st.lists(st.one_of(st.sampled_from(LINES), st.text(max_size=20)), max_size=12)


@fuzz
@given(
    st.one_of(lines.map(lambda ls: "\n".join(ls).encode("utf-8", "surrogatepass")), st.binary(max_size=80))
)
def test_analogy_questions(folder, data):
    (folder / "questions").write_bytes(data)
    asked, _ = tried("analogy questions", Questions.load, folder / "questions")
    if asked is not None:
        assert 0 < len(asked) == len(asked.section_of) <= data.count(b" ")
        assert all(len(words) == 4 and all(words) for words in asked.quadruples)
        assert 0 <= min(asked.section_of) <= max(asked.section_of) < len(asked.sections)


# -- archives, arrays, pictures -------------------------------------------------------------------------------------

TEXT = b"good words here and there " * 9


def packed(suffix):
    if suffix in PACKERS:
        return PACKERS[suffix](TEXT)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("text", TEXT)
    return file.getvalue()


@fuzz
@given(
    st.sampled_from([*PACKERS, ".zip"]).flatmap(
        lambda suffix: st.tuples(st.just(suffix), mutations(packed(suffix)))
    )
)
def test_archives(folder, case):
    suffix, data = case
    path = folder / f"packed{suffix}"
    path.write_bytes(data)

    def read():
        with text.open_text(path) as file:
            found = b""
            while more := file.read(1 << 16):
                found += more
            return found

    found, line = tried(f"archives, {suffix}", read)
    # What is empty, or whole streams one after the other, is told by nothing but the text.
    assert line or found in (TEXT, TEXT * 2, b""), data


def good_npz():
    file = io.BytesIO()
    np.savez(file, a=np.arange(12, dtype=np.int64).reshape(3, 4), b=np.ones(5, np.float32))
    return file.getvalue()


@fuzz
@given(mutations(good_npz()))
def test_npz(folder, data):
    (folder / "x.npz").write_bytes(data)
    with quiet_hook() as ran:
        found, _ = tried("npz", archives.npz, folder / "x.npz")
    assert not ran
    if found is None:
        return
    for name, array in found.items():
        good = {"a": np.arange(12).reshape(3, 4), "b": np.ones(5, np.float32)}.get(name)
        assert good is None or np.array_equal(array, good)


@fuzz
@given(mutations(png(np.random.default_rng(0).random((105, 105)) < 0.7)))
def test_pictures(data):
    good = omniglot._ink(png(np.random.default_rng(0).random((105, 105)) < 0.7), "x")
    found, _ = tried("pictures", omniglot._ink, data, "x.png")
    assert found is None or np.array_equal(found, good)


RAN: list[str] | None = None
HARM = {
    *("os.system", "os.mkdir", "os.exec", "os.posix_spawn", "os.remove", "os.rename", "shutil.rmtree"),
    *("subprocess.Popen", "socket.connect", "exec", "import", "ctypes.dlopen"),
}


codecs.lookup("raw-unicode-escape")  # a codec is imported when it is first asked for, by opcode V


def _hook(event, _arguments):
    if RAN is not None and event in HARM:
        RAN.append(event)


sys.addaudithook(_hook)


@contextlib.contextmanager
def quiet_hook():
    """What of `HARM` Python's own audit saw meanwhile."""
    global RAN
    RAN = []
    try:
        yield RAN
    finally:
        RAN = None


GOOD_BATCH = batch(np.zeros((2, 32, 32, 3), np.uint8)[:, :1].repeat(32, 1), np.arange(2))[:400]
OPCODES = [bytes([b]) for b in sorted(ord(op) for op in "(.012FGIJKLMNPQRSTUVXabcdeghijlopqrstu]})")] + [
    b"\x80\x02", b"\x81", b"\x82\x01", b"\x85", b"\x86", b"\x87", b"\x88", b"\x89", b"\x8a\x01\x05",
    b"\x8c\x01a", b"\x93", b"\x94", b"cos\nsystem\n", b"cbuiltins\neval\n", b"cnumpy\nndarray\n",
    b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\n_reconstruct\n", b"c_codecs\nencode\n",
    b"X\x02\x00\x00\x00u1", b"C\x04data", b"C\x06labels", b"K\x01", b"h\x00", b"q\x00", b"I7\n",
    b"r\xff\xff\xff\x7f",
]  # fmt: skip


@fuzz
@given(st.one_of(
    st.lists(st.sampled_from(OPCODES), max_size=30).map(lambda ops: b"".join(ops) + b"."),
    st.sampled_from(sorted(PICKLES)).flatmap(lambda name: mutations(PICKLES[name][:2000] or b".")),
    mutations(GOOD_BATCH),
    st.binary(max_size=60),
))  # fmt: skip
def test_pickles(data):
    with quiet_hook() as ran:
        tried("pickles", images._from_batches, dict.fromkeys(CIFAR10_BATCHES, data))
    assert not ran


def good_checkpoint():
    state = {"epoch": 1, "history": [{"loss": 0.25, "words": "naïve"}]}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.npz"
        checkpoint.save(path, {"embeddings": np.arange(600, dtype=np.float32), "readout": np.ones(3)}, state)
        return path.read_bytes(), state


CHECKPOINT, STATE = good_checkpoint()


@fuzz
@given(mutations(CHECKPOINT))
def test_checkpoints(folder, data):
    (folder / "c.npz").write_bytes(data)
    with quiet_hook() as ran:
        found, _ = tried("checkpoints", checkpoint.load, folder / "c.npz")
    assert not ran
    if found is not None:
        arrays, meta = found
        assert meta == STATE
        assert sorted(arrays) == ["embeddings", "readout"]
        assert np.array_equal(arrays["embeddings"], np.arange(600))
        assert np.array_equal(arrays["readout"], np.ones(3))


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@fuzz
@given(st.one_of(json_values, st.fixed_dictionaries({"version": json_values, "meta": json_values})))
def test_checkpoint_headers(folder, header):
    text = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(folder / "h.npz", __meta__=text)
    found, _ = tried("checkpoint headers", checkpoint.load, folder / "h.npz")
    assert found is None or (header["version"] == checkpoint.VERSION and isinstance(found[1], dict))


# -- the command line -----------------------------------------------------------------------------------------------

COMMAND = typer.main.get_command(cli.build())
ODD = [
    "", " ", "-", "--", "0", "1", "-1", "2", "3.5", "1e3", "nan", "inf", "-inf", "1e400", str(10**12),
    str(10**25), "-" + "9" * 30, "true", "None", "x" * 300, "é", "日本", "a b", "a\nb", "\t", "\udcff", "%s",
    "{}", "../x", "text", "questions", "empty", "folder", "missing", "ck", "cpu", "cuda", "cuda:9", "cpu:3",
    "auto", "meta", "mps", "ci", "laptop", "04", "99", "00_start_here", "text8", "omniglot", "--help",
    "--nothing", "shared", "per-position", "float64", "bfloat16", "mup", "ntk", "gp", "pi", "none", "relu",
    "linear", "/dev/null", "/proc/nowhere", "/dev/null/x",
]  # fmt: skip
values = st.one_of(
    st.sampled_from(ODD),
    st.integers(-3, 40).map(str),
    st.floats().map(str),
    st.text(max_size=8).filter(lambda s: "\0" not in s and not s.startswith(("/", "~")) and ".." not in s),
)


def command_lines(name):
    """Options of the command as the command itself declares them, with values that are right, odd or missing."""
    flags = [
        flag for option in COMMAND.commands[name].params for flag in (*option.opts, *option.secondary_opts)
    ]
    option = st.sampled_from(["--help", *(flag for flag in flags if flag.startswith("-"))])
    part = st.one_of(
        st.tuples(option, values),
        st.tuples(option, st.integers(1, 9).map(str)),
        st.tuples(option),
        st.tuples(values),
    )
    out, text = ("--out", "out"), ("--corpus", "text", "--out", "out")
    begun = {
        "word2vec": [(), text, (*text, "--questions", "questions")],
        "maml": [(), out, (*out, "--limit", "none", "--width", "4")],
        "reproduce": [(), out],
    }
    base = st.sampled_from(begun.get(name, [()]))
    return st.tuples(base, st.lists(part, max_size=4)).map(
        lambda drawn: [*drawn[0], *(x for p in drawn[1] for x in p)]
    )


@pytest.fixture(scope="module")
def cut_off(folder):
    """Where a computation would begin the command ends: the first step on a block, `fit` and `execute`. No memory is
    asked for beyond 64 MB, and the characters of `tp4 maml` are few."""
    few = synthetic.draw(classes=60, drawers=3)

    def begun(*_, **__):
        raise InputError("here the computation would begin")

    with pytest.MonkeyPatch.context() as patch:
        home = folder / "home"
        (home / "folder").mkdir(parents=True)
        (home / "text").write_bytes(b"the cat saw the dog and the dog saw the cat " * 30)
        (home / "empty").write_bytes(b"")
        (home / "questions").write_bytes(b": x\nthe cat the dog\n")
        (home / "ck").mkdir()
        (home / "ck" / "checkpoint.npz").write_bytes(CHECKPOINT)
        patch.chdir(home)
        patch.setenv("TP4_DATA", "embedded")
        patch.setenv("TP4_CACHE", str(folder / "cache"))
        patch.setenv("TP4_OUT", str(folder / "out"))
        patch.setattr(device, "available_memory", lambda _: 64 << 20)
        patch.setattr(w2v_train, "choose", lambda *_: (begun, 1, 1))
        patch.setattr(maml_train, "fit", begun)
        patch.setattr(datasets, "fetch", begun)  # whatever TP4_OFFLINE says
        # It has to fail: with --in-place a success would be written over the notebook itself.
        patch.setattr(
            execution.Executor,
            "execute",
            lambda self, stage, *_: execution.Outcome(stage.name, 0.0, "here the computation would begin"),
        )
        patch.setattr(synthetic, "draw", lambda: few)
        yield


def outcome(arguments, encoding="utf-8"):
    """Exit code and the two streams of a command in this process; the streams are as strict as a terminal's."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding, how) for how in ("strict", "backslashreplace")]
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        try:
            cli.main(arguments)
            code = 0
        except SystemExit as end:
            code = end.code
    for stream in streams:
        stream.flush()
    return code, *(stream.buffer.getvalue().decode(encoding, "replace") for stream in streams)


NOTICE = re.compile("; going on |; cached files go to ")  # what a run does without, told before it begins


def told_well(arguments, encoding="utf-8"):
    """Run a command, which ends well or in one line; what became of it, in a word."""
    code, out, err = outcome(arguments, encoding)
    # 1: a notebook failed, as all do here.
    assert code in (0, 2) or (code == 1 and "failed: " in out), (code, err)
    assert "Traceback" not in out + err
    if code == 2:
        *bars, line, rest = err.split("\n")
        assert line.rpartition("\r")[2].startswith("tp4: "), err
        assert rest == "", err
        assert all("\r" in bar or NOTICE.search(bar) for bar in bars), err
    return "begun" if "computation would begin" in err + out else "refused" if code else "accepted"


@pytest.mark.parametrize("name", sorted(COMMAND.commands))
def test_command_line(cut_off, name):
    @fuzz
    @given(command_lines(name))
    def run(arguments):
        SEEN[f"tp4 {name}", told_well([name, *arguments])] += 1

    run()
    assert (
        name in ("data", "doctor", "neighbours", "teach") or SEEN[f"tp4 {name}", "begun"]
    )  # these compute nothing


@fuzz
@given(st.lists(values, max_size=4).filter(lambda words: not (words and words[0] in COMMAND.commands)))
def test_no_command(cut_off, arguments):
    SEEN["tp4", told_well(arguments)] += 1


ENCODINGS = st.sampled_from(["utf-8", "ascii", "cp1252"])
NAMES = st.one_of(
    st.sampled_from([
        "-", "--", "-x", "--help", "--out", "a\nb", "a\r", "\t", " ", "{}", "{0}", "%s", "%(x)s", "$HOME", "~", "~x",
        "*", "[a]", "'", '"', "\\", "#", "&", ";", "\udcff", "é", "e\u0301", "日本", "\u202e", "\ufeff", ".", "..",
        ".hidden", "x" * 255, "x" * 256, "é" * 128, "x.gz", "x.xz", "x.zip", "x.bz2", "04", "00_start_here.ipynb",
        "98_{}.ipynb", "98_\udcff.ipynb", "98_a\nb.ipynb", "text8", "omniglot", "CON", "con.txt",
    ]),
    st.binary(min_size=1, max_size=12).map(os.fsdecode),
    st.text(min_size=1, max_size=8),
).filter(lambda name: "/" not in name and "\0" not in name)  # fmt: skip
TAKES_A_NAME = [
    ("word2vec", "--min-count", "1", "--out", "out", "--corpus"),
    ("word2vec", "--corpus", "../text", "--out", "out", "--questions"),
    ("word2vec", "--corpus", "../text", "--out"),
    ("maml", "--out", "out", "--data-dir"),
    ("maml", "--out"),
    ("reproduce", "--out", "out"),
    ("reproduce", "00", "--out", "out", "--data-dir"),
    ("reproduce", "00", "--out"),
    ("teach", "--out", "out"),
    ("teach", "00", "--out"),
    ("data", "--data-dir"),
    ("data",),
]
BOOK = json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
THERE = {
    "nothing": lambda path: None,
    "text": lambda path: path.write_bytes(b"the cat saw the dog and the dog saw the cat " * 30),
    "notebook": lambda path: path.write_text(BOOK),
    "empty": lambda path: path.touch(),
    "folder": lambda path: path.mkdir(),
    "link to itself": lambda path: path.symlink_to(path),
    "pipe": lambda path: os.mkfifo(path),
}


@fuzz
@given(st.sampled_from(TAKES_A_NAME), NAMES, st.sampled_from(sorted(THERE)), st.booleans(), ENCODINGS)
def test_file_names(cut_off, command, name, what, given_whole, encoding):
    with tempfile.TemporaryDirectory(dir=".") as folder, contextlib.chdir(folder):
        with contextlib.suppress(OSError, ValueError):  # a name that there cannot be
            THERE[what](Path(name))
        SEEN[
            "file names", told_well([*command, os.path.abspath(name) if given_whole else name], encoding)
        ] += 1


VARIABLES = (
    "TP4_DATA", "TP4_CACHE", "TP4_OUT", "TP4_OFFLINE", "TP4_PROGRESS", "TP4_COMMAND", "TP4_DEVICE", "TP4_PARENT",
    "TP4_ASKED", "TP4_KERNEL_QUIT", "TP4_MISSPELT", "OMP_NUM_THREADS", "COLUMNS", "LINES", "TERMINAL_WIDTH", "TERM",
    "NO_COLOR", "HOME",
    "XDG_CACHE_HOME", "LC_ALL", "PYTHONIOENCODING", "WORLD_SIZE", "RANK",
)  # fmt: skip
SETTINGS = st.one_of(
    values,
    NAMES,
    st.sampled_from(["4,2", "0x10", "1_000", "٣", "false", "off", "embedded", "C", "tr_TR.UTF-8"]),
)


@fuzz
@given(
    st.dictionaries(st.sampled_from(VARIABLES), st.one_of(st.none(), SETTINGS), max_size=4),
    st.sampled_from([*TAKES_A_NAME, ("doctor",)]),
    ENCODINGS,
)
def test_environment_variables(cut_off, chosen, command, encoding):
    ends = {"--out": "out", "--corpus": "text", "--questions": "questions", "--data-dir": "folder"}
    arguments = [*command, ends[command[-1]]] if command[-1] in ends else [*command]
    if command[0] in ("reproduce", "teach") and "00" not in command:
        arguments = [command[0], "00"]  # into the folder that the environment names
    with (
        mock.patch.dict(os.environ),
        tempfile.TemporaryDirectory(dir=".") as folder,
        contextlib.chdir(folder),
    ):
        for file in ("text", "questions", "folder"):
            os.symlink(f"../{file}", file)
        for name, value in chosen.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
        SEEN["environment variables", told_well(arguments, encoding)] += 1


def test_every_variable_of_ours_is_among_them():
    sources = [path.read_text("utf-8") for path in Path(cli.__file__).parent.rglob("*.py")]
    ours = set(re.findall(r"TP4_[A-Z_]+", " ".join(sources))) - {
        "TP4_FUZZ",
        "TP4_HEAVY",
    }  # which the tests read
    assert ours <= set(VARIABLES)
