"""`benchmarks/table3.py` at a tiny size: what it writes, and that a run cut off anywhere comes to the same numbers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.scripts import ROOT, script

PLACES = ["boston", "chicago", "dallas", "texas", "ohio", "maine"]
ASKED = ["athens", "greece", "oslo", "norway", "paris", "france"]
SIZES = ["--vocab", "40", "--epochs", "2", "--runs", "4:2", "inf:1"]
KILLED = """
import os, sys
from tests.scripts import script
table3 = script("table3")
put, left = table3.Results.put, [int(sys.argv.pop(1))]
def put_and_die(*given, **more):
    put(*given, **more)
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), 9)
table3.Results.put = put_and_die
table3.main()
"""


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    words, rng = [*ASKED, *PLACES, *(f"w{i}" for i in range(40))], np.random.default_rng(0)
    path = tmp_path_factory.mktemp("text") / "text"
    path.write_text(" ".join(words[i] for i in np.minimum(rng.zipf(1.2, 20_000) - 1, 51)))
    return path


def line(text, folder, *more):
    return [str(text), *SIZES, "--out", str(folder / "runs"), "--result", str(folder / "table3.json"), *more]


def benchmark(monkeypatch, arguments):
    """Run the command here; SIGINT is as before afterwards."""
    table3 = script("table3")
    monkeypatch.setenv("TP4_PROGRESS", "0")
    monkeypatch.setattr(table3, "SHUFFLES", 20)
    monkeypatch.setattr(sys, "argv", ["table3.py", *arguments])
    before = signal.getsignal(signal.SIGINT)
    try:
        table3.main()
    finally:
        signal.signal(signal.SIGINT, before)
    return table3


@pytest.fixture(scope="module")
def unbroken(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    with pytest.MonkeyPatch.context() as monkeypatch:
        benchmark(monkeypatch, line(text, folder))
    return folder


def numbers(folder):
    """What does not depend on the clock."""
    runs = json.loads((folder / "table3.json").read_text())["runs"]
    return {
        name: [(row["epoch"], row["loss"], row["accuracy"], row["answered"]) for row in run["history"]]
        for name, run in runs.items()
    }


def rows(folder):
    with np.load(folder / "table3_places.npz") as file:
        return dict(file)


def test_it_writes_every_epoch_and_the_rows_of_figure_1(unbroken):
    found = numbers(unbroken)
    assert list(found) == sorted(["width-4-seed-0", "width-inf-seed-0", "width-4-seed-1"])
    assert all([row[0] for row in history] == [1, 2] for history in found.values())
    assert all(history[1][1] < history[0][1] for history in found.values()), "the loss falls"
    assert found["width-4-seed-0"] != found["width-4-seed-1"]
    assert all(row[3] > 0 for history in found.values() for row in history), "questions are answered"
    run = json.loads((unbroken / "table3.json").read_text())["runs"]["width-inf-seed-0"]["figure1"]
    assert (run["cities"], run["states"]) == (3, 3)
    assert run["plane"]["coordinates"] == 2
    kept = rows(unbroken)
    cities = dict(zip(kept.pop("words").tolist(), kept.pop("is_city").tolist()))
    assert cities == {place: place in PLACES[:3] for place in PLACES}
    assert {name: (a.dtype.name, a.shape) for name, a in kept.items()} == {
        "width-4-seed-0": ("float16", (6, 4)),
        "width-4-seed-1": ("float16", (6, 4)),
        "width-inf-seed-0": ("float16", (6, 5)),
    }
    command = json.loads((unbroken / "table3.json").read_text())["command"]
    assert command == "python benchmarks/table3.py text --vocab 40 --epochs 2 --runs 4:2 inf:1"


@pytest.mark.parametrize("writes", [1, 4])
def test_killed_it_goes_on_to_the_same_numbers(text, unbroken, tmp_path, monkeypatch, writes):
    """SIGKILL after an epoch of the first run, then after one of the second."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TP4_PROGRESS": "0"}
    command = [sys.executable, "-c", KILLED, str(writes), *line(text, tmp_path)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(numbers(tmp_path)) == (1 if writes == 1 else 2)
    benchmark(monkeypatch, line(text, tmp_path))
    assert numbers(tmp_path) == numbers(unbroken)
    for name, kept in rows(unbroken).items():
        assert np.array_equal(rows(tmp_path)[name], kept), name


def test_stopped_in_time_it_keeps_what_it_has(text, unbroken, tmp_path, monkeypatch, capsys):
    """At the end of its hours the command asks itself to stop, as Ctrl-C does; once they are over it starts no run."""
    stopping = script("table3")
    put = stopping.Results.put

    def put_and_stop(*given, **more):
        put(*given, **more)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as once:
        once.setattr(stopping.Results, "put", put_and_stop)
        once.setattr(sys, "argv", ["table3.py", *line(text, tmp_path)])
        once.setenv("TP4_PROGRESS", "0")
        before = signal.getsignal(signal.SIGINT)
        stopping.main()
        signal.signal(signal.SIGINT, before)
    assert "the same command goes on" in capsys.readouterr().out
    assert [len(history) for history in numbers(tmp_path).values()] == [1]
    benchmark(monkeypatch, line(text, tmp_path, "--hours", "1e-9"))
    assert "the same command goes on" in capsys.readouterr().out
    assert len(numbers(tmp_path)) == 1
    benchmark(monkeypatch, line(text, tmp_path, "--hours", "1"))
    assert numbers(tmp_path) == numbers(unbroken)


def test_the_plan_is_told_and_nothing_written(text, tmp_path, monkeypatch, capsys):
    table3 = benchmark(monkeypatch, line(text, tmp_path, "--dry-run"))
    told = capsys.readouterr().out
    assert "width-4-seed-1: 0 of 2 epochs done, about" in told
    assert "in all: about" in told
    assert not list(tmp_path.iterdir())
    order = [table3.name_of(run) for run in table3.planned(["64:3", "inf:1"])]
    assert order == ["width-64-seed-0", "width-inf-seed-0", "width-64-seed-1", "width-64-seed-2"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--epochs", "3"], "holds runs of other settings"),
        (["--runs", "64"], "expected WIDTH:SEEDS"),
        (["--hours", "-1"], "hours"),
    ],
)
def test_what_does_not_fit_is_one_line(text, unbroken, monkeypatch, capsys, more, message):
    with pytest.raises(SystemExit) as end:
        benchmark(monkeypatch, line(text, unbroken, *more))
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.fixture
def heeds_interrupts():
    """As `main` sets it: Python itself does not where SIGINT is ignored, as in a shell's background jobs."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_interrupts")
def test_at_its_time_a_run_is_interrupted():
    with pytest.raises(KeyboardInterrupt), script("table3").interrupted_at(time.monotonic() + 0.05):
        time.sleep(60)
    with pytest.raises(KeyboardInterrupt), script("table3").interrupted_at(time.monotonic() - 1):
        pytest.fail("it begins after its time")
