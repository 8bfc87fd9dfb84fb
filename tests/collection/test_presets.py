"""Presets: which data each takes, in `tp4 reproduce` and in a live session alike."""

import os

import pytest

from tp4lib.base.errors import InputError
from tp4lib.collection import presets, report
from tp4lib.collection.plan import TIMEOUTS, Plan
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
