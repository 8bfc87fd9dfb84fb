"""`MAMLSettings` and `tp4lib.maml.run`, the library behind ``tp4 maml``."""

import json
import math

import pytest

from tp4lib import maml
from tp4lib.base.errors import InputError
from tp4lib.maml import MAMLSettings, experiment
from tp4lib.maml.settings import Limit


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"limit": "mean-field"}, "--limit mean-field; expected one of mup, ntk, gp, pi, none"),
        ({"width": 64}, "--limit mup is infinitely wide, but --width is 64"),
        ({"limit": "none", "width": 2.5}, "--width 2.5; expected a whole number or inf"),
        ({"rank": 2.5}, "--rank = 2.5; expected a whole number >= 1"),
        ({"patience": 0}, "--patience = 0; expected a whole number >= 1"),
        ({"seed": -1}, "--seed = -1; expected a whole number from 0"),
        ({"lr": math.nan}, "--lr = nan; expected a finite number > 0 and <= 1e+06"),
        ({"activation": "relu"}, "--activation relu with --limit mup; expected linear"),
    ],
)
def test_bad_settings_are_one_line(options, said):
    with pytest.raises(InputError) as caught:
        MAMLSettings(**options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_take_plain_values():
    assert MAMLSettings(width=math.inf) == MAMLSettings()
    found = MAMLSettings(limit="none", width=32, lr=1, sigma_out=None)
    assert (found.limit, found.units, found.hyperparameters) == (Limit.none, 32, {"lr": 1.0})


def test_a_run_returns_what_its_metrics_say_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setenv("TP4_DATA", "embedded")
    monkeypatch.setattr(experiment, "VALIDATION_TASKS", 32)
    monkeypatch.setattr(experiment, "TEST_TASKS", 32)
    settings = MAMLSettings(limit="none", width=4, meta_steps=5)
    found = maml.run(settings, tmp_path)
    assert found.items() <= json.loads((tmp_path / "metrics.json").read_text()).items()
    assert maml.run(settings, tmp_path, resume=True)["epochs"] == found["epochs"]
