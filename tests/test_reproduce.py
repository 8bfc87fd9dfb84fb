"""The runner: figures and numbers are gathered, failures are named, nothing of an earlier run passes for this one's."""

import json
import subprocess
import sys

import browsing
import nbformat
import pytest

from tp4lib import reproduce
from tp4lib.errors import InputError
from tp4lib.notebook_source import source_digest

GOOD = """
import matplotlib.pyplot as plt
from tp4lib.report import Report
report = Report("01_good", preset, seed)
fig, ax = plt.subplots()
ax.plot([1, 2], [1, 4])
report.metric("square/of two", 4, published=4.5, unit="%", note="a < b")
report.show(fig, "square", caption="A square & its root, $h^2$ like $n^{1/2}$", alt="A line that rises")
"""


def notebook(path, *cells):
    parameters = nbformat.v4.new_code_cell(
        'preset = "laptop"\nseed = 0\ndevice = "auto"\ndata_dir = None', metadata={"tags": ["parameters"]}
    )
    book = nbformat.v4.new_notebook(cells=[parameters, *map(nbformat.v4.new_code_cell, cells)])
    nbformat.write(book, path)
    return path


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """One run of a notebook that works, one that fails, one whose kernel dies."""
    folder = tmp_path_factory.mktemp("books")
    books = [
        notebook(folder / "01_good.ipynb", GOOD, "report.save()"),
        notebook(folder / "02_fails.ipynb", "x = 1", "y = x / 0"),
        notebook(folder / "03_dies.ipynb", "import os\nos._exit(9)"),
        notebook(folder / "04_after.ipynb", "assert preset == 'ci' and seed == 7"),
    ]
    lines = []
    outcomes = reproduce.run(books, "ci", folder / "out", seed=7, say=lines.append)
    return folder, {o.notebook: o for o in outcomes}, "\n".join(lines)


def test_a_good_notebook_leaves_everything(outcome):
    folder, outcomes, _ = outcome
    assert outcomes["01_good"].error is None
    report = json.loads((folder / "out" / "01_good" / "metrics.json").read_text())
    assert report["metrics"]["square/of two"] == {
        "value": 4.0,
        "published": 4.5,
        "unit": "%",
        "note": "a < b",
    }
    assert (report["preset"], report["seed"]) == ("ci", 7)
    assert {"torch", "numpy"} <= set(report["environment"]["versions"])
    assert (folder / "out" / "01_good" / "square.svg").read_text().startswith("<?xml")
    assert (folder / "out" / "01_good" / "square.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "out" / "01_good.ipynb").is_file()


def test_failures_are_named_and_the_others_still_run(outcome):
    _, outcomes, lines = outcome
    assert "y = x / 0" in outcomes["02_fails"].error
    assert "ZeroDivisionError" in outcomes["02_fails"].error
    assert "os._exit(9)" in outcomes["03_dies"].error
    assert "the kernel died" in outcomes["03_dies"].error
    assert outcomes["04_after"].error is None
    assert "[2/4] 02_fails  FAILED" in lines
    assert "[4/4] 04_after  ok" in lines


def test_a_notebook_without_end_is_ended_with_its_kernel(tmp_path):
    book = notebook(tmp_path / "03_endless.ipynb", f"import time\n{tmp_path.name!r}\ntime.sleep(600)")
    (outcome,) = reproduce.run([book], "ci", tmp_path / "out", timeout=6, say=lambda line: None)
    assert "ran longer than 0:06" in outcome.error
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(tmp_path) not in running


def test_index_page_shows_figures_numbers_and_failures(outcome):
    folder, _, _ = outcome
    page = (folder / "out" / "index.html").read_text()
    assert '<img src="01_good/square.svg" alt="A line that rises"' in page
    assert "A square &amp; its root, <math" in page
    assert "$" not in page
    assert "4&nbsp;%" in page
    assert "4.5&nbsp;%" in page
    assert "a &lt; b" in page
    assert "ZeroDivisionError" in page
    merged = json.loads((folder / "out" / "metrics.json").read_text())
    assert merged["runs"]["02_fails"]["ok"] is False
    assert set(merged["notebooks"]) == {"01_good"}


def test_index_page_reads_well(outcome, browser):
    pages, wrong = browsing.inspect(browser, outcome[0] / "out")
    assert pages == ["index.html"]
    assert not wrong, "\n".join(wrong)


def test_results_of_an_earlier_run_do_not_survive_a_failure(tmp_path):
    book = notebook(tmp_path / "01_good.ipynb", GOOD, "report.save()")
    reproduce.run([book], "ci", tmp_path / "out", say=lambda line: None)
    assert (tmp_path / "out" / "01_good" / "metrics.json").is_file()
    notebook(book, "1 / 0")
    reproduce.run([book], "ci", tmp_path / "out", say=lambda line: None)
    assert not (tmp_path / "out" / "01_good" / "metrics.json").exists()


def test_checkpoints_survive_a_failure_and_go_after_success(tmp_path):
    count = """
from pathlib import Path
from tp4lib.report import Report
report = Report("01_counts", preset, seed)
folder = report.folder / "checkpoints"
folder.mkdir(exist_ok=True)
(folder / f"run{len(list(folder.iterdir()))}").touch()
report.metric("runs", len(list(folder.iterdir())))
"""
    book = notebook(tmp_path / "01_counts.ipynb", count, "1 / 0")
    reproduce.run([book], "ci", tmp_path / "out", say=lambda line: None)
    notebook(book, count, "report.save()")
    reproduce.run([book], "ci", tmp_path / "out", say=lambda line: None)
    report = json.loads((tmp_path / "out" / "01_counts" / "metrics.json").read_text())
    assert report["metrics"]["runs"]["value"] == 2
    assert not (tmp_path / "out" / "01_counts" / "checkpoints").exists()


def test_in_place_stores_clean_outputs_with_their_source(tmp_path):
    book = notebook(
        tmp_path / "01_good.ipynb", GOOD, "import sys\nprint('noise', file=sys.stderr)\nreport.save()\n1 + 1"
    )
    before = source_digest(json.loads(book.read_text()))
    reproduce.run([book], "laptop", tmp_path / "out", in_place=True, say=lambda line: None)
    stored = json.loads(book.read_text())
    assert stored["metadata"]["tp4"] == {"preset": "laptop", "source": before}
    assert source_digest(stored) == before
    assert str(tmp_path) not in book.read_text()
    assert "noise" not in json.dumps([cell.get("outputs") for cell in stored["cells"]])
    assert stored["cells"][-1]["outputs"][0]["data"]["text/plain"] in ("2", ["2"])
    nbformat.validate(nbformat.read(book, 4))


def test_digest_sees_code_and_nothing_else():
    def book(source, **more):
        return {"cells": [{"cell_type": "code", "source": source, "metadata": {}, "outputs": []} | more]}

    prose = {"cell_type": "markdown", "source": "words", "metadata": {}}
    same = book("a\nb", outputs=[1], execution_count=3)
    same["cells"].append(prose)
    assert source_digest(book(["a\n", "b"])) == source_digest(same)
    assert source_digest(book("a\nb")) != source_digest(book("a\nc"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reproduce", "99"], "no notebook '99'"),
        (["reproduce", "--preset", "huge"], "unknown preset 'huge'"),
        (["reproduce", "--data-dir", "absent"], "no data folder absent"),
        (["reproduce", "--out", "/proc/nothing"], "cannot write to the output folder"),
        (["reproduce", "--no-such-option"], "No such option"),
        (["nothing"], "No such command"),
        (["data", "nosuch"], "unknown data set"),
    ],
)
def test_bad_input_is_one_line_and_code_2(arguments, message, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tp4lib.cli", *arguments], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_names_select_notebooks(monkeypatch, tmp_path):
    (tmp_path / "notebooks").mkdir()
    for name in ("00_start_here", "04_word2vec_limit", "05_word2vec_pca"):
        (tmp_path / "notebooks" / f"{name}.ipynb").write_text("{}")
    monkeypatch.setattr(reproduce.paths, "shared", lambda name: tmp_path / name)
    assert [path.stem for path in reproduce.notebooks(["5", "04_word2vec_limit"])] == [
        "05_word2vec_pca",
        "04_word2vec_limit",
    ]
    assert len(reproduce.notebooks()) == 3
    with pytest.raises(InputError, match="no notebook 'x'"):
        reproduce.notebooks(["x"])
