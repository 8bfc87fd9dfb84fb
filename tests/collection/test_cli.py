"""The command line where the machine is not as one would like it: no traceback, and nothing lost."""

import contextlib
import doctest
import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tp4lib.base import environment, paths
from tp4lib.base.errors import InputError
from tp4lib.collection import cli
from tp4lib.collection.commands import doctor

ROOT = Path(cli.__file__).resolve().parents[2]
TP4 = [sys.executable, "-m", "tp4lib.collection.cli"]
TEXT = b"the cat saw the dog and the dog saw the cat " * 40


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "text").write_bytes(TEXT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TP4_DATA", "embedded")
    return tmp_path


def run(*arguments, **variables):
    """A command in a process of its own; a variable that is None is unset."""
    there = {name: value for name, value in (os.environ | variables).items() if value is not None}
    return subprocess.run([*TP4, *arguments], env=there, capture_output=True)


def word2vec(corpus, out):
    return ["word2vec", "--corpus", corpus, "--out", out, "--epochs", "1", "--width", "4", "--min-count", "1"]


# -- what is printed -----------------------------------------------------------------------------------------------

ASCII = dict(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")


@pytest.mark.parametrize(
    "variables", [{}, ASCII, {"PYTHONIOENCODING": "cp1252:strict"}], ids=["utf-8", "ascii", "cp1252"]
)
def test_names_that_the_terminal_cannot_show_end_no_run(folder, variables):
    corpus, out = os.fsencode(folder) + b"/te\xff\xe9xt", os.fsencode("out\u03bc") + b"\xfe"
    with open(corpus, "wb") as file:
        file.write(TEXT)
    done = run(*word2vec(corpus, out), TP4_PROGRESS="0", **variables)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b", width 4, ") == 1
    assert b"\\udcff" in done.stdout
    assert os.path.isfile(os.path.join(os.fsencode(folder), out, b"metrics.json"))


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_stream_that_was_closed_goes_nowhere(monkeypatch, name):
    monkeypatch.setattr(sys, name, None)
    cli.open_streams()
    print("x", file=getattr(sys, name))
    getattr(sys, name).close()


def test_a_stdout_without_room_is_one_line(folder):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full on this system")
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*TP4, "--version"], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert b"No space left on device; expected room where files, or the output, go" in done.stderr
    assert done.stderr.count(b"\n") == 1


# -- environment variables -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["TP4_OFFLINE", "TP4_PROGRESS"])
@pytest.mark.parametrize("default", [True, False])
def test_switches(monkeypatch, name, default):
    for value in ("1", "true", "TRUE", "yes", " on "):
        monkeypatch.setenv(name, value)
        assert environment.flag(name, default) is True
    for value in ("0", "false", "False", "no", "OFF"):
        monkeypatch.setenv(name, value)
        assert environment.flag(name, default) is False
    for value in ("", "  "):
        monkeypatch.setenv(name, value)
        assert environment.flag(name, default) is default
    monkeypatch.delenv(name)
    assert environment.flag(name, default) is default
    for value in ("maybe", "2", "-1", "\udcff", "1 0"):
        monkeypatch.setenv(name, value)
        with pytest.raises(InputError, match=rf"{name}=.*; expected 1 or 0; try {name}=1, or unset {name}"):
            environment.check()


def test_whole_numbers(monkeypatch):
    for value, number in ((None, 1), ("", 1), ("4", 4), (" 4 ", 4)):
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        if value is not None:
            monkeypatch.setenv("WORLD_SIZE", value)
        assert environment.whole_number("WORLD_SIZE", 1, least=1) == number
    for value in ("0", "-3", "2.5", "x", "1_0", "\u0664", "9" * 5000):
        monkeypatch.setenv("WORLD_SIZE", value)
        with pytest.raises(InputError, match=r"WORLD_SIZE = .*; expected a whole number >= 1"):
            environment.whole_number("WORLD_SIZE", 1, least=1)


def test_names_that_mean_nothing(monkeypatch):
    monkeypatch.setenv("TP4_DATA", "x")
    monkeypatch.setenv("TP4_OFLINE", "1")
    assert environment.unknown() == ["TP4_OFLINE"]


NONSENSE = ["", "false", "quatsch", "/proc/nowhere/x", "-1", "\udcff", "a\nb", "text"]
COMMANDS = [
    ["--version"],
    ["data", "questions"],
    ["teach", "77"],
    ["word2vec", "--corpus", "nowhere", "--out", "out"],
]


@pytest.mark.parametrize("name", [*environment.VARIABLES, "TP4_COMMAND", "TP4_DEVICE", "TP4_PARENT", "COLUMNS",
                                  "TERMINAL_WIDTH", "HOME", "NUMBA_CACHE_DIR"])  # fmt: skip
def test_no_value_of_a_variable_ends_in_a_traceback(folder, monkeypatch, capsys, name):
    for value in NONSENSE:
        monkeypatch.setenv(name, value)
        for command in COMMANDS:
            with pytest.raises(SystemExit) as end:
                cli.main(command)
            _, errors = capsys.readouterr()
            assert end.value.code in (0, 2), (value, command)
            assert errors.count("\n") == (end.value.code == 2), errors
            assert command != ["--version"] or end.value.code == 0, value


def test_the_doctor_tells_of_settings_that_are_wrong(monkeypatch, capsys):
    monkeypatch.setenv("TP4_OFFLINE", "quatsch")
    monkeypatch.setenv("TP4_OFLINE", "1")
    print(*doctor._told(doctor._settings), sep="\n")
    said = " ".join(capsys.readouterr().out.split())
    assert "TP4_OFFLINE=quatsch" in said
    assert "TP4_OFLINE means nothing to tp4" in said
    assert "not found out (TP4_OFFLINE=quatsch; expected 1 or 0" in said


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        (
            "TP4_OFFLINE",
            "quatsch",
            "TP4_OFFLINE=quatsch; expected 1 or 0; try TP4_OFFLINE=1, or unset TP4_OFFLINE",
        ),
        ("TP4_CACHE", "text", "TP4_CACHE=text cannot be written; "),
        ("NUMBA_CACHE_DIR", "text", "NUMBA_CACHE_DIR=text cannot be written; "),
        ("NUMBA_NUM_THREADS", "0", "numba does not start (Number of threads specified must be > 0.); "),
    ],
)
def test_a_setting_that_cannot_work_is_named(folder, name, value, line):
    done = run(*(["data", "text8"] if name.startswith("TP4") else word2vec("text", "out")), **{name: value})
    assert done.returncode == 2
    assert done.stderr.decode().startswith(f"tp4: {line}")
    assert done.stderr.count(b"\n") == 1


# -- an installation and a home that cannot be written ---------------------------------------------------------------


@pytest.fixture
def unwritable(monkeypatch):
    """Folders below these cannot be written, though nobody's rights say so to root."""
    closed = []
    make = paths.out_dir

    def out_dir(path):
        if any(Path(path).is_relative_to(each) for each in closed):
            raise InputError(f"cannot write to the output folder {path}")
        return make(path)

    monkeypatch.setattr(paths, "out_dir", out_dir)
    return closed


def test_cached_files_go_to_the_first_place_that_can_be_written(monkeypatch, tmp_path, unwritable, capsys):
    monkeypatch.delenv("TP4_CACHE", raising=False)
    monkeypatch.setattr(paths, "checkout", lambda: tmp_path / "checkout")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(paths.tempfile, "gettempdir", lambda: str(tmp_path))
    places = [tmp_path / "checkout" / "data" / "cache", tmp_path / "home" / ".cache" / "tp4"]
    assert paths.cache_places() == places
    for place in places:
        assert paths.cache_dir() == place
        assert place.is_dir()
        unwritable.append(place)
    assert capsys.readouterr().err == ""
    last = paths.cache_dir()
    assert last.parent == tmp_path
    assert last.stat().st_mode & 0o077 == 0
    said = capsys.readouterr().err
    assert said.startswith(
        "tp4: neither the installation nor the home folder can be written; cached files go to"
    )
    assert paths.cache_dir() == last  # said once, kept for the processes that are started
    assert os.environ["TP4_CACHE"] == str(last)
    assert capsys.readouterr().err == ""
    monkeypatch.delenv("TP4_CACHE")
    unwritable.append(tmp_path)
    with pytest.raises(InputError, match=r"no folder for cached files: .*; try TP4_CACHE="):
        paths.cache_dir()


def test_a_cache_that_was_asked_for_is_not_passed_over(monkeypatch, tmp_path, unwritable):
    monkeypatch.setenv("TP4_CACHE", str(tmp_path / "mine"))
    assert paths.cache_dir() == tmp_path / "mine"
    assert paths.cache_places() == [tmp_path / "mine"]
    unwritable.append(tmp_path)
    with pytest.raises(InputError, match=r"TP4_CACHE=.* cannot be written"):
        paths.cache_dir()


def test_another_users_folder_is_no_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(paths.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(paths.tempfile, "mkdtemp", lambda prefix: str(tmp_path / "own"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"tp4-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    assert paths._temporary() == tmp_path / "own"


def test_a_user_without_a_home_gets_one(monkeypatch, tmp_path):
    monkeypatch.delenv("TP4_CACHE", raising=False)
    monkeypatch.setenv("HOME", "unchanged")
    paths.ensure_home()
    assert os.environ["HOME"] == "unchanged"

    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(paths.Path, "home", nobody)
    monkeypatch.setattr(paths.tempfile, "gettempdir", lambda: str(tmp_path))
    assert paths.cache_places() == [ROOT / "data" / "cache"]
    paths.ensure_home()
    assert Path(os.environ["HOME"]).parent == tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("home", ["written", "not written", "none"])
def test_an_unknown_user_trains_with_a_read_only_installation(folder, home):
    unknown = ["unshare", "-U", "--map-user=12345", "--map-group=12345"]
    with contextlib.suppress(OSError):
        if subprocess.run([*unknown, "true"], capture_output=True).returncode == 0:
            unknown = [*unknown, "env", "-u", "HOME", "-u", "TP4_CACHE", "-u", "USER", "-u", "LOGNAME"]
    if len(unknown) == 4:
        pytest.skip("no user namespaces on this system")
    installed, own = folder / "installed", folder / "home"
    own.mkdir()
    (installed / "notebooks").mkdir(parents=True)
    subprocess.run(["cp", "-r", ROOT / "tp4lib", ROOT / "pyproject.toml", installed], check=True)
    subprocess.run(
        ["find", installed, "-name", "__pycache__", "-prune", "-exec", "rm", "-rf", "{}", "+"], check=True
    )
    (folder / "tmp").mkdir()
    closed = [installed, own] if home == "not written" else [installed]
    subprocess.run(["chmod", "-R", "a-w", *closed], check=True)
    places = [f"HOME={own}"] if home != "none" else []
    try:
        done = subprocess.run(
            [*unknown, *places, f"PYTHONPATH={installed}", f"TMPDIR={folder / 'tmp'}", *TP4, *word2vec("text", "out")],
            capture_output=True, text=True,
        )  # fmt: skip
    finally:
        subprocess.run(["chmod", "-R", "u+w", installed, own], check=True)
    assert done.returncode == 0, done.stderr
    assert ("neither the installation nor the home" in done.stderr) == (home == "not written")
    assert (folder / "out" / "metrics.json").is_file()


# -- reasons -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "memory ran out"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "memory ran out"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            "memory ran out",
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory ran out"),
        (RuntimeError("can't start new thread"), "no more threads"),
        (OSError(errno.ENOSPC, "No space left on device", "big.npz"), "big.npz.* free some space"),
        (OSError(errno.EMFILE, "Too many open files", "x"), "ulimit"),
        (
            PermissionError(errno.EACCES, "Permission denied", "there.txt"),
            "there.txt.* can be read and written",
        ),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), None),
        (RuntimeError("the memory format is not supported"), None),
        (ZeroDivisionError(), None),
    ],
)
def test_a_reason_is_the_right_one_or_none(capsys, error, words):
    if words is None:
        with pytest.raises(type(error)), cli.guarded():
            raise error
        return
    with pytest.raises(SystemExit) as end, cli.guarded():
        raise error
    line = capsys.readouterr().err
    assert end.value.code == 2
    assert line.count("\n") == 1
    assert re.search(words, line)


# -- asking --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_answers_h_help_and_version(capsys, command):
    said = []
    for asked in ([command, "-h"], [command, "--help"], ["help", command]):
        with pytest.raises(SystemExit) as end:
            cli.main(asked)
        assert end.value.code == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] == said[2]
    with pytest.raises(SystemExit):
        cli.main([command, "--version"])
    assert capsys.readouterr().out.startswith("tp4 0.")


def test_help_of_our_commands_imports_no_torch(folder):
    code = "import sys; from tp4lib.collection import cli; cli.build(('reproduce', 'word2vec', 'teach', 'doctor')); " \
           "sys.exit('torch' in sys.modules)"  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_examples(monkeypatch):
    monkeypatch.setenv("TP4_OFFLINE", "1")
    assert doctest.testmod(environment).failed == 0
    assert doctest.testmod(cli.packages).failed == 0
