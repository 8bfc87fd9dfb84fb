"""Runs that are repeated, killed, starved and crowded: the numbers stay, nothing half-written is taken for whole."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat
import numpy as np
import pytest

from tp4lib.base import checkpoint, device
from tp4lib.base.errors import InputError
from tp4lib.base.files import alone_in, write_json
from tp4lib.collection import cli, reproduce
from tp4lib.data import provenance
from tp4lib.maml import experiment as maml_command

HEAVY = os.environ.get("TP4_HEAVY") == "1"
"""More kills, full sizes: minutes to an hour (``TP4_HEAVY=1 pytest tests/collection/test_trust_runs.py``)."""


@pytest.fixture(autouse=True)
def embedded(monkeypatch):
    monkeypatch.setenv("TP4_DATA", "embedded")
    monkeypatch.setenv("TP4_PROGRESS", "0")
    monkeypatch.setattr(maml_command, "VALIDATION_TASKS", 16)
    monkeypatch.setattr(maml_command, "TEST_TASKS", 32)


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    """A text of 400 words, and questions about four of them."""
    folder = tmp_path_factory.mktemp("corpus")
    words = ["athens", "greece", "oslo", "norway"] + [f"w{i}" for i in range(396)]
    drawn = np.minimum(np.random.default_rng(0).zipf(1.2, 60_000) - 1, 399)
    (folder / "text").write_text(" ".join(words[i] for i in [*range(400), *drawn]))
    (folder / "questions").write_text(": capitals\nAthens Greece Oslo Norway\n")
    return folder


def word2vec(text: Path, *more: object) -> list[str]:
    fixed = ["--corpus", text / "text", "--questions", text / "questions", "--min-count", 1]
    return ["word2vec", *map(str, [*fixed, *more])]


MAML = ["maml", "--limit", "none", "--width", "8", "--meta-steps", "600", "--seed", "3"]


def tp4(arguments: list[str], out: Path) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main([*arguments, "--out", str(out)])
    return end.value.code


# In a process of its own, as a user's would be; few validation and test tasks, since it is not their number we ask for.
DRIVER = """
import json, sys
from tp4lib.collection import cli
from tp4lib.maml import experiment
experiment.VALIDATION_TASKS, experiment.TEST_TASKS = 16, 32
for arguments in json.loads(sys.argv[1]):
    try:
        cli.main(arguments)
    except SystemExit as end:
        if end.code:
            raise
"""


def start(*commands: list[str], **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, json.dumps(commands)],
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # As a script's `tp4 ... &` is started: deaf to Ctrl-C, and still to be ended politely.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )


def run_all(commands: dict[str, list[str]], out: Path, **environment: str) -> Path:
    process = start(*([*each, "--out", str(out / name)] for name, each in commands.items()), **environment)
    _, errors = process.communicate(timeout=1200)
    assert process.returncode == 0, errors
    return out


def numbers(value, path: str = "") -> dict[str, object]:
    """The leaves of a metrics.json but for times and the environment."""
    if isinstance(value, dict):
        kept = {
            k: v for k, v in value.items() if "second" not in k and k not in ("environment", "run_seconds")
        }
        return {key: leaf for k, v in kept.items() for key, leaf in numbers(v, f"{path}/{k}").items()}
    if isinstance(value, list):
        return {key: leaf for i, v in enumerate(value) for key, leaf in numbers(v, f"{path}/{i}").items()}
    return {path: value}


def metrics(folder: Path) -> dict[str, object]:
    told = json.loads((folder / "metrics.json").read_text())
    told.pop("written", None)  # digests, also of the times
    return numbers(told)


# ---- Determinism


@pytest.fixture(scope="module")
def thrice(text, tmp_path_factory):
    """Every command, twice with one thread and once with two, each time in another process."""
    steps = ["--meta-steps", "300" if HEAVY else "6"]
    commands = {
        "64": word2vec(text, "--width", 64, "--epochs", 2),
        "inf": word2vec(text, "--width", "inf", "--epochs", 2),
        "per-position": word2vec(text, "--width", 16, "--epochs", 1, "--negatives", "per-position"),
        "none": ["maml", "--limit", "none", "--width", "64", *steps],
        "mup": ["maml", "--limit", "mup", *steps],
        "ntk": ["maml", "--limit", "ntk", "--activation", "relu", *steps],
        "gp": ["maml", "--limit", "gp", *steps],
        "pi": ["maml", "--limit", "pi", "--activation", "relu", "--rank", "20", *steps],
    }
    environment = {"TP4_DATA": "embedded", "TP4_PROGRESS": "0"}
    folder = tmp_path_factory.mktemp("thrice")
    first = run_all(commands, folder / "1", PYTHONHASHSEED="1", OMP_NUM_THREADS="1", **environment)
    again = run_all(commands, folder / "2", PYTHONHASHSEED="2", OMP_NUM_THREADS="1", **environment)
    # Threads that spin while they wait for each other are very slow on a busy machine.
    few = commands if HEAVY else {name: commands[name] for name in ("64", "inf", "mup")}
    two = run_all(few, folder / "3", OMP_NUM_THREADS="2", OMP_WAIT_POLICY="passive", **environment)
    return list(commands), first, again, two, list(few)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits(thrice):
    names, first, again, *_ = thrice
    for name in names:
        assert metrics(first / name) == metrics(again / name), name
        for binary in ("vectors.bin", "checkpoint.npz"):
            if (first / name / binary).exists():
                assert same_arrays(first / name / binary, again / name / binary), (name, binary)


@pytest.mark.slow
def test_another_number_of_threads_changes_rounding_alone(thrice):
    """Sums in another order: relative differences of a float32's last digits, grown by training."""
    _, first, _, two, names = thrice
    worst = {}
    for name in names:
        a, b = metrics(first / name), metrics(two / name)
        assert a.keys() == b.keys()
        losses = [key for key in a if key.endswith("loss")]
        assert losses
        worst[name] = max(abs(a[key] / b[key] - 1) for key in losses)
    print(worst)
    assert max(worst.values()) < 1e-4, worst


def same_arrays(a: Path, b: Path) -> bool:
    if a.suffix == ".bin":
        return a.read_bytes() == b.read_bytes()
    (one, _), (two, _) = checkpoint.load(a), checkpoint.load(b)  # its meta holds times
    return one.keys() == two.keys() and all(np.array_equal(one[k], two[k], equal_nan=True) for k in one)


# ---- Provenance


@pytest.mark.slow
def test_every_metrics_file_says_where_its_numbers_come_from(thrice):
    names, first, *_ = thrice
    for name in names:
        told = json.loads((first / name / "metrics.json").read_text())
        environment = told["environment"]
        assert {"torch", "numpy", "tp4lib"} <= set(environment["versions"])
        assert environment["command"].startswith(("tp4 word2vec --corpus", "tp4 maml --limit"))
        assert (environment["device"], environment["threads"], told["seed"], told["preset"]) == (
            "cpu",
            1,
            0,
            None,
        )
        assert environment.keys() >= provenance.commit().keys()
        for data in told["data"]:
            assert data["synthetic"] or len(data["sha256"]) == 64
        assert [d["name"] for d in told["data"]] == (
            ["text", "questions"] if name in ("64", "inf", "per-position") else ["omniglot"]
        )


def test_the_commit_is_that_of_our_own_checkout_or_absent(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance.paths, "checkout", lambda: tmp_path)
    assert provenance.commit() == {}

    def git(*arguments):
        subprocess.run(["git", "-C", tmp_path, *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false", "commit", "-m", "m")
    clean = provenance.commit()
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    (tmp_path / "file").write_text("2")
    assert provenance.commit() == clean | {"dirty": True}
    (tmp_path / "inner").mkdir()
    monkeypatch.setattr(provenance.paths, "checkout", lambda: tmp_path / "inner")
    assert provenance.commit() == {}, "sources unpacked inside another repository are not that repository's"


# ---- Killed


def end_when_saved(command: list[str], out: Path, number: int) -> tuple[int, str]:
    """Start a run, send it a signal once it has written a checkpoint; its exit code and stderr."""
    saved = out / "unfinished" / "checkpoint.npz"
    old = saved.stat().st_mtime_ns if saved.exists() else 0
    process = start([*command, "--out", str(out)])
    while process.poll() is None and not (saved.exists() and saved.stat().st_mtime_ns != old):
        time.sleep(0.002)
    time.sleep(random.uniform(0, 0.05))
    if process.poll() is None:
        os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors


@pytest.mark.slow
def test_maml_ended_and_killed_resumes_to_the_same_numbers(tmp_path):
    assert tp4(MAML, tmp_path / "whole") == 0
    out = tmp_path / "broken"
    code, errors = end_when_saved(MAML, out, signal.SIGTERM)
    if code != 0:  # else it was quicker than the signal
        assert code == 2, errors
        assert errors.count("\n") == 1, errors
        assert "is kept; go on with the same command and --resume" in errors
    for _ in range(20 if HEAVY else 1):
        end_when_saved([*MAML, "--resume"], out, signal.SIGKILL)
    assert tp4([*MAML, "--resume"], out) == 0
    assert metrics(out) == metrics(tmp_path / "whole")
    assert sorted(p.name for p in out.iterdir()) == ["checkpoint.npz", "metrics.json"]


@pytest.mark.skipif(not HEAVY, reason="TP4_HEAVY=1 kills 40 runs at random moments")
@pytest.mark.parametrize("command", ["maml", "word2vec"])
def test_killed_at_any_moment_it_resumes_to_the_same_numbers(tmp_path, text, command):
    arguments = MAML if command == "maml" else word2vec(text, "--width", 48, "--epochs", 60)
    assert tp4(arguments, tmp_path / "whole") == 0
    out, kills = tmp_path / "broken", 0
    began = time.monotonic()
    run_all({"timed": arguments}, tmp_path)
    longest = time.monotonic() - began
    while kills < 20:
        resume = ["--resume"] if (out / "unfinished" / "checkpoint.npz").exists() else []
        process = start([*arguments, "--out", str(out), *resume])
        time.sleep(random.uniform(0, longest))
        if process.poll() is None:
            kills += 1
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if (out / "metrics.json").exists():
            assert metrics(out) == metrics(tmp_path / "whole")
            for file in out.iterdir():
                file.unlink()
    resume = ["--resume"] if (out / "unfinished" / "checkpoint.npz").exists() else []
    assert tp4([*arguments, *resume], out) == 0
    assert metrics(out) == metrics(tmp_path / "whole")
    assert not [p.name for p in out.iterdir() if p.name.startswith(".")]


def notebook(path: Path, *cells: str) -> Path:
    parameters = nbformat.v4.new_code_cell(
        'preset = "laptop"\nseed = 0\ndevice = "auto"\ndata_dir = None', metadata={"tags": ["parameters"]}
    )
    book = nbformat.v4.new_notebook(cells=[parameters, *map(nbformat.v4.new_code_cell, cells)])
    nbformat.write(book, path)
    return path


RUNNER = """
import sys
from pathlib import Path
from tp4lib.collection import reproduce
from tp4lib.collection.cli import guarded
with guarded():
    reproduce.run([Path(sys.argv[1])], reproduce.Plan("ci", Path(sys.argv[2])))
"""

REPORTS = """
from tp4lib.collection.report import Report
report = Report("any", preset, seed)
report.metric("x", 1)
report.save()
"""

TICKS = """
import os, time
from pathlib import Path
ticks = Path("ticks")
while not Path("stop").exists():
    with open(ticks, "a") as file:
        file.write(f"{os.getpid()} {os.getppid()}\\n")
    time.sleep(0.02)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_reproduce_killed_takes_its_kernels_along(tmp_path, number):
    book, out = notebook(tmp_path / "01_ticks.ipynb", TICKS, REPORTS), tmp_path / "out"
    for _ in range(10 if HEAVY else 1):
        process = subprocess.Popen(
            [sys.executable, "-c", RUNNER, book, out],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        while not (out / "ticks").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        time.sleep(random.uniform(0, 0.3))
        if number == signal.SIGKILL:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        if number == signal.SIGTERM:
            assert process.returncode == 2
            assert errors == "tp4: interrupted; nothing half-written is left\n"
        pids = {int(pid) for pid in (out / "ticks").read_text().split()}
        deadline = time.monotonic() + 10
        while any(map(alive, pids)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not [pid for pid in pids if alive(pid)], "papermill or the kernel outlived tp4"
        size = (out / "ticks").stat().st_size
        time.sleep(0.2)
        assert (out / "ticks").stat().st_size == size
        assert not (out / "01_ticks" / "run.json").exists()
        merged = json.loads((out / "metrics.json").read_text())
        assert "01_ticks" not in merged["runs"]
        assert merged["unfinished"]["01_ticks"]["results_of"] is None
        (out / "ticks").unlink()
    (out / "stop").touch()
    (outcome,) = reproduce.run([book], reproduce.Plan("ci", out), say=lambda line: None)
    assert outcome.error is None
    assert json.loads((out / "metrics.json").read_text())["runs"]["01_ticks"]["ok"] is True
    assert not [p.name for p in out.rglob(".*") if p.name.startswith(".01") or p.name == ".tp4.lock"]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


# ---- Full, read-only


@contextmanager
def small_disk(folder: Path, options: str):
    """A file system of its own at ``folder``; skipped where it cannot be mounted (it takes root, and Linux)."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def disk(tmp_path):
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small disk takes root on Linux")
    with small_disk(tmp_path / "disk", "size=2m") as folder:
        yield folder


def enlarge(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)


@pytest.mark.parametrize("command", ["word2vec", "maml"])
def test_a_full_disk_ends_in_one_line_and_keeps_the_last_checkpoint(disk, tmp_path, text, capfd, command):
    """The disk holds one checkpoint, not two: the second cannot be written; Word2Vec says so before it trains."""
    arguments = (
        word2vec(text, "--width", "inf", "--epochs", 3)  # 2 x 400 x 400 x 4 bytes
        if command == "word2vec"
        else ["maml", "--limit", "none", "--width", "200", "--meta-steps", "220"]  # 2 x 784 x 200 x 4 bytes
    )
    out = disk / "out"
    assert tp4(arguments, out) == 2
    printed = capfd.readouterr().err
    assert printed.count("\n") == 1, printed
    if command == "word2vec":
        assert "to keep two checkpoints needs 0.0 GiB of disk" in printed
        assert "try --no-checkpoints" in printed
        assert not out.exists()
    else:
        assert "No space left on device; free some space or choose another --out" in printed
        assert [p.name for p in out.iterdir()] == ["unfinished"]
        checkpoint.load(out / "unfinished" / "checkpoint.npz")
        arguments = [*arguments, "--resume"]
    enlarge(disk)
    assert tp4(arguments, out) == 0
    arguments = [each for each in arguments if each != "--resume"]
    assert tp4(arguments, tmp_path / "whole") == 0
    assert metrics(out) == metrics(tmp_path / "whole")


@pytest.mark.slow
def test_reproduce_on_a_full_disk_says_so(disk, tmp_path):
    fill = "with open('filler', 'wb') as file:\n    file.write(bytes(3 << 20))"
    books = [notebook(tmp_path / f"{name}.ipynb", *cells, REPORTS)
             for name, cells in (("01_fills", [fill]), ("02_after", []))]  # fmt: skip
    with pytest.raises(InputError, match="No space left on device") as error:
        reproduce.run(books, reproduce.Plan("ci", disk / "out"), say=lambda line: None)
    assert len(str(error.value).splitlines()) == 1
    for file in ("01_fills/run.json", "metrics.json"):  # whole or absent, and nothing passes for a success
        if (disk / "out" / file).exists():
            assert json.loads((disk / "out" / file).read_text()).get("ok", False) is False
    enlarge(disk)
    outcomes = reproduce.run(books, reproduce.Plan("ci", disk / "out"), say=lambda line: None)
    assert [outcome.error for outcome in outcomes] == [None, None]


def test_a_read_only_folder_is_refused_before_any_work(tmp_path, text, capfd):
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a read-only disk takes root on Linux")
    with small_disk(tmp_path / "disk", "ro,size=1m") as folder:
        for arguments in (word2vec(text), MAML, ["reproduce", "00"]):
            assert tp4(arguments, folder) == 2
            printed = capfd.readouterr()
            assert printed.out == ""
            assert printed.err.count("\n") == 1
            assert "cannot write to the output folder" in printed.err


# ---- Memory


@pytest.fixture(scope="module")
def starved(tmp_path_factory):
    """Notebooks whose kernels die or lack memory, and two that hold much and little, three at once."""
    folder = tmp_path_factory.mktemp("starved")
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))"
    held = folder / "held"
    # What the kernel holds before the large object: how much library code is resident differs from kernel to kernel.
    before = "from pathlib import Path\nstatus = Path('/proc/self/status')\nif status.exists():\n    " + (
        f"Path({str(held)!r}).write_text(status.read_text().split('VmRSS:')[1].split()[0])"
    )
    books = [
        notebook(folder / "01_killed.ipynb", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"),
        notebook(folder / "02_limited.ipynb", limit, "x = bytearray(4 << 30)"),
        notebook(folder / "03_much.ipynb", REPORTS, before, "x = b'1' * (400 << 20)\ndel x"),
        notebook(folder / "04_little.ipynb", REPORTS),
    ]
    lines = []
    outcomes = reproduce.run(books, reproduce.Plan("ci", folder / "out", workers=3), say=lines.append)
    return folder / "out", outcomes, lines, held


@pytest.mark.slow
def test_a_kernel_that_dies_of_memory_is_named_and_the_others_run(starved):
    out, (killed, limited, much, little), lines, _ = starved
    assert "os.kill(os.getpid(), signal.SIGKILL)" in killed.error
    assert "the kernel died in this cell" in killed.error
    assert "memory ran out" in killed.error
    assert "MemoryError" in limited.error
    assert (much.error, little.error) == (None, None)
    runs = json.loads((out / "metrics.json").read_text())["runs"]
    assert {name: run["ok"] for name, run in runs.items()} == {
        "01_killed": False, "02_limited": False, "03_much": True, "04_little": True,
    }  # fmt: skip
    assert sorted(line[:5] for line in lines) == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]


@pytest.mark.slow
def test_peak_memory_is_what_the_notebook_held(starved):
    _, (*_, much, little), _, held = starved
    before = int(held.read_text()) * 1024 if held.exists() else little.peak_memory
    assert much.peak_memory - before == pytest.approx(400 << 20, rel=0.2)
    assert little.peak_memory > 50 << 20  # how much a bare kernel holds depends on the machine


# ---- Crowded


def test_a_second_run_in_one_folder_is_refused(tmp_path, text, capfd):
    out = tmp_path / "out"
    with alone_in(out):
        write_json(out / "metrics.json", {"first": 1})
        for arguments in (word2vec(text), MAML, ["reproduce", "00"]):
            assert tp4(arguments, out) == 2
            printed = capfd.readouterr()
            assert (printed.out, printed.err.count("\n")) == ("", 1)
            assert "another run works in" in printed.err
        assert json.loads((out / "metrics.json").read_text()) == {"first": 1}
    with alone_in(out):
        pass
    assert [p.name for p in out.iterdir()] == ["metrics.json"]


def test_what_a_killed_run_left_half_written_goes_and_an_unused_folder_too(tmp_path):
    half = tmp_path / f".checkpoint.npz.{2**22 + 1}-abc.tp4.part"  # of a process that there cannot be
    half.write_text("half")
    with alone_in(tmp_path / "new" / "folder") as folder:
        assert folder.is_dir()
    assert not (tmp_path / "new").exists()
    with alone_in(tmp_path):
        assert not half.exists()


COMPUTES = """
import torch
from tp4lib.collection.report import Report
report = Report("{name}", preset, seed)
x = torch.randn(300, 300, generator=torch.Generator().manual_seed(seed))
for step in range(20):
    x = x @ x / (x @ x).norm() * 17
report.metric("sum", x.double().sum())
report.metric("trace", x.trace())
report.save()
"""


@pytest.mark.slow
def test_the_numbers_do_not_depend_on_the_workers(tmp_path):
    names = ("01_first", "02_second")
    books = [notebook(tmp_path / f"{name}.ipynb", COMPUTES.format(name=name)) for name in names]
    for workers in (1, 2):
        reproduce.run(
            books,
            reproduce.Plan("ci", tmp_path / str(workers), seed=5, workers=workers),
            say=lambda line: None,
        )
    one, two = (json.loads((tmp_path / w / "metrics.json").read_text()) for w in ("1", "2"))
    assert numbers(one["notebooks"]) == numbers(two["notebooks"])
    assert len(numbers(one["notebooks"])) > 4
    assert one["notebooks"]["01_first"]["environment"]["threads"] == 1
    assert (one["runner"]["workers"], two["runner"]["workers"]) == (1, 2)
    assert (one["seed"], one["preset"], one["environment"]["device"]) == (5, "ci", str(device.resolve()))

    # What is whole stays with resume; another seed, another source or a missing end is run again.
    (tmp_path / "2" / "02_second" / "run.json").unlink()
    lines = []
    reproduce.run(
        books, reproduce.Plan("ci", tmp_path / "2", seed=5, workers=2, resume=True), say=lines.append
    )
    assert lines[0] == "[1/2] 01_first  kept from the run before"
    assert lines[1].startswith("[2/2] 02_second  ok")
    assert numbers(json.loads((tmp_path / "2" / "metrics.json").read_text())["notebooks"]) == numbers(
        one["notebooks"]
    )


@pytest.mark.skipif(not HEAVY, reason="TP4_HEAVY=1 runs the collection at preset ci four times")
def test_the_collection_with_1_2_and_4_workers_and_twice(tmp_path):
    found = []
    for name, workers in (("1", 1), ("again", 1), ("2", 2), ("4", 4)):
        outcomes = reproduce.run(
            reproduce.notebooks(), reproduce.Plan("ci", tmp_path / name, workers=workers)
        )
        assert not [outcome for outcome in outcomes if outcome.error]
        found.append(numbers(json.loads((tmp_path / name / "metrics.json").read_text())["notebooks"]))
    for other in found[1:]:
        assert {key for key in other if other[key] != found[0].get(key)} <= {
            key for key in other if timed(key)
        }


def timed(key: str) -> bool:
    """Whether a metric of a notebook is a measurement of time."""
    return "/metrics/speed/" in key or "/metrics/cost/exponent in the steps" in key
