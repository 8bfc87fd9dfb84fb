"""``tp4 word2vec`` from end to end: what it writes, how it refuses, and how it survives being stopped."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import typer
from gensim.models import KeyedVectors

from tp4lib.base.errors import InputError
from tp4lib.collection import cli
from tp4lib.word2vec import __main__ as module
from tp4lib.word2vec import run as run_module
from tp4lib.word2vec import training as train
from tp4lib.word2vec.settings import RunSettings


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
        command = [
            sys.executable,
            "-m",
            "tp4lib.collection.cli",
            "word2vec",
            *map(str, asked),
            "--out",
            str(out),
            *more,
        ]
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
import sys, time, tp4lib.word2vec.training as module
quick = module.choose
def slow(*arguments):
    steps, *rest = quick(*arguments)
    def waiting(*a):
        time.sleep(0.005)
        return steps(*a)
    return waiting, *rest
module.choose = slow
module.train.__kwdefaults__["checkpoint_seconds"] = 0
from tp4lib.collection.cli import main
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


# -- the files of one run, and what it is gone on with ----------------------------------------------------------------


def short(text, out, *more):
    """A quick run; the last of an option that is given twice counts."""
    return tp4(
        "--corpus", text / "text", "--questions", text / "questions", "--epochs", "1", "--width", "4", "--out", out,
        *more,
    )  # fmt: skip


def files(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_no_file_of_an_earlier_run_stays_beside_another_runs(text, tmp_path):
    assert short(text, tmp_path) == 0
    assert sorted(files(tmp_path)) == ["checkpoint.npz", "metrics.json", "vectors.bin"]
    assert short(text, tmp_path, "--width", "5", "--max-vocab", "20", "--no-save-vectors") == 0
    assert sorted(files(tmp_path)) == ["checkpoint.npz", "metrics.json"]
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["columns"], metrics["vocab_size"]) == (5, 20)


@pytest.mark.parametrize(
    "more", [["--lr", "50"], ["--subsample", "1e-12"], ["--width", "x"], ["--save-dim", "99"]]
)
def test_a_run_that_fails_leaves_the_earlier_one(text, tmp_path, capsys, more):
    assert short(text, tmp_path) == 0
    before = files(tmp_path)
    assert short(text, tmp_path, *more) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert files(tmp_path) == before
    assert not (tmp_path / "unfinished").exists()


@pytest.fixture
def interrupted(text, tmp_path, monkeypatch):
    """A folder with a finished run, and a second one that was cut short after its first epoch."""
    assert short(text, tmp_path) == 0
    with monkeypatch.context() as patch:
        patch.setattr(train._Run, "_evaluate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        patch.setitem(train.train.__kwdefaults__, "checkpoint_seconds", 0)
        assert short(text, tmp_path, "--width", "5") == 2
    assert (tmp_path / "unfinished" / "checkpoint.npz").exists()
    return tmp_path


def test_without_checkpoints_nothing_but_results_is_written(text, tmp_path, capsys, monkeypatch):
    assert short(text, tmp_path, "--no-checkpoints") == 0
    assert sorted(files(tmp_path)) == ["metrics.json", "vectors.bin"]
    assert short(text, tmp_path, "--no-checkpoints", "--resume") == 2
    assert "--resume without --no-checkpoints" in capsys.readouterr().err
    monkeypatch.setattr(train._Run, "_evaluate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert short(text, tmp_path, "--no-checkpoints") == 2
    assert "there is no checkpoint; start again" in capsys.readouterr().err
    assert not (tmp_path / "unfinished").exists()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_vectors_of_every_dtype_are_saved_in_few_coordinates(text, tmp_path, dtype):
    assert short(text, tmp_path, "--dtype", dtype, "--width", "inf", "--save-dim", "5") == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["saved_columns"] == 5
    header = (tmp_path / "vectors.bin").read_bytes().split(b"\n", 1)[0]
    assert header.split() == [b"46", b"5"]


def test_what_the_end_of_a_run_cannot_do_is_told_before_its_start(text, tmp_path, monkeypatch):
    """As when a matrix factorization does not know the dtype: found after hours of training."""

    def broken(*_):
        raise RuntimeError("not implemented for this dtype")

    monkeypatch.setattr(torch.linalg, "qr", broken)
    monkeypatch.setattr(run_module, "train", lambda *_, **__: pytest.fail("it was trained"))
    asked = dict(corpus=text / "text", questions=text / "questions", out=tmp_path, save_dim=5)
    with pytest.raises(RuntimeError, match="this dtype"):
        run_module.run(RunSettings(**asked), torch.device("cpu"))


def test_a_disk_without_room_is_told_before_training(text, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    assert short(text, tmp_path) == 2
    line = capsys.readouterr().err
    assert "of disk, but 0.0 GiB are free" in line
    assert line.count("\n") == 1
    assert not files(tmp_path)


def test_an_unfinished_run_is_gone_on_with_and_not_overwritten(text, interrupted, capsys):
    before = files(interrupted)
    capsys.readouterr()
    assert short(text, interrupted, "--width", "5") == 2
    line = capsys.readouterr().err
    assert "--resume, or choose another --out" in line
    assert line.count("\n") == 1
    assert files(interrupted) == before
    assert short(text, interrupted, "--width", "5", "--resume") == 0
    assert json.loads((interrupted / "metrics.json").read_text())["width"] == 5
    assert sorted(files(interrupted)) == ["checkpoint.npz", "metrics.json", "vectors.bin"]


def test_a_run_is_gone_on_with_under_the_same_conditions_only(
    text, interrupted, tmp_path, capsys, monkeypatch
):
    """Other questions, none, another text behind the same path, a version: the first difference is named."""
    other = tmp_path / "other"
    other.mkdir()
    words = (text / "text").read_text()
    (other / "text").write_text(words.replace("oslo", "rome"))  # the same ids, other words
    (other / "questions").write_text(": capitals\nAthens Greece Paris France\n")
    before = files(interrupted)

    def says(what, *more):
        capsys.readouterr()
        assert short(text, interrupted, "--width", "5", "--resume", *more) == 2
        line = capsys.readouterr().err
        assert f"started with {what} = " in line
        assert line.count("\n") == 1
        assert files(interrupted) == before

    says("questions", "--questions", other / "questions")
    says("vocabulary", "--corpus", other / "text")
    says("seed", "--seed", "1")
    monkeypatch.setattr(train, "__version__", "0.0.1")
    says("version")
    monkeypatch.undo()
    monkeypatch.setattr(run_module.datasets, "find", no_data)
    capsys.readouterr()
    assert (
        tp4("--corpus", text / "text", "--width", "5", "--epochs", "1", "--out", interrupted, "--resume") == 2
    )
    assert "started with questions = " in capsys.readouterr().err


def no_data(name):
    raise InputError(f"the embedded {name} comes with gensim; expected it; run `pip install gensim`")


def test_without_questions_it_trains_and_says_so(text, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run_module.datasets, "find", no_data)
    assert tp4("--corpus", text / "text", "--width", "4", "--epochs", "1", "--out", tmp_path) == 0
    printed = capsys.readouterr()
    assert "going on without analogy questions" in printed.err
    assert "no questions asked" in printed.out
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["accuracy"], metrics["answered"], metrics["total"]) == (None, 0, 0)
    assert [data["name"] for data in metrics["data"]] == ["text"]


def test_a_no_break_space_is_a_letter_in_the_text_and_in_questions(tmp_path, capsys):
    (tmp_path / "text").write_text(
        "New\u00a0York is in America\u2003x . Oslo is in Norway\n" * 200, encoding="utf-8"
    )
    (tmp_path / "questions").write_text(": x\nNew\u00a0York America\u2003x Oslo Norway\n", encoding="utf-8")
    assert short(tmp_path, tmp_path / "out", "--subsample", "0", "--min-count", "1", "--lr", "0.001") == 0
    assert "of 1 questions (1 in all)" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--corpus", "--questions"])
def test_what_is_no_file_is_called_what_it_is(text, tmp_path, capsys, option):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name, says in (
        ("fifo", "is a pipe"),
        ("link", "is a link that leads nowhere"),
        (".", "is a folder"),
        ("none", "not exist"),
    ):
        assert short(text, tmp_path / "out", option, tmp_path / name) == 2
        line = capsys.readouterr().err
        assert says in line
        assert line.count("\n") == 1
    assert short(text, tmp_path / "out", option, "/dev/null") == 2
    assert "is a device" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "more",
    [
        ["--seed", "-1"],
        ["--seed", "9" * 400],
        ["--lr", "nan"],
        ["--wd", "inf"],
        ["--subsample", "nan"],
        ["--subsample", "7"],
        ["--width", "9" * 4000],
        ["--width", "2.5"],
        ["--epochs", "1" + "0" * 30],
        ["--batch-size", "1" + "0" * 30],
        ["--threads", "1" + "0" * 30],
        ["--min-count", "0"],
        ["--max-bytes", "0"],
        ["--epochs", "many"],
        ["--device", "cuda:x"],
    ],
)
@pytest.mark.parametrize("how", ["tp4", "python -m"])
def test_numbers_out_of_range_end_in_one_line(text, tmp_path, capsys, how, more):
    line = ["--corpus", text / "text", "--questions", text / "questions", "--out", tmp_path / "out", *more]
    with pytest.raises(SystemExit) as end:
        (cli.main if how == "tp4" else module.main)([*["word2vec"] * (how == "tp4"), *map(str, line)])
    printed = capsys.readouterr()
    assert (end.value.code, printed.out) == (2, "")
    assert printed.err.startswith("tp4: ")
    assert printed.err.count("\n") == 1
    assert len(printed.err) < 600
    assert not (tmp_path / "out").exists()


def test_both_command_lines_have_the_same_defaults():
    command = typer.main.get_command(cli.build())
    theirs = {option.name: option.default for option in command.commands["word2vec"].params}
    ours = vars(module._parser().parse_args(["--corpus", "x", "--out", "y"]))
    for name, value in ours.items():
        if name not in ("corpus", "out"):
            assert getattr(theirs[name], "value", theirs[name]) == value, name
