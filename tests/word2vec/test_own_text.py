"""A text of one's own: its words, what a run says at its end, and the neighbours of a word."""

import json
import re
import shlex

import numpy as np
import pytest
import torch
from gensim.models import KeyedVectors

from tp4lib.base.errors import InputError
from tp4lib.collection import cli
from tp4lib.word2vec import vectors
from tp4lib.word2vec.analogies import nearest
from tp4lib.word2vec.corpus import Corpus

TEXT = "The cat’s “Hat”—it's NEW. L'été, déjà vu! नमस्ते दुनिया; Straße\u00a03.14 foo_bar\n"
WORDS = [
    "the", "cat", "s", "hat", "it", "s", "new", "l", "été", "déjà", "vu", "नमस्ते", "दुनिया", "straße", "3", "14",
    "foo", "bar",
]  # fmt: skip


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("TP4_PROGRESS", "0")
    monkeypatch.setenv("TP4_OFFLINE", "1")


def tp4(*arguments) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main([*map(str, arguments)])
    return end.value.code


def test_words_are_in_lower_case_and_without_punctuation(tmp_path):
    path = tmp_path / "text"
    path.write_text(TEXT, encoding="utf-8")
    read = Corpus.load(path, 1, tokenize="words")
    assert [read.vocab.words[i] for i in read.ids] == WORDS
    assert len(Corpus.load(path, 1).vocab) == len(TEXT.split(" ")), "as it is where nothing is asked for"
    with pytest.raises(InputError, match="unknown tokenizer 'letters'; expected one of whitespace, words"):
        Corpus.load(path, 1, tokenize="letters")
    path.write_bytes(b"caf\xe9 au lait\n")
    with pytest.raises(InputError, match="is not UTF-8"):
        Corpus.load(path, 1, tokenize="words")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A text with capitals and full stops; questions that can be answered without them, and others."""
    folder = tmp_path_factory.mktemp("own text")
    rng = np.random.default_rng(0)
    words = ["Athens,", "Greece.", "Oslo,", "Norway."] + [f"w{i}" for i in range(30)]
    (folder / "text").write_text(" ".join(words[i] for i in np.minimum(rng.zipf(1.3, 9000) - 1, 33)))
    (folder / "questions").write_text(": capitals\nAthens Greece Oslo Norway\n: none\nA B C D\n")
    return folder


def run(folder, *more) -> int:
    line = (
        f"--corpus {shlex.quote(str(folder / 'text'))} --questions {shlex.quote(str(folder / 'questions'))}"
    )
    return tp4("word2vec", *shlex.split(line), *["--width", "6", "--epochs", "1", "--subsample", "0"], *more)


def test_a_run_says_what_there_is_to_see(folder, tmp_path, capsys):
    out = tmp_path / "a run"
    assert run(folder, "--tokenize", "words", "--out", out) == 0
    printed = capsys.readouterr().out
    assert re.search(r"analogies by category: capitals [01]/1\n", printed), "and none that was not asked"
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["tokenize"] == "words"
    assert {name: each["answered"] for name, each in metrics["sections"].items()} == {
        "capitals": 1,
        "none": 0,
    }
    # What it says runs as it stands.
    names: dict = {}
    exec("\n".join(line[4:] for line in printed.splitlines() if line.startswith("    ")), names)
    assert isinstance(names["vectors"], KeyedVectors)
    command = shlex.split(
        next(line for line in printed.splitlines() if "tp4 neighbours" in line).split(": ")[1]
    )
    assert tp4(*command[1:]) == 0
    near = [line.split() for line in capsys.readouterr().out.splitlines()]
    expected = names["vectors"].most_similar(command[-1], topn=10)
    assert [word for _, word in near] == [word for word, _ in expected]
    assert np.allclose([float(cosine) for cosine, _ in near], [cosine for _, cosine in expected], atol=1e-4)


def test_no_question_answered_is_said_and_is_no_percentage(folder, tmp_path, capsys):
    assert run(folder, "--out", tmp_path / "out") == 0
    printed = capsys.readouterr()
    assert "none of 2 questions answered" in printed.out
    assert "%" not in printed.out + printed.err
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (metrics["accuracy"], metrics["answered"], metrics["total"]) == (None, 0, 2)


def test_a_run_is_not_gone_on_with_by_another_tokenizer(folder, tmp_path, capsys):
    assert run(folder, "--out", tmp_path / "out") == 0
    before = (tmp_path / "out" / "vectors.bin").read_bytes()
    capsys.readouterr()
    assert run(folder, "--out", tmp_path / "out", "--resume", "--tokenize", "words") == 2
    assert re.search("started with .*(corpus|vocabulary|vocab_size|questions) = ", capsys.readouterr().err)
    assert (tmp_path / "out" / "vectors.bin").read_bytes() == before


def test_vectors_come_back_as_they_were_written(tmp_path):
    words, rows = ["one", "été", "x\u00a0y"], torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    vectors.save_vectors(tmp_path / "v", words, rows)
    read_words, read_rows = vectors.load_vectors(tmp_path / "v")
    assert read_words == words
    assert torch.equal(read_rows, rows)
    assert [word for word, _ in nearest(read_rows, read_words, "one", 9)] != []
    (tmp_path / "v").write_bytes(
        (tmp_path / "v").read_bytes().replace(b"\nx", b"x")
    )  # as the first program writes
    assert vectors.load_vectors(tmp_path / "v")[0] == words


def test_neighbours_refuses_in_one_line(tmp_path, capsys):
    good = tmp_path / "good"
    good.mkdir()
    vectors.save_vectors(good / "vectors.bin", ["one", "two"], torch.eye(2))
    whole = (good / "vectors.bin").read_bytes()
    damaged = {
        "head": b"x" + whole, "empty": b"", "short": whole[:-9], "many": b"3" + whole[1:], "none": b"0 2\n",
        "huge": b"999999999 999999999\n", "nan": whole.replace(np.float32(1).tobytes(), b"\xff\xff\xff\x7f", 1),
        "twice": whole.replace(b"two", b"one"), "negative": b"-1 2\n", "text": b"some text\n" * 9,
    }  # fmt: skip
    cases = [
        (good, "three", "'three' is not in the vocabulary; expected one of its 2 words"),
        (tmp_path / "nowhere", "one", "vectors.bin does not exist; expected the vectors.bin of a run"),
    ]
    for name, content in damaged.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "vectors.bin").write_bytes(content)
        cases.append((tmp_path / name, "one", "vectors.bin is damaged: "))
    for place, word, says in cases:
        assert tp4("neighbours", place, word) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert says in printed.err, place
        assert printed.err.count("\n") == 1
    assert tp4("neighbours", good, "one", "--top", 5) == 0
    assert capsys.readouterr().out.split() == ["0.0000", "two"]
    assert tp4("neighbours", good, "one", "--top", 0) == 2
