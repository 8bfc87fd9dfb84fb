"""The runner: figures and numbers are gathered, failures are named, nothing of an earlier run passes for this one's."""

import json
import os
import subprocess
from pathlib import Path

import nbformat
import pytest

from tests import browsing
from tp4lib.base import paths
from tp4lib.base.errors import InputError
from tp4lib.collection import cli, plan, reproduce
from tp4lib.collection.commands import reproduce as reproduce_command
from tp4lib.collection.notebook_source import read_notebook, source_digest

GOOD = """
import matplotlib.pyplot as plt
from tp4lib.collection.report import Report
report = Report("01_good", preset, seed)
fig, ax = plt.subplots()
ax.plot([1, 2], [1, 4])
report.metric("square/of two", 4, published=4.5, unit="%", note="a < b")
report.show(fig, "square", caption="A square & its root, $h^2$ like $n^{1/2}$", alt="A line that rises")
"""

REPORTS = """
from tp4lib.collection.report import Report
report = Report("any_name", preset, seed)
report.metric("x", 1)
report.save()
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
        notebook(folder / "04_after.ipynb", "assert preset == 'ci' and seed == 7", REPORTS),
    ]
    lines = []
    outcomes = reproduce.run(books, reproduce.Plan("ci", folder / "out", seed=7), say=lines.append)
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
    (outcome,) = reproduce.run(
        [book], reproduce.Plan("ci", tmp_path / "out", timeout=6), say=lambda line: None
    )
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
    assert set(merged["notebooks"]) == {"01_good", "04_after"}


def test_index_page_reads_well(outcome, browser):
    pages, wrong = browsing.inspect(browser, outcome[0] / "out")
    assert pages == ["index.html"]
    assert not wrong, "\n".join(wrong)


def test_checkpoints_survive_a_failure_and_go_after_success(tmp_path):
    count = """
from pathlib import Path
from tp4lib.collection.report import Report
report = Report("01_counts", preset, seed)
folder = report.folder / "checkpoints"
folder.mkdir(exist_ok=True)
(folder / f"run{len(list(folder.iterdir()))}").touch()
report.metric("runs", len(list(folder.iterdir())))
"""
    book = notebook(tmp_path / "01_counts.ipynb", count, "1 / 0")
    reproduce.run([book], reproduce.Plan("ci", tmp_path / "out"), say=lambda line: None)
    notebook(book, count, "report.save()")
    reproduce.run([book], reproduce.Plan("ci", tmp_path / "out"), say=lambda line: None)
    report = json.loads((tmp_path / "out" / "01_counts" / "metrics.json").read_text())
    assert report["metrics"]["runs"]["value"] == 2
    assert not (tmp_path / "out" / "01_counts" / "checkpoints").exists()


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """One run of notebooks that end early, report something else than asked for, or are badly stored; the folder of its
    results has a name that papermill would format, with letters that are no UTF-8, and is relative."""
    folder = tmp_path_factory.mktemp("odd")
    out = Path("o {x} \udcff ü")
    books = {
        name: notebook(folder / f"{name}.ipynb", *cells)
        for name, cells in {
            "01_exit": ("import sys\nsys.exit(0)", REPORTS),
            "02_nosave": (REPORTS.replace("report.save()", ""),),
            "03_quit": ("quit()", REPORTS),
            "04_magic": ("%nosuchmagic", REPORTS),
            "05_no_number": (REPORTS.replace('report.metric("x", 1)', ""),),
            "06_lost_tag": (REPORTS,),
            "07_own_seed": (REPORTS.replace("seed)", "3)"),),
            "08_mark": (REPORTS,),
            "09_merge": (REPORTS,),
            "10_empty": (REPORTS,),
            "11_format3": (REPORTS,),
            "colab {copy} of 08": (REPORTS.replace("any_name", "08_mark").replace('"x", 1', '"x", 5'),),
        }.items()
    }
    tag = books["06_lost_tag"].read_text().replace('"parameters"', '"paramters"')
    books["06_lost_tag"].write_text(tag)
    books["08_mark"].write_bytes(b"\xef\xbb\xbf" + books["08_mark"].read_bytes())
    books["09_merge"].write_text(f"<<<<<<< HEAD\n{books['09_merge'].read_text()}>>>>>>> x\n")
    books["10_empty"].write_text("")
    books["11_format3"].write_text('{"worksheets": [], "nbformat": 3, "nbformat_minor": 0, "metadata": {}}')
    colab = json.loads(books["colab {copy} of 08"].read_text()) | {"nbformat_minor": 0}
    for cell in colab["cells"]:
        del cell["id"]
    books["colab {copy} of 08"].write_text(json.dumps(colab))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TP4_COMMAND", "tp4 reproduce --out 'o {x} \udcff'")
        outcomes = reproduce.run(
            list(books.values()), reproduce.Plan("ci", out, seed=7, workers=2), say=lambda line: None
        )
    return folder / out, {outcome.notebook: outcome.error for outcome in outcomes}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("01_exit", ["sys.exit(0)", "the notebook ended itself in this cell"]),
        ("02_nosave", ["reported nothing; expected report.save() in its last cell"]),
        ("03_quit", ["quit()", "the notebook ended its own kernel in this cell"]),
        ("04_magic", ["%nosuchmagic", "Line magic function `%nosuchmagic` not found"]),
        ("05_no_number", ["reported no number; expected at least one"]),
        (
            "06_lost_tag",
            ["preset is 'laptop', asked was 'ci' and seed is 0, asked was 7", 'with "parameters"'],
        ),
        ("07_own_seed", ["the notebook's seed is 3, asked was 7"]),
        ("09_merge", ["09_merge.ipynb holds the marks of a merge conflict (line 1)"]),
        ("10_empty", ["10_empty.ipynb is empty; expected a notebook"]),
        ("11_format3", ["has notebook format 3; expected format 4"]),
    ],
)
def test_nothing_is_ok_that_has_not_done_what_it_was_asked_for(odd, name, words):
    out, errors = odd
    for part in words:
        assert part in errors[name]
    assert "memory ran out" not in errors[name]
    if name[:2] in ("09", "10", "11"):
        assert len(errors[name].splitlines()) == 1
    merged = json.loads((out / "metrics.json").read_text())
    assert merged["runs"][name]["ok"] is False
    assert name not in merged["notebooks"]
    assert not (out / name).exists()


def test_notebooks_of_other_programs_run_under_their_own_names(odd):
    """A byte order mark; a copy that Colab has saved, whose Report still has the name of the original."""
    out, errors = odd
    assert (errors["08_mark"], errors["colab {copy} of 08"]) == (None, None)
    merged = json.loads((out / "metrics.json").read_text())
    told = {name: (report["notebook"], report["metrics"]["x"]["value"], report["seed"])
            for name, report in merged["notebooks"].items()}  # fmt: skip
    assert told == {"08_mark": ("08_mark", 1, 7), "colab {copy} of 08": ("colab {copy} of 08", 5, 7)}
    assert merged["environment"]["command"].endswith("o {x} \udcff'")
    assert (out / "colab {copy} of 08.ipynb").is_file()
    assert "ended itself in this cell" in (out / "index.html").read_text()


def test_reading_completes_cells_and_keeps_the_rest(tmp_path):
    cell = {"cell_type": "markdown", "source": ["a\n", "b"]}
    code = {"cell_type": "code", "source": "1", "id": "cell-0", "metadata": {"x": 1}}
    book = {"cells": [cell, code, code], "metadata": {"y": 2}, "nbformat": 4, "nbformat_minor": 1}
    (tmp_path / "a.ipynb").write_text(json.dumps(book))
    read = read_notebook(tmp_path / "a.ipynb")
    assert [each["id"] for each in read["cells"]] == ["cell-0-", "cell-0", "cell-2"]
    assert (read["cells"][1]["metadata"], read["metadata"]) == ({"x": 1}, {"y": 2})
    assert read["cells"][0]["source"] == ["a\n", "b"]
    nbformat.validate(nbformat.from_dict(read))
    for content, words in (
        ("[]", "is not a notebook"),
        ("{}", "is not a notebook"),
        ('{"nbformat": 4}', "has no list of cells"),
        ('{"nbformat": 4, "cells": [1]}', "cell 1 is not a cell"),
        ('{"nbformat": 4, "cells": [{"cell_type": "code"}]}', "cell 1 is not a cell"),
        ('{"nbformat": "x\\ny", "cells": []}', "expected format 4"),
        ("[" * 100_000, "nested too deeply"),
        ("{", "is not JSON"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b" ", "is empty"),
    ):
        (tmp_path / "b.ipynb").write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(InputError, match=words):
            read_notebook(tmp_path / "b.ipynb")
    os.mkfifo(tmp_path / "fifo.ipynb")
    for name, words in (
        ("fifo.ipynb", "is not a regular file"),
        ("", "is not a regular file"),
        ("none.ipynb", "No such file"),
        ("x" * 300, "File name too long"),
        ("a\0", "cannot be read"),
    ):
        with pytest.raises(InputError, match=words):
            read_notebook(tmp_path / name)


def test_in_place_stores_clean_outputs_with_their_source(tmp_path):
    book = notebook(
        tmp_path / "01_good.ipynb", GOOD, "import sys\nprint('noise', file=sys.stderr)\nreport.save()\n1 + 1"
    )
    before = source_digest(json.loads(book.read_text()))
    reproduce.run([book], reproduce.Plan("laptop", tmp_path / "out", in_place=True), say=lambda line: None)
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


def told(capsys, arguments):
    """The one line of a command that is refused."""
    with pytest.raises(SystemExit) as end:
        cli.main([str(argument) for argument in arguments])
    assert end.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1, printed.err
    return printed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reproduce", "99"], "no notebook '99'"),
        (["reproduce", "1.5"], "no notebook '1.5'"),
        (["reproduce", "/no/such/folder/01_good.ipynb"], "no notebook at /no/such/folder/01_good.ipynb"),
        (["reproduce", "01_good.ipynb"], "no notebook at 01_good.ipynb"),
        (
            ["reproduce", "./folder"],
            "no notebook at ./folder; expected a file that is there and ends in .ipynb",
        ),
        (["reproduce", "a/01_x.ipynb", "b/01_x.ipynb"], "a/01_x.ipynb and b/01_x.ipynb have one name"),
        (["reproduce", "--preset", "huge"], "unknown preset 'huge'"),
        (["reproduce", "--data-dir", "absent"], "no data folder absent"),
        (["reproduce", "--data-dir", "folder"], "no data set in folder; expected files of text8, fil9"),
        (["reproduce", "--data-dir", "fifo"], "no data folder fifo: it is a pipe; expected a folder"),
        (["reproduce", "--out", "/proc/nothing"], "cannot write to the output folder"),
        (["reproduce", "--out", "fifo"], "cannot write to the output folder fifo: File exists"),
        (["reproduce", "--timeout", "inf"], "--timeout = inf; expected a finite number > 0"),
        (["reproduce", "--timeout", "nan"], "--timeout = nan; expected a finite number > 0"),
        (["reproduce", "--timeout", "-1"], "--timeout = -1.0; expected a finite number > 0"),
        (["reproduce", "--timeout", "0"], "--timeout = 0.0; expected a finite number > 0"),
        (
            ["reproduce", "--seed=-1"],
            "--seed = -1; expected a whole number from 0 to 4294967295; try --seed=0",
        ),
        (["reproduce", "--seed", 2**32], "--seed = 4294967296; expected a whole number from 0"),
        (["reproduce", "--threads", "0"], "Invalid value for '--threads'"),
        (["reproduce", "--no-such-option"], "No such option"),
        (["nothing"], "No such command"),
        (["data", "nosuch"], "unknown data set"),
    ],
)
def test_bad_input_is_one_line_and_code_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduce.paths, "cache_dir", lambda: tmp_path / "folder")
    for name in ("folder", "a", "b"):
        (tmp_path / name).mkdir()
    os.mkfifo("fifo")
    for name in ("a", "b"):
        notebook(tmp_path / name / "01_x.ipynb")
    before = sorted(tmp_path.rglob("*"))
    assert message in told(capsys, arguments)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_data_folder_of_the_environment_is_checked_too(tmp_path, monkeypatch, capsys):
    """At preset ci embedded data are read whatever it says."""
    monkeypatch.setenv("TP4_DATA", str(tmp_path / "empty"))
    monkeypatch.setenv("TP4_CACHE", str(tmp_path / "cache"))
    out = ["--out", tmp_path / "out"]
    assert "choose another TP4_DATA" in told(capsys, ["reproduce", "--preset", "laptop", *out])
    (tmp_path / "empty").mkdir()
    assert "no data set in" in told(capsys, ["reproduce", "--preset", "laptop", *out])
    plan.Plan("ci", tmp_path / "out").check()
    (tmp_path / "empty" / "text8").write_text("words")
    plan.Plan("laptop", tmp_path / "out").check()


def test_threads_of_the_environment_may_be_a_list(monkeypatch):
    for told, meant in (
        ("4,2", 4),
        ("3", 3),
        ("", 1),
        ("many", 1),
        ("-2", 1),
        ("0", 1),
        ("\u00b2", 1),
        ("9" * 30, 1),
    ):
        monkeypatch.setenv("OMP_NUM_THREADS", told)
        assert reproduce_command._threads() == meant
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert reproduce_command._threads() == 1


def test_results_go_where_they_can(monkeypatch, tmp_path):
    root = tmp_path / "checkout"
    root.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "checkout", lambda: root)
    monkeypatch.setenv("TP4_OUT", "here")
    assert paths.runs_dir("ci") == tmp_path / "here"
    monkeypatch.delenv("TP4_OUT")
    assert paths.runs_dir("ci") == root / "runs" / "ci"
    allowed = os.access  # root may write everywhere
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != root and allowed(path, mode))
    assert paths.runs_dir("ci") == tmp_path / "runs" / "ci"
    monkeypatch.setattr(paths, "checkout", lambda: None)
    assert paths.runs_dir("ci") == tmp_path / "runs" / "ci"


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
    (tmp_path / "05_word2vec_pca.ipynb").write_text("{}")
    monkeypatch.chdir(tmp_path)
    for named in (
        "05_word2vec_pca.ipynb",
        "./05_word2vec_pca.ipynb",
        str(tmp_path / "05_word2vec_pca.ipynb"),
    ):
        (chosen,) = reproduce.notebooks([named, "./05_word2vec_pca.ipynb"])
        assert chosen.resolve() == tmp_path / "05_word2vec_pca.ipynb"
    own, copy = reproduce.notebooks(["05", "05_word2vec_pca.ipynb"])
    assert reproduce.result_name(own) == "05_word2vec_pca"
    assert reproduce.result_name(copy) == f"05_word2vec_pca@{tmp_path.name}"


def test_a_file_under_a_name_of_the_collection_keeps_results_of_its_own(monkeypatch, tmp_path):
    """A student's submission, run into the folder of the collection's results, leaves these as they are."""
    for place, value in (("notebooks", 1), ("alice", 2), ("bob", 3)):
        (tmp_path / place).mkdir()
        notebook(tmp_path / place / "00_start.ipynb", REPORTS.replace('"x", 1', f'"x", {value}'))
    monkeypatch.setattr(reproduce.paths, "shared", lambda name: tmp_path / name)
    monkeypatch.chdir(tmp_path)
    first, second = ["00"], ["alice/00_start.ipynb", "bob/00_start.ipynb"]
    for names in (first, second):
        outcomes = reproduce.run(reproduce.notebooks(names), reproduce.Plan("ci", Path("out")), say=str)
        assert [outcome.error for outcome in outcomes] == [None] * len(names)
    merged = json.loads(Path("out/metrics.json").read_text())
    told = {name: each["metrics"]["x"]["value"] for name, each in merged["notebooks"].items()}
    assert told == {"00_start": 1, "00_start@alice": 2, "00_start@bob": 3}
    assert Path("out/00_start@alice.ipynb").is_file()
