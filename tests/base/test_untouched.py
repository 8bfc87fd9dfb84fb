"""The watch over the checkout: it sees each kind of change, passes over caches of tools, and fails the run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import untouched
from tp4lib.base import paths

CONFTEST = """
import os, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import untouched
ROOT = Path(__file__).parent

def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(untouched.Untouched([ROOT]))
"""


@pytest.fixture
def tree(tmp_path):
    """A checkout with a user's results, a cache of a tool and an environment."""
    root = tmp_path / "checkout"
    for name in (
        "runs/ci/index.html",
        "data/cache/text8",
        "__pycache__/x.pyc",
        ".git/index",
        "env/pyvenv.cfg",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("mine")
    (root / "conftest.py").write_text(CONFTEST.format(tests=str(Path(untouched.__file__).parent)))
    return root


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def same_size_and_time(path):
    told = path.stat()
    path.write_text("MINE")
    os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns))


CHANGES = {
    "nothing": (lambda root: None, []),
    "caches of tools": (lambda root: [write(root / name, "new") for name in (
        "__pycache__/y.pyc", "src/__pycache__/z.pyc", ".git/index", "env/bin", ".pytest_cache/x")], ["new: src"]),
    "a new file": (lambda root: write(root / "runs" / "new", "x"), ["new: runs/new"]),
    "a name that is no text": (
        lambda root: write(root / os.fsdecode(b"\xff\n"), "x"), ["new: \\udcff\\n"]),
    "a new folder": (lambda root: (root / "runs" / "students").mkdir(), ["new: runs/students"]),
    "results written over": (
        lambda root: write(root / "runs/ci/index.html", "other"), ["changed: runs/ci/index.html"]),
    "the same size and time": (
        lambda root: same_size_and_time(root / "runs/ci/index.html"), ["changed: runs/ci/index.html"]),
    "a file touched": (lambda root: os.utime(root / "data/cache/text8"), ["changed: data/cache/text8"]),
    "a file removed": (lambda root: (root / "data/cache/text8").unlink(), ["gone: data/cache/text8"]),
    "a file that can no longer be written": (
        lambda root: (root / "data/cache/text8").chmod(0o444), ["changed: data/cache/text8"]),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_every_change_is_seen_but_that_of_a_tools_cache(tree, what):
    change, expected = CHANGES[what]
    before = untouched.seen([tree])
    change(tree)
    after = untouched.seen([tree])
    assert untouched.differences(before, after) == [line.replace(": ", f": {tree}/") for line in expected]


@pytest.mark.parametrize(
    ("test", "code"), [("assert True", 0), ("(Path(__file__).parent / 'left').touch()", 1)]
)
def test_a_run_fails_whose_tests_leave_something(tree, test, code):
    (tree / "test_it.py").write_text(f"from pathlib import Path\ndef test_it():\n    {test}\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    assert "1 passed" in done.stdout
    assert done.returncode == code, done.stdout
    assert (f"new: {tree / 'left'}\n" in done.stdout) == bool(code)


def test_this_run_is_watched_and_its_defaults_lie_elsewhere(pytestconfig):
    root, elsewhere = paths.checkout(), Path(os.environ["HOME"]).parent
    if not hasattr(pytestconfig, "workerinput"):
        assert root in pytestconfig.pluginmanager.get_plugin("untouched").roots
    for place in (paths.runs_dir("ci"), paths.runs_dir("students"), paths.cache_dir(), Path.home()):
        assert place.is_relative_to(elsewhere)
