"""`tools/arithmetic.py`: which tests it runs, and that the worst exit code is its own."""

import importlib.util
import subprocess
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "arithmetic.py"


@pytest.fixture
def tool():
    specification = importlib.util.spec_from_file_location("arithmetic", TOOL)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("arguments", "all_numerical"),
    [([], True), (["-n", "2", "-m", "not slow"], True), (["tests/test_kernels.py::test_x", "-x"], False)],
)
def test_values_of_options_name_no_tests(tool, monkeypatch, arguments, all_numerical):
    ran = []

    class Tests:
        returncode, stdout = 0, ["1 passed"]

        def __init__(self, command, **_):
            ran.append(command)

        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda *_: None  # noqa: E731

    monkeypatch.setattr(subprocess, "Popen", Tests)
    assert tool.run({}, arguments)[:2] == (0, "1 passed")
    left_out = [each for each in ran[0] if each.startswith("--ignore=")]
    assert len(left_out) == (len(tool.WITHOUT_NUMBERS) if all_numerical else 0)
    assert ran[0][-len(arguments) :] == arguments or not arguments


def test_every_folder_that_is_left_out_exists(tool):
    assert [name for name in tool.WITHOUT_NUMBERS if not (TOOL.parents[1] / "tests" / name).exists()] == []


def test_one_failure_is_a_failure(tool, monkeypatch, capsys):
    codes = iter([0, 1, *[0] * 20])
    monkeypatch.setattr(tool, "run", lambda *_: (next(codes), "told", 1.0))
    assert tool.main([]) == 1
    assert capsys.readouterr().out.count("FAILED") == 1
