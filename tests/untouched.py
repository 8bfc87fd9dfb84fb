"""The suite leaves the checkout, and a user's results and caches elsewhere, as they were: what it watches, and how.

`conftest` sends every default place (results, downloads, home) into a temporary folder and registers `Untouched`, which
looks before the first test and after the last, and fails the run with the list of what is new, changed or gone.
"""

import contextlib
import hashlib
import os
import site
import stat
import sys
import tempfile
from collections.abc import Container, Iterable, Iterator
from itertools import chain
from pathlib import Path

import pytest

TOOLS = {".git", "__pycache__", ".pytest_cache", ".ruff_cache", ".hypothesis", ".ipynb_checkpoints"}
"""Caches of git, Python, numba, pytest, ruff, hypothesis and Jupyter, by name: nobody's results are in them."""

SMALL = 1 << 18
"""Up to so many bytes the content of a file is compared too; beyond, its size and time."""

_HOME_IS_ASKED_FOR_BY = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "MPLCONFIGDIR", "IPYTHONDIR",
                         "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "TRITON_CACHE_DIR",
                         "TRITON_HOME")  # fmt: skip


def places() -> list[Path]:
    """Where results and downloads of a user may lie, outside a checkout: call it before `away`."""
    named = [os.environ.get("TP4_OUT"), os.environ.get("TP4_CACHE")]
    caches = [os.environ.get("XDG_CACHE_HOME"), str(Path.home() / ".cache")]
    found = [Path(name) for name in named if name] + [Path(name) / "tp4" for name in caches if name]
    return list(dict.fromkeys(path.absolute() for path in found))


def away(folder: Path) -> None:
    """Let every default place of this process, and of those that it starts, lie in ``folder``."""
    os.environ.setdefault("PYTHONUSERBASE", site.getuserbase())  # packages installed with --user stay
    for name in _HOME_IS_ASKED_FOR_BY:
        os.environ.pop(name, None)
    for name, place in {"HOME": "home", "TP4_OUT": "out", "TP4_CACHE": "cache"}.items():
        (folder / place).mkdir()
        os.environ[name] = str(folder / place)


def paths(root: Path, apart: Container[Path] = ()) -> Iterator[Path]:
    """Everything below ``root`` but for caches of `TOOLS`, virtual environments, and the folders ``apart``."""
    for folder, inner, names in os.walk(root):
        here = Path(folder)
        inner[:] = [
            name
            for name in inner
            if name not in TOOLS and here / name not in apart and not (here / name / "pyvenv.cfg").exists()
        ]
        yield from (here / name for name in (*inner, *names))


def seen(roots: Iterable[Path], apart: Container[Path] = ()) -> dict[Path, tuple[object, ...]]:
    """Of every file its mode, size, time and, where it is `SMALL`, digest; of every folder its mode."""
    found: dict[Path, tuple[object, ...]] = {}
    for path in chain.from_iterable(paths(root, apart) for root in roots):
        with contextlib.suppress(OSError):  # gone, or not to be read
            told = path.lstat()
            found[path] = (told.st_mode,)
            if not stat.S_ISDIR(told.st_mode):
                found[path] += (told.st_size, told.st_mtime_ns)
            if stat.S_ISREG(told.st_mode) and told.st_size <= SMALL:
                found[path] += (hashlib.sha256(path.read_bytes()).hexdigest(),)
    return found


def differences(before: dict[Path, tuple[object, ...]], after: dict[Path, tuple[object, ...]]) -> list[str]:
    """One line for every path that is new, gone or changed."""
    lines = []
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) != after.get(path):
            how = "new" if path not in before else "gone" if path not in after else "changed"
            lines.append(f"{how}: {path}".encode("unicode_escape").decode())
    return lines


class Untouched:
    """A plugin of pytest: the run fails if anything below ``roots`` is not as it was before."""

    def __init__(self, roots: Iterable[Path]) -> None:
        self.roots = list(roots)
        self.lines: list[str] = []

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        given = session.config.option.basetemp
        self.apart = [Path(tempfile.gettempdir()), Path(sys.prefix), *([Path(given)] if given else [])]
        self.before = seen(self.roots, self.apart)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.lines = differences(self.before, seen(self.roots, self.apart))
        if self.lines and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.lines:
            terminalreporter.section(
                "files that the tests have not left as they were (or you, meanwhile)", red=True
            )
            terminalreporter.write("".join(f"{line}\n" for line in self.lines))
