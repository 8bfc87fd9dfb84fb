"""Files of one run belong together, wherever a run is cut short, and what is not this program's stays."""

import json
import os

import pytest

from tp4lib.base import results
from tp4lib.base.errors import InputError

KINDS = dict(checkpoints="checkpoint*.npz", others=("vectors.bin",))


def listing(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def finished(out, name, vectors=True, resume=False):
    """A run whose files hold its name."""
    with results.working(out, "word2vec", **KINDS, resume=resume) as work:
        (work.folder / "checkpoint.npz").write_text(name)
        if vectors:
            (work.folder / "vectors.bin").write_text(name)
        work.finish({"run": name})


def names(out):
    """Which run each file in OUT is of."""
    found = {}
    for path in out.iterdir():
        if path.is_file():
            text = path.read_text()
            found[path.name] = json.loads(text)["run"] if path.name == results.METRICS else text
    return found


def test_a_finished_run_stays_until_the_next_is_whole(tmp_path):
    finished(tmp_path, "first")
    before = listing(tmp_path)
    with results.working(tmp_path, "word2vec", **KINDS) as work:
        (work.folder / "checkpoint.npz").write_text("second")
        assert {k: v for k, v in listing(tmp_path).items() if "unfinished" not in k} == before
        work.finish({"run": "second"})
    assert names(tmp_path) == {"checkpoint.npz": "second", "metrics.json": "second"}, (
        "no vectors of the first"
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.npz", "metrics.json"]


class Killed(BaseException):
    pass


def test_killed_at_any_step_of_the_exchange_files_of_two_runs_never_lie_beside_metrics(tmp_path, monkeypatch):
    steps = 0
    while True:
        out = tmp_path / str(steps)
        out.mkdir()
        finished(out, "first")
        left = [steps]

        def dying(real, left=left):
            def call(*arguments, **options):
                if left[0] == 0:
                    raise Killed
                left[0] -= 1
                return real(*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(results.os, "replace", dying(os.replace))
            patch.setattr(type(out), "unlink", dying(type(out).unlink))
            patch.setattr(type(out), "rmdir", dying(type(out).rmdir))
            try:
                finished(out, "second", vectors=False)
                whole = True
            except Killed:
                whole = False
        found = names(out)
        if results.METRICS in found:
            assert set(found.values()) == {found[results.METRICS]}, steps
        with results.working(out, "word2vec", **KINDS, resume=True):  # the next command completes it
            pass
        assert names(out)["metrics.json"] in ("first", "second")
        assert len(set(names(out).values())) == 1, steps
        if whole:
            break
        steps += 1
    assert steps > 6


def test_an_unfinished_run_is_not_overwritten(tmp_path):
    finished(tmp_path, "first")
    with results.working(tmp_path, "word2vec", **KINDS) as work:  # left without `finish`
        (work.folder / "checkpoint.npz").write_text("second")
    before = listing(tmp_path)
    with pytest.raises(InputError, match=r"unfinished/checkpoint.npz .*--resume, or choose another --out"):
        finished(tmp_path, "third")
    assert listing(tmp_path) == before
    with results.working(tmp_path, "word2vec", **KINDS, resume=True) as work:
        assert (work.folder / "checkpoint.npz").read_text() == "second"
        work.finish({"run": "second"})
    assert names(tmp_path) == {"checkpoint.npz": "second", "metrics.json": "second"}


@pytest.mark.parametrize("linked", [True, False])
def test_a_finished_run_can_be_gone_on_with(tmp_path, monkeypatch, linked):
    finished(tmp_path, "first")
    if not linked:
        monkeypatch.setattr(results.os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    with results.working(tmp_path, "word2vec", **KINDS, resume=True) as work:
        assert (work.folder / "checkpoint.npz").read_text() == "first"
        (work.folder / "vectors.bin").write_text("again")
        work.finish({"run": "again"})
    assert names(tmp_path) == {"checkpoint.npz": "first", "vectors.bin": "again", "metrics.json": "again"}


def test_what_a_killed_writer_left_is_removed(tmp_path):
    (tmp_path / "unfinished").mkdir()
    for name in (".vectors.bin.4194305-x.tp4.part", ".checkpoint-0001.0of2.npz.4194305-abc.tp4.part"):
        (tmp_path / "unfinished" / name).write_text("half")
    finished(tmp_path, "first")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.npz", "metrics.json", "vectors.bin"]


def test_a_run_refused_before_it_begins_leaves_nothing(tmp_path):
    finished(tmp_path, "first")
    before = listing(tmp_path)
    for resume in (False, True):
        with pytest.raises(Killed), results.working(tmp_path, "word2vec", **KINDS, resume=resume):
            raise Killed
        assert listing(tmp_path) == before
        assert not (tmp_path / "unfinished").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vectors.bin", "my own"),
        ("checkpoint.npz", "of a run of another version that did not come to its end"),
        ("metrics.json", "my own"),
        ("metrics.json", "[]"),
        ("metrics.json", '{"program": "maml"}'),
    ],
)
def test_files_that_are_not_of_a_finished_run_of_this_program_are_not_replaced(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    (tmp_path / "notes.txt").write_text("mine")
    before = listing(tmp_path)
    with pytest.raises(InputError, match=f"{name} is not of a finished run of tp4 word2vec") as caught:
        finished(tmp_path, "new")
    assert "\n" not in str(caught.value)
    assert listing(tmp_path) == before
    (tmp_path / name).unlink()
    finished(tmp_path, "new")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_what_was_edited_while_the_next_run_went_on_is_not_replaced(tmp_path):
    finished(tmp_path, "first")
    with results.working(tmp_path, "word2vec", **KINDS) as work:
        (work.folder / "vectors.bin").write_text("second")
        (tmp_path / "vectors.bin").write_text("mine")
        with pytest.raises(
            InputError, match=r"vectors.bin was changed .* the new results wait in .*unfinished"
        ):
            work.finish({"run": "second"})
    assert (tmp_path / "vectors.bin").read_text() == "mine"
    with pytest.raises(InputError, match="was changed"):  # not as long as it is there
        finished(tmp_path, "third")
    for path in tmp_path.iterdir():
        if path.is_file():
            path.rename(tmp_path.with_name(path.name))
    with results.working(tmp_path, "word2vec", **KINDS):
        pass
    assert names(tmp_path) == {"vectors.bin": "second", "metrics.json": "second"}
