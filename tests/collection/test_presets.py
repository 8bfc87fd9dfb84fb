"""Presets: which data each takes, in `tp4 reproduce` and in a live session alike."""

import json
import os

import pytest

from tp4lib.base.errors import InputError
from tp4lib.collection import presets, report, reproduce
from tp4lib.collection.notebook_source import read_notebook
from tp4lib.collection.plan import TIMEOUTS, Plan
from tp4lib.collection.presets import sizes_of
from tp4lib.data.catalogue import EMBEDDED


@pytest.mark.parametrize("preset", presets.PRESETS)
def test_a_live_session_takes_the_data_that_reproduce_takes(preset, monkeypatch, tmp_path):
    monkeypatch.setenv("TP4_DATA", str(tmp_path))
    monkeypatch.setenv("TP4_OUT", str(tmp_path / "out"))
    monkeypatch.delenv(report.ASKED, raising=False)
    monkeypatch.setattr(report, "live", lambda: True)
    asked = Plan(preset, tmp_path).environment("cpu")["TP4_DATA"]
    report.Report("notebook", preset)
    assert os.environ["TP4_DATA"] == asked
    assert (asked == EMBEDDED) == (preset in ("ci", "class"))
    report.Report("notebook", "laptop")  # another preset in the same session
    assert os.environ["TP4_DATA"] == str(tmp_path)


def test_a_variable_that_was_not_set_is_not_set_again(monkeypatch):
    monkeypatch.delenv("TP4_DATA", raising=False)
    for _ in range(2):
        presets.choose_data("ci")
        presets.choose_data("class")
        assert os.environ["TP4_DATA"] == EMBEDDED
        presets.choose_data("paper")
        assert "TP4_DATA" not in os.environ


def test_nothing_is_set_where_nobody_is_there(monkeypatch, tmp_path):
    monkeypatch.setenv("TP4_OUT", str(tmp_path))
    monkeypatch.setenv("TP4_DATA", "kept")
    report.Report("notebook", "ci")
    assert os.environ["TP4_DATA"] == "kept"
    with pytest.raises(InputError, match="expected one of ci, class, laptop, paper"):
        report.Report("notebook", "small")


def test_every_preset_has_a_limit_of_time():
    assert set(TIMEOUTS) == set(presets.PRESETS)


def test_a_preset_that_a_notebook_has_no_sizes_for_is_refused_before_anything_runs(tmp_path):
    """A user's notebook without sizes runs at any preset."""

    def notebook(name, source):
        empty = {"metadata": {}, "outputs": [], "execution_count": None}
        cells = [{"cell_type": "code", "id": "a", "source": source, **empty}]
        path = tmp_path / f"{name}.ipynb"
        path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
        return path

    few = notebook("01_few", 'SIZES = {"ci": 1, "laptop": 2}')
    plan = reproduce.Plan("class", tmp_path / "out")
    with pytest.raises(InputError, match="no sizes for preset 'class' in 01_few"):
        reproduce.run([few], plan, say=lambda line: None)
    assert not (tmp_path / "out").exists()
    free = notebook("02_free", "preset = 'ci'")
    assert sizes_of(read_notebook(free)) == []
    assert sizes_of(read_notebook(few)) == ["ci", "laptop"]
