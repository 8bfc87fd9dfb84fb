"""No command removes or changes a file that it did not write, and what a command names is there when it ends well.

Every command of `tp4`, by its command line, in folders where a user has files of all kinds. What a command writes is
not listed here: it is what a first run leaves in an empty folder.
"""

import contextlib
import io
import json
import os
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from gensim.models import KeyedVectors

from tests import untouched
from tp4lib.collection import cli
from tp4lib.maml import experiment as maml_command

NOTEBOOK = [
    'preset = "laptop"\nseed = 0\ndevice = "auto"\ndata_dir = None',
    'from tp4lib.collection.report import Report\nreport = Report("97_tiny", preset, seed)\nreport.metric("two", 2)',
    "report.save()",
]
USERS = (
    "thesis.md", ".draft.part", ".notes.md.tp4.part", "mine/plot.csv", "vectors.txt", "checkpoint.npz.bak", ".hidden",
    "97_tiny/notes.md", "97_tiny/mine/plot.csv", "97_tiny/figure.svg", "97_tiny.txt", ".97_tiny.part.ipynb",
    "00_start_here.txt", "00_start_here/notes.md", "runs/ci/index.html", "corpora/x.npy", "metrics.json.old", "a\nb{}",
)  # fmt: skip
"""A user's files in a folder of results: by names that no command writes, some of them close to one."""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The folder of a user, in which we work: a text, questions, a notebook and notes. All defaults lie beside it."""
    home = tmp_path / "home"
    (home / "books").mkdir(parents=True)
    words = ["athens", "greece", "oslo", "norway"] + [f"w{i}" for i in range(20)]
    drawn = np.minimum(np.random.default_rng(0).zipf(1.3, 3000) - 1, 23)
    (home / "text").write_text(" ".join(words[i] for i in [*range(24), *drawn]))
    (home / "questions").write_text(": capitals\nAthens Greece Oslo Norway\n")
    (home / "notes.md").write_text("mine")
    cells = [nbformat.v4.new_code_cell(code) for code in NOTEBOOK]
    cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), home / "books" / "97_tiny.ipynb")
    for name in ("TP4_OUT", "TP4_CACHE", "HOME"):  # IPython and others put files of their own in HOME
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("TP4_DATA", "embedded")
    monkeypatch.chdir(home)
    monkeypatch.setattr(maml_command, "VALIDATION_TASKS", 16)
    monkeypatch.setattr(maml_command, "TEST_TASKS", 16)
    return home


WRITING = {
    "word2vec": "word2vec --corpus text --questions questions --min-count 1 --width 4 --epochs 1 --subsample 0",
    "maml": "maml --limit none --width 4 --meta-steps 3",
    "reproduce": "reproduce books/97_tiny.ipynb",
    "teach": "teach 00",
}
REFUSED = {
    "word2vec": ["--device nowhere", "--width x", "--corpus missing", "--questions text", "--lr nan"],
    "maml": ["--device nowhere", "--width x", "--lr nan", "--data-dir missing"],
    "reproduce": ["--device nowhere", "--preset huge", "--data-dir missing", "missing.ipynb"],
    "teach": ["missing.ipynb"],
}
OTHERS = ("data", "data text8 omniglot", "data nothing", "doctor", "--help", "nothing")


def tp4(line: str, out: Path | None = None) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    told, errors = io.StringIO(), io.StringIO()
    arguments = [*line.split(), *(["--out", str(out)] if out else [])]
    with (
        contextlib.redirect_stdout(told),
        contextlib.redirect_stderr(errors),
        pytest.raises(SystemExit) as end,
    ):
        cli.main(arguments)
    return end.value.code, told.getvalue(), errors.getvalue()


def ends(line: str, out: Path | None, *, changes: list[str], code: int | None = None) -> tuple[int, str]:
    """Run a command; of all that lies around it may change what ``changes`` names and no more. Exit code and stdout."""
    around = [Path.cwd(), *([out] if out else [])]
    before = untouched.seen(around)
    ended, told, errors = tp4(line, out)
    lines = [
        line for line in untouched.differences(before, untouched.seen(around)) if not line.startswith("new: ")
    ]
    allowed = {f"{how}: {out / name}" for name in changes for how in ("changed", "gone")} if out else set()
    assert set(lines) <= allowed, lines
    assert ended in ((0, 2) if code is None else (code,)), errors
    if ended == 2:
        assert re.fullmatch(r"tp4: .+\n", errors), errors
    return ended, told


def mine(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")


def written(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("command", WRITING)
def test_files_of_a_user_stay_where_results_go(home, tmp_path, command):
    out = tmp_path / "out"
    mine(out, *USERS)
    ends(WRITING[command], out, changes=[], code=0)
    assert written(tmp_path / "home") == sorted(["text", "questions", "notes.md", "books/97_tiny.ipynb"]), (
        "everything is written in --out"
    )


@pytest.mark.parametrize("command", WRITING)
def test_what_is_no_result_of_ours_stays_whatever_it_is_called(home, tmp_path, command):
    assert tp4(WRITING[command], tmp_path / "first")[0] == 0
    names = [
        name for name in written(tmp_path / "first") if ".tp4" not in name
    ]  # but for our record of what is ours
    assert names
    for number, name in enumerate(names):
        out = tmp_path / f"out-{number}"
        mine(out, name)
        ended, _ = ends(WRITING[command], out, changes=[])
        assert ended == 0 or written(out) == [name], "refused, it writes nothing"


@pytest.mark.parametrize("command", WRITING)
def test_a_second_run_replaces_the_first_or_nothing(home, tmp_path, command):
    out = tmp_path / "out"
    assert tp4(WRITING[command], out)[0] == 0
    ours = written(out)
    mine(out, *USERS)
    ended, _ = ends(WRITING[command], out, changes=ours)
    if ended == 2:
        ends(WRITING[command], out, changes=[], code=2)


@pytest.mark.parametrize("command", WRITING)
def test_what_a_user_has_changed_since_stays(home, tmp_path, command):
    out = tmp_path / "out"
    assert tp4(WRITING[command], out)[0] == 0
    ours = written(out)
    edited = [name for name in ours if re.fullmatch(r"[^.].*\.(json|ipynb|html)", name)]
    for name in edited:
        text = (out / name).read_text("utf-8")
        (out / name).write_text(
            text.replace("{", '{"mine": 1, ', 1) if name[-4:] != "html" else text + "mine"
        )
    ends(WRITING[command], out, changes=sorted(set(ours) - set(edited)))


@pytest.mark.parametrize(
    ("command", "name"), [("word2vec", "metrics.json"), ("word2vec", "vectors.bin"), ("maml", "metrics.json")]
)
def test_one_changed_file_of_a_run_keeps_the_run(home, tmp_path, command, name):
    """Also one that was changed while the next run went on: its results wait until the file is out of the way."""
    out = tmp_path / "out"
    for change in (b"mine", b"\n"):  # another value; the same values, written otherwise
        assert tp4(WRITING[command], out)[0] == 0
        (out / name).write_bytes((out / name).read_bytes() + change)
        kept = untouched.seen([out])
        code, told, errors = tp4(WRITING[command], out)
        assert (code, told) == (2, "")
        assert re.search(rf"{name} (was changed since|is not of a finished run)", errors), errors
        assert untouched.seen([out]) == kept
        for path in out.iterdir():
            path.unlink()


@pytest.mark.parametrize("command", WRITING)
def test_a_refused_command_changes_nothing(home, tmp_path, command):
    out = tmp_path / "out"
    mine(out, *USERS)
    for wrong in REFUSED[command]:
        ends(f"{WRITING[command]} {wrong}", out, changes=[], code=2)
        assert written(out) == sorted(USERS), "nor does it add anything"


@pytest.mark.parametrize(
    ("command", "source"), [("word2vec", "text"), ("reproduce", "books"), ("teach", "books")]
)
def test_the_folder_of_the_sources_is_no_place_to_lose_them(home, tmp_path, command, source):
    """--out names the folder that is read from, and a source has the name of a result."""
    folder = home / source if (home / source).is_dir() else home
    line = WRITING[command].replace("teach 00", "teach books/97_tiny.ipynb")
    if command == "word2vec":
        (home / "text").rename(home / "vectors.bin")
        line = line.replace("text", "vectors.bin")
    ends(line, folder, changes=[])


@pytest.mark.parametrize("line", OTHERS)
def test_commands_that_only_look_write_nothing(home, tmp_path, line):
    before = untouched.seen([tmp_path])
    ends(line, None, changes=[])
    cache = Path(os.environ["TP4_CACHE"])
    lines = untouched.differences(before, untouched.seen([tmp_path]))
    assert [each for each in lines if str(cache) not in each] == []


@pytest.mark.parametrize("command", WRITING)
def test_what_a_command_names_is_there(home, tmp_path, command):
    out = tmp_path / "out"
    _, told = ends(WRITING[command], out, changes=[], code=0)
    named = [Path(path.rstrip(".,;:)'")) for path in re.findall(rf"{re.escape(str(out))}\S+", told)]
    assert named, told
    for path in named:
        assert path.stat().st_size > 0, path
    files = [out / name for name in written(out)]
    for path in files:
        if path.suffix in (".json", ".ipynb"):
            json.loads(path.read_text("utf-8"), parse_constant=pytest.fail)  # of NaN and infinity
    if command == "word2vec":
        assert len(KeyedVectors.load_word2vec_format(str(out / "vectors.bin"), binary=True)) == 24
    if command == "reproduce":
        reports = json.loads((out / "metrics.json").read_text("utf-8"))["notebooks"]
        assert reports["97_tiny"]["metrics"]["two"]["value"] == 2
        assert "97_tiny" in (out / "index.html").read_text("utf-8")
