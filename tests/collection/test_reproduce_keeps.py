"""Nothing is lost: earlier results stay until new ones are whole, and files of others are never touched.

What a notebook would leave is written by a stand-in, so that many runs, cut off anywhere, take seconds.
"""

import json
import os
import random
import shutil
import signal
import sys
import threading
from pathlib import Path

import nbformat
import pytest

from tests import browsing
from tp4lib.base import files
from tp4lib.base.errors import InputError
from tp4lib.collection import reproduce
from tp4lib.collection.execution import Executor, Outcome
from tp4lib.collection.manifest import Manifest
from tp4lib.collection.report import Report
from tp4lib.collection.staging import Stage

HEAVY = os.environ.get("TP4_HEAVY") == "1"
"""Kill at every single operation on files in place of some (``TP4_HEAVY=1``)."""


def book(path, code="pass"):
    """A notebook whose code says what the stand-in does: the figures that it draws, and whether it fails."""
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]), path)
    return path


def svg(value):
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><title>{value}</title></svg>'


def stand_in(self, stage, parameters):
    """In place of `Executor.execute`: a notebook's code is the value that it reports and the names of its figures."""
    if self._stopped:
        raise KeyboardInterrupt
    code = json.loads(stage.source.read_text())["cells"][0]["source"]
    value, *figures = "".join(code).split()
    shutil.copy(stage.source, stage.executed)
    for name in figures:
        (stage.report / f"{name}.svg").write_text(svg(value))
        (stage.report / f"{name}.png").write_text(f"png {value}")
    if value == "interrupt":
        self.stop()
        raise KeyboardInterrupt
    if value == "fail":
        (stage.report / "checkpoints").mkdir(exist_ok=True)
        (stage.report / "checkpoints" / "c.npz").write_text("half an hour of work")
        return Outcome(stage.name, 0.5, "  cell [3]:\n    1 / 0\n  ZeroDivisionError", 7)
    report = {
        "notebook": stage.name, "preset": parameters["preset"], "seed": parameters["seed"], "data": [],
        "metrics": {"x": {"value": float(value)}}, "environment": {"versions": {"tp4lib": "1"}, "commit": "a" * 40},
        "figures": [{"name": name, "caption": f"caption of {name}", "alt": f"what {name} shows"} for name in figures],
    }  # fmt: skip
    files.write_json(stage.report / "metrics.json", report)
    return Outcome(stage.name, 0.5, None, 7)


@pytest.fixture(autouse=True)
def no_kernels(monkeypatch):
    monkeypatch.setattr(Executor, "execute", stand_in)
    # The digest of the library and git's commit, once and for all.
    library, record = reproduce._library(), reproduce.provenance.record(seed=0)
    monkeypatch.setattr(reproduce, "_library", lambda: library)
    monkeypatch.setattr(reproduce.provenance, "record", lambda **told: record | {"preset": None} | told)


def run(*books, out, preset="ci", **more):
    return reproduce.run(books, reproduce.Plan(preset, out, **more), say=lambda line: None)


def snapshot(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def value(out, name="01_a"):
    return json.loads((out / "metrics.json").read_text())["notebooks"][name]["metrics"]["x"]["value"]


def results(out, name="01_a"):
    return {
        key: content
        for key, content in snapshot(out).items()
        if key.startswith(f"{name}/") or key == f"{name}.ipynb"
    }


# ---- Earlier results


def test_a_failing_run_leaves_the_old_results_and_the_page_says_that_they_are_older(tmp_path):
    a, out = tmp_path / "01_a.ipynb", tmp_path / "out"
    run(book(a, "1 one"), out=out)
    before = results(out)
    (outcome,) = run(book(a, "fail two"), out=out)
    assert "ZeroDivisionError" in outcome.error
    assert results(out) == before
    merged, page = json.loads((out / "metrics.json").read_text()), (out / "index.html").read_text()
    assert value(out) == 1
    assert merged["runs"]["01_a"]["ok"] is False
    assert merged["runs"]["01_a"]["results_of"]["ok"] is True
    for words in ("ZeroDivisionError", "The results below are older than this failed run", "caption of one"):
        assert words in page
    assert "caption of two" not in page
    # The checkpoints of the failed run are there for the next, and go once it is through.
    assert (out / ".01_a.new" / "01_a" / "checkpoints" / "c.npz").is_file()
    run(book(a, "3 three"), out=out)
    assert value(out) == 3
    assert sorted(results(out)) == [
        "01_a.ipynb", "01_a/.tp4-written.json", "01_a/metrics.json", "01_a/run.json",
        "01_a/three.png", "01_a/three.svg",
    ]  # fmt: skip
    assert not (out / ".01_a.new").exists()
    assert 'class="older"' not in (out / "index.html").read_text()


def test_the_page_with_older_failed_unfinished_and_mixed_results_reads_well(tmp_path, browser):
    names, out = ("01_a", "02_b", "my copy {x} & y"), tmp_path / "out"
    a, b, c = (book(tmp_path / f"{name}.ipynb", f"{k} figure{k}") for k, name in enumerate(names))
    run(a, b, c, out=out)
    run(book(a, "fail"), out=out, seed=1)
    run(c, out=out, seed=1, preset="laptop")
    with pytest.raises(KeyboardInterrupt):
        run(book(b, "interrupt"), out=out)
    page = (out / "index.html").read_text()
    assert page.count('class="older"') == 3  # the mixture, the failure, what has not ended
    pages, wrong = browsing.inspect(browser, out)
    assert pages == ["index.html"]
    assert not wrong, "\n".join(wrong)


def test_a_run_of_one_notebook_keeps_the_others(tmp_path):
    a, b, out = (
        book(tmp_path / "01_a.ipynb", "1 one"),
        book(tmp_path / "02_b.ipynb", "2 two"),
        tmp_path / "out",
    )
    run(a, b, out=out)
    run(book(a, "5 five"), out=out)
    assert (value(out), value(out, "02_b")) == (5, 2)
    page = (out / "index.html").read_text()
    assert "caption of five" in page
    assert "caption of two" in page
    assert "caption of one" not in page


def test_an_interrupted_run_is_told_and_what_it_did_not_begin_is_not(tmp_path):
    a, b, out = (
        book(tmp_path / "01_a.ipynb", "1 one"),
        book(tmp_path / "02_b.ipynb", "2 two"),
        tmp_path / "out",
    )
    run(a, b, out=out)
    before = results(out) | results(out, "02_b")
    with pytest.raises(KeyboardInterrupt):
        run(book(a, "interrupt"), b, out=out)
    assert results(out) | results(out, "02_b") == before
    merged = json.loads((out / "metrics.json").read_text())
    assert list(merged["unfinished"]) == ["01_a"]
    assert merged["runs"]["01_a"]["ok"] is True
    assert (value(out), value(out, "02_b")) == (1, 2)
    assert (out / "index.html").read_text().count("The results below are older than that run") == 1
    run(book(a, "4 four"), out=out)
    assert json.loads((out / "metrics.json").read_text())["unfinished"] == {}


def test_an_older_failure_is_still_told_after_a_run_that_did_not_come_to_its_notebook(tmp_path):
    a, b, out = book(tmp_path / "01_a.ipynb", "1"), book(tmp_path / "02_b.ipynb", "fail"), tmp_path / "out"
    run(a, b, out=out)
    with pytest.raises(KeyboardInterrupt):
        run(book(a, "interrupt"), b, out=out)
    merged = json.loads((out / "metrics.json").read_text())
    assert "ZeroDivisionError" in merged["runs"]["02_b"]["error"]


def test_mixed_runs_say_so(tmp_path):
    a, b, out = (
        book(tmp_path / "01_a.ipynb", "1 one"),
        book(tmp_path / "02_b.ipynb", "2 two"),
        tmp_path / "out",
    )
    run(a, b, out=out, seed=4)
    merged = json.loads((out / "metrics.json").read_text())
    assert (merged["mixed"], merged["seed"], merged["preset"]) == ({}, 4, "ci")
    assert "several runs" not in (out / "index.html").read_text()
    run(a, out=out, seed=5, preset="laptop")
    merged = json.loads((out / "metrics.json").read_text())
    assert merged["mixed"] == {"preset": ["ci", "laptop"], "seed": [4, 5]}
    assert (merged["seed"], merged["preset"]) == (None, None)
    page = (out / "index.html").read_text()
    assert "results of several runs, which differ (preset: ci, laptop; seed: 4, 5)" in page
    for told in (
        "preset ci &middot; seed 4",
        "preset laptop &middot; seed 5",
        "commit aaaaaaaaa",
        "tp4lib 1",
    ):
        assert told in page


def test_resume_keeps_what_is_whole_and_the_same_and_nothing_else(tmp_path):
    a, out = book(tmp_path / "01_a.ipynb", "1 one"), tmp_path / "out"
    lines = []

    def resumed(**more):
        lines.clear()
        reproduce.run([a], reproduce.Plan("ci", out, resume=True, **more), say=lines.append)
        return lines[-1].endswith("kept from the run before")

    run(a, out=out)
    assert resumed()
    assert not resumed(seed=1)
    assert resumed(seed=1)
    (out / "01_a" / "one.svg").unlink()
    assert not resumed(seed=1)
    book(a, "fail")
    assert not resumed(seed=1)
    book(a, "1 one")
    assert resumed(seed=1)


def test_resume_sees_another_library_and_other_data_behind_one_name(tmp_path, monkeypatch):
    a, out = book(tmp_path / "01_a.ipynb", "1 one"), tmp_path / "out"
    run(a, out=out)
    stage = Stage(out, "01_a")
    identity = stage.whole()
    given = {key: identity[key] for key in ("seed", "preset", "data", "library", "packages", "source")}
    assert reproduce._finished(stage, given) is not None
    for key, other in (("library", "b" * 64), ("packages", "c" * 64), ("data", "/elsewhere")):
        assert reproduce._finished(stage, given | {key: other}) is None
    report = json.loads((out / "01_a" / "metrics.json").read_text())
    questions = reproduce.provenance.source(reproduce.datasets.find_local("questions", "embedded"))
    for told, same in (
        (questions, True),
        ({"name": "digits", "source": "embedded", "title": "digits", "sha256": None}, True),
        ({"name": "digits", "source": "cache", "title": "digits", "sha256": None}, False),
        (questions | {"sha256": "0" * 64}, False),
        ({"name": "mine"}, False),
    ):
        assert reproduce._same_data(report | {"data": [told]}, "embedded") is same


# ---- Killed at any moment


def killed_after(operations, work):
    """Do ``work`` in a child that gets SIGKILL at its n-th operation on files; whether it came to its end before."""
    child = os.fork()
    if child == 0:
        left = [operations]

        def watch(event, arguments):
            writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
            if writes or event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.open"):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFEXITED(status)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a child that is killed takes fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_at_any_operation_on_files_a_run_leaves_the_old_results_or_the_new(tmp_path):
    a, b, start = tmp_path / "01_a.ipynb", book(tmp_path / "02_b.ipynb", "2"), tmp_path / "start"
    run(book(a, "1 one both"), out=start)
    mine = {
        "01_a/notes.md": b"thesis",
        "01_a/mine/plot.csv": b"1,2",
        ".draft.part": b"draft",
        "01_a/.x.part": b"x",
    }
    for name, content in mine.items():
        (start / name).parent.mkdir(exist_ok=True)
        (start / name).write_bytes(content)
    old = {k: v for k, v in results(start).items() if not k.endswith((".tp4-written.json", "run.json"))}
    book(a, "8 eight both")
    seen, count = set(), 0
    for count in range(0, 1000, 1 if HEAVY else 7):
        out = tmp_path / str(count)
        shutil.copytree(start, out)
        ended = killed_after(count, lambda out=out: run(a, out=out))
        run(b, out=out)  # whatever is run next in this folder puts it in order
        now = snapshot(out)
        assert {name: now.get(name) for name in mine} == mine, count
        assert not [name for name in now if name.endswith(files.PART)], count
        merged = json.loads((out / "metrics.json").read_text())
        seen.add(which := merged["notebooks"]["01_a"]["metrics"]["x"]["value"])
        if which == 1:
            kept = {k: v for k, v in now.items() if k in old}
            assert kept == old, count
            assert not ended
        else:
            assert now["01_a/eight.svg"] == now["01_a/both.svg"] == svg(8).encode(), count
            assert "01_a/one.svg" not in now, count
            assert not (out / ".01_a.new").exists(), count
            assert Manifest(out / "01_a").names() == [
                "both.png", "both.svg", "eight.png", "eight.svg", "metrics.json", "run.json",
            ]  # fmt: skip
        assert run(a, out=out)[0].error is None  # and it can be run again
        assert value(out) == 8
        shutil.rmtree(out)
        if ended:
            break
    assert seen == {1, 8}
    print(f"cut off after 0 to {count} operations")
    assert count > 50


# ---- Files of others


def populate(out, chance):
    """Files of a user under names of all kinds; returns them."""
    names = [
        "notes.md", "mine/plot.csv", "01_a/notes.md", "01_a/mine/plot.csv", "01_a/checkpoints/own.npz", "01_a/one~.svg",
        ".draft.part", ".index.html.abc.part", "01_a/.metrics.json.xyz.part", ".01_a.part.ipynb", "03_c.ipynb",
        "03_c/run.json", "02_b/own.txt", ".03_c.new/x.txt", "vectors.bin", "checkpoint.npz", "01_a.failed.ipynb",
        ".x.new/run.json", "sub/run.json", f".y.{os.getpid()}-abc.tp4.part",
    ]  # fmt: skip
    for name in names:
        if chance.random() < 0.6:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_text(f"{name} of mine {chance.random()}")
    return snapshot(out)


def test_no_run_removes_or_changes_a_file_that_it_did_not_write(tmp_path):
    chance = random.Random(0)
    a, b = tmp_path / "01_a.ipynb", tmp_path / "02_b.ipynb"
    came_to = set()
    for round in range(12):
        out = tmp_path / str(round)
        out.mkdir()
        mine = populate(out, chance)
        for _ in range(5):
            book(a, chance.choice(["1 one", "2 two three", "fail one", "interrupt one", "4"]))
            book(b, chance.choice(["1 one", "fail"]))
            more = chance.choice([{}, {}, {"resume": True}, {"seed": -1}, {"preset": "huge"}, {"workers": 2}])
            try:
                outcomes = run(*chance.choice([(a,), (a, b)]), out=out, **more)
                came_to.add("failed" if outcomes[0].error else "ok")
            except (InputError, KeyboardInterrupt) as end:
                came_to.add(type(end).__name__)
            now = snapshot(out)
            assert {name: now.get(name) for name in mine} == mine, (round, more)
        own = "index.html" if round % 2 else "01_a/one.svg"
        shutil.rmtree(out)
        (out / own).parent.mkdir(parents=True)
        (out / own).write_text("mine, under a name of theirs")
        with (
            pytest.raises(InputError, match=r"index\.html was not written by tp4")
            if round % 2
            else open(os.devnull)
        ):
            (outcome,) = run(book(a, "1 one two"), out=out)
            assert "one.svg was not written by tp4, or was changed since" in outcome.error
            assert not (out / "01_a" / "two.svg").exists()
        assert (out / own).read_text() == "mine, under a name of theirs"
        assert "mine, under" in snapshot(out)[own].decode()
    assert came_to == {"ok", "failed", "InputError", "KeyboardInterrupt"}


def test_results_that_met_a_foreign_file_wait_and_take_their_place_once_it_has_gone(tmp_path):
    a, out = book(tmp_path / "01_a.ipynb", "1 one"), tmp_path / "out"
    (out / "01_a").mkdir(parents=True)
    (out / "01_a" / "one.svg").write_text("mine")
    (outcome,) = run(a, out=out)
    assert "the results wait in" in outcome.error
    merged = json.loads((out / "metrics.json").read_text())
    assert (merged["notebooks"], merged["runs"]["01_a"]["ok"]) == ({}, False)
    (out / "01_a" / "one.svg").rename(tmp_path / "one.svg")
    run(book(tmp_path / "02_b.ipynb", "2"), out=out)
    assert value(out) == 1
    assert (out / "01_a" / "one.svg").read_text() == svg(1)


def test_a_result_that_was_changed_by_hand_is_refused_before_anything(tmp_path):
    a, out = book(tmp_path / "01_a.ipynb", "1 one"), tmp_path / "out"
    run(a, out=out)
    for name in ("01_a/one.svg", "01_a.ipynb", "01_a/metrics.json", "index.html", "metrics.json"):
        kept = (out / name).read_bytes()
        (out / name).write_bytes(kept + b" ")
        before = snapshot(out)
        with pytest.raises(InputError, match=r"was not written by tp4, or was changed since; .*--out"):
            run(a, out=out)
        assert snapshot(out) == before
        (out / name).write_bytes(kept)
    assert run(a, out=out)[0].error is None


def test_results_without_their_ledger_are_not_replaced(tmp_path):
    a, out = book(tmp_path / "01_a.ipynb", "1 one"), tmp_path / "out"
    run(a, out=out)
    for manifest in out.rglob(".tp4-written.json"):
        manifest.unlink()
    before = snapshot(out)
    with pytest.raises(InputError, match="was not written by tp4"):
        run(book(a, "2 two"), out=out)
    assert snapshot(out) == before


def test_what_a_live_session_has_written_is_ours_and_other_files_are_not_replaced_by_it(
    tmp_path, monkeypatch
):
    import matplotlib.pyplot as plt

    monkeypatch.setenv("TP4_OUT", str(tmp_path / "out"))
    report = Report("01_a", "ci")
    report.metric("x", 7)
    (report.folder / "mine.svg").write_text("mine")
    with pytest.raises(InputError, match=r"mine\.svg was not written by tp4"):
        report.show(plt.figure(), "mine", "caption", "alt")
    report.show(plt.figure(), "one", "caption", "alt")
    report.show(plt.figure(), "one", "caption", "alt")
    report.save()
    report.save()
    run(book(tmp_path / "01_a.ipynb", "1 one"), out=tmp_path / "out")
    assert (tmp_path / "out" / "01_a" / "one.svg").read_text() == svg(1)
    assert (tmp_path / "out" / "01_a" / "mine.svg").read_text() == "mine"


@pytest.mark.parametrize("place", [".", "../books", "link", "../books/../books"])
def test_the_folder_of_the_notebooks_is_refused_as_out(tmp_path, monkeypatch, place):
    (tmp_path / "books").mkdir()
    a, b = book(tmp_path / "books" / "01_a.ipynb", "1"), book(tmp_path / "books" / "02_b.ipynb", "2")
    monkeypatch.chdir(tmp_path / "books")
    os.symlink(".", "link")
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match=r"holds the notebooks themselves; .*--out DIR"):
        run(a, b, out=Path(place))
    assert snapshot(tmp_path) == before
    # A copy of that name from elsewhere must not come over it either.
    (tmp_path / "copies").mkdir()
    with pytest.raises(InputError, match=r"01_a\.ipynb was not written by tp4"):
        run(book(tmp_path / "copies" / "01_a.ipynb", "5"), out=Path(place))
    assert snapshot(tmp_path).items() >= before.items()


def test_in_place_keeps_what_was_edited_while_it_ran_and_what_other_tools_wrote(tmp_path, monkeypatch):
    a, out = book(tmp_path / "01_a.ipynb", "1 one"), tmp_path / "out"
    content = json.loads(a.read_text())
    content["metadata"] |= {"colab": {"name": "mine"}}
    content["cells"][0]["metadata"] |= {"nbgrader": {"grade": True}}
    a.write_text(json.dumps(content))
    assert run(a, out=out, in_place=True)[0].error is None
    stored = json.loads(a.read_text())
    assert stored["metadata"]["colab"] == {"name": "mine"}
    assert stored["metadata"]["tp4"]["preset"] == "ci"
    assert stored["cells"][0]["metadata"]["nbgrader"] == {"grade": True}
    before = a.read_bytes()
    run(a, out=out, in_place=True, resume=True)
    assert a.read_bytes() == before

    def edits(self, stage, parameters):
        outcome = stand_in(self, stage, parameters)
        a.write_bytes(before + b"\n")
        return outcome

    monkeypatch.setattr(Executor, "execute", edits)
    (outcome,) = run(a, out=out, in_place=True)
    assert "was changed while it ran: its outputs were not stored in it" in outcome.error
    assert a.read_bytes() == before + b"\n"


# ---- Half-written files


def test_parts_of_others_and_of_running_processes_stay(tmp_path):
    gone = 2**22 + 1  # above the largest process number of Linux
    ours = tmp_path / f".checkpoint.npz.{gone}-ab_c1.tp4.part"
    others = [
        ".draft.part",
        ".checkpoint.npz.abc.part",
        f".x.{os.getpid()}-abc.tp4.part",
        f".x.{gone}.part",
        ".x.tp4.part",
    ]
    for path in (ours, *(tmp_path / name for name in others)):
        path.write_text("half")
    with files.alone_in(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)
    with files.atomic_path(tmp_path / "x") as part:
        assert files._OUR_PART.fullmatch(part.name)[1] == str(os.getpid())


def test_several_threads_of_one_process_share_a_ledger(tmp_path):
    """Reports of one session write one after the other; what is noted twice is noted once."""
    for _ in range(3):
        Manifest(tmp_path).write_json("a.json", {"b": threading.active_count()})
    assert Manifest(tmp_path).names() == ["a.json"]
    (tmp_path / "a.json").unlink()
    os.symlink(tmp_path / "b", tmp_path / "a.json")
    (tmp_path / "b").write_text("mine")
    with pytest.raises(InputError, match="was not written by tp4"):
        Manifest(tmp_path).write_json("a.json", {})
    assert (tmp_path / "b").read_text() == "mine"
