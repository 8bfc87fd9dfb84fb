"""Student versions: the answers are gone, the checks are not, and the notebook still runs."""

import doctest
import json
import subprocess
import sys

import nbformat
import pytest

from tp4lib import reproduce, teach
from tp4lib.errors import InputError

BOOKS = reproduce.notebooks()


def text(book, kind=None):
    return "\n".join("".join(c["source"]) for c in book["cells"] if kind in (None, c["cell_type"]))


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    out = tmp_path_factory.mktemp("students")
    teach.write_students(BOOKS, out, say=lambda line: None)
    return out


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_answers_and_outputs_go_and_the_rest_stays(path, students):
    original = json.loads(path.read_text("utf-8"))
    student = json.loads((students / path.name).read_text("utf-8"))
    answers = text(original).count("<details>")
    assert answers > 0
    assert text(student).count(teach.ANSWER) == answers
    assert text(student).count(teach.PREDICTION) == text(original).count("**Predict, then run.**") > 0
    assert "<details>" not in text(student)
    assert "Answer</summary>" not in text(student)
    assert "SOLUTION" not in text(student)
    assert not [c for c in student["cells"] if c.get("outputs") or c.get("execution_count")]
    assert "tp4" not in student["metadata"]
    # Every code cell is still there; only solutions were emptied.
    pairs = zip(
        *([c for c in b["cells"] if c["cell_type"] == "code"] for b in (original, student)), strict=True
    )
    for before, after in pairs:
        before, after = ("".join(cell["source"]) for cell in (before, after))
        assert (before == after) == ("### BEGIN SOLUTION" not in before)
    assert text(student).count("**Next:**") == text(original).count("**Next:**")
    ids = [cell["id"] for cell in student["cells"]]
    assert len(set(ids)) == len(ids)
    nbformat.validate(nbformat.read(students / path.name, 4))


def test_the_text_between_answers_survives_in_order():
    first = "## Exercises\n1. Why?\n<details><summary>Answer</summary>\nSo.\n</details>\n\n"
    source = first + "2. How?\n<details>\nThus.\n</details>\n\nEnd."
    book = {"metadata": {}, "cells": [{"cell_type": "markdown", "id": "a", "metadata": {}, "source": source}]}
    cells = [cell["source"] for cell in teach.student_version(book)["cells"]]
    assert cells == ["## Exercises\n1. Why?", teach.ANSWER, "2. How?", teach.ANSWER, "End."]
    assert book["cells"][0]["source"] == source  # the original is not touched


def test_a_solution_leaves_the_function_to_fill_in():
    solution = "    ### BEGIN SOLUTION\n    y = 2 * x\n    return y\n    ### END SOLUTION\n"
    source = f'def f(x):\n    """Twice x."""\n{solution}\nprint(1)'
    cell = {
        "cell_type": "code",
        "id": "a",
        "metadata": {},
        "source": source,
        "outputs": [1],
        "execution_count": 3,
    }
    (student,) = teach.student_version({"metadata": {}, "cells": [cell]})["cells"]
    assert student["source"] == f'def f(x):\n    """Twice x."""\n    {teach.CODE}\n\nprint(1)'
    scope = {}
    exec(student["source"], scope)
    with pytest.raises(NotImplementedError):
        scope["f"](1)


def test_the_student_version_of_the_tour_runs(students, tmp_path):
    (outcome,) = reproduce.run([students / BOOKS[0].name], "ci", tmp_path, say=lambda line: None)
    assert outcome.error is None
    executed = json.loads((tmp_path / BOOKS[0].name).read_text("utf-8"))
    said = json.dumps([cell.get("outputs") for cell in executed["cells"]])
    assert "exercise 4: not answered yet" in said
    metrics = json.loads((tmp_path / BOOKS[0].stem / "metrics.json").read_text("utf-8"))["metrics"]
    assert metrics["convergence/slope"]["value"] == pytest.approx(-0.5, abs=0.1)


def tp4(*arguments, cwd):
    command = [sys.executable, "-m", "tp4lib.cli", "teach", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def test_the_command_writes_what_is_named(tmp_path):
    done = tp4("00", "01_abc_parametrizations", "--out", str(tmp_path / "class"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    written = sorted(path.name for path in (tmp_path / "class").iterdir())
    assert written == ["00_start_here.ipynb", "01_abc_parametrizations.ipynb"]
    assert all(name in done.stdout for name in written)
    assert "00_start_here.ipynb: 6 places to write in" in done.stdout  # 2 predictions, 3 answers, 1 function


def test_bad_input_is_one_line_and_code_2(tmp_path):
    for arguments, message in (
        (["77"], "no notebook '77'"),
        ([], "Missing argument"),
        (["00", "--out", str(BOOKS[0].parent)], "holds the notebooks themselves"),
        (["00", "--out", "/proc/nothing"], "cannot write to the output folder"),
    ):
        done = tp4(*arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="choose one with --out"):
        teach.write_students([BOOKS[0]], BOOKS[0].parent)


def test_examples():
    assert doctest.testmod(teach).failed == 0
