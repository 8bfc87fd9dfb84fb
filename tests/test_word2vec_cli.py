"""``tp4 word2vec`` from end to end: what it writes, how it refuses, and how it survives being stopped."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from gensim.models import KeyedVectors

from tp4lib import cli


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("TP4_PROGRESS", "0")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A text of capitals and other words, with questions about them."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    words = ["athens", "greece", "oslo", "norway", "paris", "france"] + [f"w{i}" for i in range(40)]
    (folder / "text").write_text(" ".join(words[i] for i in np.minimum(rng.zipf(1.2, 30_000) - 1, 45)))
    (folder / "questions").write_text(": capitals\nAthens Greece Oslo Norway\nAthens Greece Rome Italy\n")
    return folder


def tp4(*arguments) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main(["word2vec", *map(str, arguments)])
    return end.value.code


@pytest.mark.parametrize("width", ["6", "inf"])
def test_writes_vectors_and_metrics(text, tmp_path, width):
    asked = ["--corpus", text / "text", "--questions", text / "questions", "--width", width, "--epochs", "2"]
    assert tp4(*asked, "--out", tmp_path) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    columns = 46 if width == "inf" else 6
    assert metrics["width"] == ("inf" if width == "inf" else 6)
    assert (metrics["vocab_size"], metrics["columns"]) == (46, columns)
    assert (metrics["answered"], metrics["total"]) == (1, 2)
    assert metrics["accuracy"] in (0.0, 100.0)
    assert metrics["tokens_per_second"] > 0
    assert [epoch["epoch"] for epoch in metrics["history"]] == [1, 2]
    vectors = KeyedVectors.load_word2vec_format(str(tmp_path / "vectors.bin"), binary=True)
    assert vectors.vectors.shape == (46, columns)
    assert "greece" in vectors.key_to_index


def test_options_reach_the_run(text, tmp_path):
    asked = [
        "--corpus",
        text / "text",
        "--questions",
        text / "questions",
        "--epochs",
        "1",
        "--no-save-vectors",
    ]
    more = "--negatives per-position --min-count 20 --max-vocab 20 --seed 3 --wd 0.01 --lr 0.1 --width 4 --device cpu"
    assert tp4(*asked, *more.split(), "--out", tmp_path) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert not (tmp_path / "vectors.bin").exists()
    assert metrics["vocab_size"] == 20
    used = metrics["settings"]
    assert (used["negatives"], used["seed"], used["wd"], used["lr"]) == ("per-position", 3, 0.01, 0.1)


def test_bad_input_is_one_line_and_exit_code_two(text, tmp_path, capsys):
    (tmp_path / "empty").write_text("")
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    (tmp_path / "file").write_text("x")
    good = text / "text"
    cases = [
        (["--corpus", tmp_path / "none"], "does not exist"),
        (["--corpus", tmp_path / "empty"], "no words"),
        (["--corpus", tmp_path / "binary"], "not text"),
        (["--corpus", good, "--min-count", "1000000"], "--min-count"),
        (["--corpus", good, "--width", "broad"], "unknown width"),
        (["--corpus", good, "--width", "0"], "unknown width"),
        (["--corpus", good, "--negatives", "none"], "negatives"),
        (["--corpus", good, "--epochs", "0"], "epochs"),
        (["--corpus", good, "--device", "abacus"], "unknown device"),
        (["--corpus", good, "--questions", tmp_path / "none"], "questions"),
        (["--corpus", good, "--resume"], "no checkpoint"),
        (["--corpus", good, "--lr", "-1"], "lr"),
    ]
    for number, (arguments, says) in enumerate(cases):
        out = tmp_path / f"out{number}"
        assert tp4(*arguments, "--out", out) == 2, arguments
        printed = capsys.readouterr()
        assert printed.out == ""
        assert says in printed.err, (arguments, printed.err)
        assert printed.err.count("\n") == 1, printed.err
        assert not out.exists() or not list(out.iterdir()), arguments
    assert tp4("--corpus", good, "--out", tmp_path / "file" / "folder") == 2
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.slow
def test_interrupted_and_killed_it_resumes_to_the_same_vectors(text, tmp_path):
    asked = ["--corpus", text / "text", "--questions", text / "questions", "--width", "5", "--epochs", "30"]
    assert tp4(*asked, "--out", tmp_path / "unbroken") == 0
    out = tmp_path / "broken"
    saved = out / "unfinished" / "checkpoint.npz"

    def start(*more):
        command = [sys.executable, "-m", "tp4lib.cli", "word2vec", *map(str, asked), "--out", str(out), *more]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
        old = saved.stat().st_mtime_ns if more else 0
        while process.poll() is None:
            if saved.exists() and saved.stat().st_mtime_ns != old:
                return process
            time.sleep(0.001)
        return process

    process = start()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    if process.returncode != 0:  # else it was too quick to be interrupted
        assert process.returncode == 2, errors
        assert "--resume" in errors
        assert errors.count("\n") == 1
    process = start("--resume")
    process.kill()
    process.communicate(timeout=120)
    assert tp4(*asked, "--out", out, "--resume") == 0
    assert (out / "vectors.bin").read_bytes() == (tmp_path / "unbroken" / "vectors.bin").read_bytes()
    runs = [json.loads((folder / "metrics.json").read_text()) for folder in (out, tmp_path / "unbroken")]
    assert [e["loss"] for e in runs[0]["history"]] == [e["loss"] for e in runs[1]["history"]]
    assert not [p.name for p in out.iterdir() if p.name.endswith(".part")]


# Blocks that take a while, and a checkpoint after each, so that a kill meets every phase of writing one.
OFTEN = """
import sys, time, tp4lib.word2vec.train as module
quick = module._steps
def slow(*arguments):
    steps, *rest = quick(*arguments)
    def waiting(*a):
        time.sleep(0.005)
        return steps(*a)
    return waiting, *rest
module._steps = slow
module.train.__kwdefaults__["checkpoint_seconds"] = 0
from tp4lib.cli import main
main(["word2vec", *sys.argv[1:]])
"""


@pytest.mark.slow
def test_killed_at_random_moments_it_comes_to_the_same_bits(text, tmp_path):
    """`kill -9` again and again, each time a little further on or not at all, until the run comes to its end."""
    asked = ["--corpus", text / "text", "--questions", text / "questions", "--width", "5", "--epochs", "60"]
    asked += ["--seed", "3"]
    assert tp4(*asked, "--out", tmp_path / "unbroken") == 0
    out, moments, killed = tmp_path / "broken", np.random.default_rng(), 0
    while True:
        before = written(out)
        more = ["--resume"] if before else []
        line = [sys.executable, "-c", OFTEN, *map(str, asked), "--out", str(out), *more]
        process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=os.environ)
        if killed < 3:
            while process.poll() is None and written(out) == before:
                time.sleep(0.01)  # until it has begun to write: most of its time is Python's start
            time.sleep(moments.uniform(0, 0.3))
            process.kill()
        _, errors = process.communicate(timeout=240)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, errors
        killed += 1
    assert killed > 0
    assert (out / "vectors.bin").read_bytes() == (tmp_path / "unbroken" / "vectors.bin").read_bytes()
    runs = [json.loads((folder / "metrics.json").read_text()) for folder in (out, tmp_path / "unbroken")]
    assert [e["loss"] for e in runs[0]["history"]] == [e["loss"] for e in runs[1]["history"]]
    assert sorted(p.name for p in out.iterdir()) == ["checkpoint.npz", "metrics.json", "vectors.bin"]


def written(folder) -> dict[str, int]:
    """The checkpoints there and when each was written, while files come and go."""
    times = {}
    for path in folder.glob("unfinished/checkpoint*.npz"):
        with contextlib.suppress(FileNotFoundError):
            times[path.name] = path.stat().st_mtime_ns
    return times
