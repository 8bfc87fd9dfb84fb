"""`tools/arithmetic.py`: which tests it runs, and that the worst exit code is its own."""

import subprocess

import pytest

from tests.scripts import ROOT, script


@pytest.fixture
def tool():
    return script("arithmetic", "tools")


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
    assert [name for name in tool.WITHOUT_NUMBERS if not (ROOT / "tests" / name).exists()] == []


def test_one_failure_is_a_failure(tool, monkeypatch, capsys):
    codes = iter([0, 1, *[0] * 20])
    monkeypatch.setattr(tool, "run", lambda *_: (next(codes), "told", 1.0))
    assert tool.main([]) == 1
    assert capsys.readouterr().out.count("FAILED") == 1
