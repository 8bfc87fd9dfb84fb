"""``tp4 maml`` as a user types it."""

import functools
import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.data.test_omniglot import png, write_folder
from tp4lib.base import checkpoint
from tp4lib.collection.cli import main
from tp4lib.data import drawn_characters as synthetic
from tp4lib.maml import experiment


@pytest.fixture(autouse=True)
def embedded(monkeypatch):
    monkeypatch.setenv("TP4_DATA", "embedded")


def tp4(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["maml", *map(str, arguments)])
    return stop.value.code


def metrics(out: Path) -> dict:
    return json.loads((out / "metrics.json").read_text())


# The command names its folder, and the digests are of files that tell the time.
CHANGES_WITH_THE_CLOCK = {"seconds", "meta_steps_per_second", "environment", "written"}


def test_finite_width_and_limit_write_their_metrics(tmp_path, capsys):
    assert tp4("--limit", "none", "--width", 16, "--meta-steps", 150, "--out", tmp_path / "16") == 0
    found = metrics(tmp_path / "16")
    assert found["dataset"] == "synthetic characters, drawn by this program"
    assert found["synthetic"] is True
    assert (found["width"], found["limit"], found["meta_steps"]) == (16, "none", 150)
    assert [e["meta_steps"] for e in found["epochs"]] == [100, 150]
    assert found["val_accuracy"] == max(e["val_accuracy"] for e in found["epochs"])
    for key in ("test_accuracy_1_step", "test_accuracy_20_steps"):
        assert 25 < found[key] < 95  # guessing is 20
        assert 0 < found[f"{key}_se"] < 1
    assert found["lr"] == 0.1  # the paper's for the nearest width, 8
    assert f"{found['test_accuracy_20_steps']:.2f}" in capsys.readouterr().out

    assert tp4("--meta-steps", 20, "--lr", 0.05, "--sigma-out", 0.1, "--out", tmp_path / "inf") == 0
    found = metrics(tmp_path / "inf")
    assert (found["width"], found["limit"], found["activation"]) == ("inf", "mup", "linear")
    assert (found["lr"], found["sigma_out"], found["sigma_in"]) == (0.05, 0.1, 1)


def test_a_kernel_limit_runs_by_the_same_command(tmp_path):
    assert tp4("--limit", "gp", "--meta-steps", 5, "--patience", 3, "--lr", 0.01, "--out", tmp_path) == 0
    found = metrics(tmp_path)
    assert (found["width"], found["limit"], found["activation"], found["lr"]) == ("inf", "gp", "linear", 0.01)
    assert 25 < found["test_accuracy_20_steps"] < 95
    assert (tmp_path / "checkpoint.npz").is_file()


def test_resume_ends_with_the_same_numbers(tmp_path, monkeypatch):
    from tp4lib.maml import train

    run = ("--limit", "none", "--width", 8, "--meta-steps", 250, "--seed", 3)
    assert tp4(*run, "--out", tmp_path / "whole") == 0

    saved = []

    def save_then_die(*arguments):
        checkpoint.save(*arguments)
        saved.append(arguments)
        if len(saved) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "checkpoint", type("c", (), {"save": save_then_die, "load": checkpoint.load}))
        assert tp4(*run, "--out", tmp_path / "broken") != 0
    assert not (tmp_path / "broken" / "metrics.json").exists()
    assert tp4(*run, "--out", tmp_path / "broken", "--resume") == 0
    whole, broken = metrics(tmp_path / "whole"), metrics(tmp_path / "broken")
    assert {k: v for k, v in whole.items() if k not in CHANGES_WITH_THE_CLOCK} == {
        k: v for k, v in broken.items() if k not in CHANGES_WITH_THE_CLOCK
    }


def refused(capsys, *arguments: str | Path) -> str:
    """The one line on stderr that a refused command prints."""
    assert tp4(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--width", "64"),
            "--limit mup is infinitely wide, but --width is 64; expected inf; try --limit none",
        ),
        (("--limit", "none"), "--limit none is a finite width, but --width is inf"),
        (("--limit", "none", "--width", "wide"), "--width wide; expected a whole number or inf"),
        (("--limit", "none", "--width", "0"), "--width 0; expected 1 to 1e+12, or inf"),
        (("--activation", "relu"), "--activation relu with --limit mup; expected linear"),
        (("--lr", "-1"), "--lr = -1.0; expected a finite number > 0"),
        (("--sigma-in", "nan"), "--sigma-in = nan; expected a finite number"),
        (("--limit", "mean-field"), "'mean-field' is not one of"),
        (("--meta-steps", "0"), "--meta-steps"),
        (("--data-dir", "nowhere"), "no data folder nowhere"),
        (("--device", "tpu"), "unknown device 'tpu'"),
        (("--resume",), "no checkpoint at"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, capsys, arguments, said):
    out = tmp_path / "out"
    assert said in refused(capsys, *arguments, "--out", out)
    assert not out.exists() or not list(out.iterdir())


def test_a_folder_without_omniglot_and_a_truncated_zip(tmp_path, capsys):
    assert "holds no omniglot" in refused(capsys, "--data-dir", tmp_path, "--out", tmp_path / "out")
    for part in ("images_background", "images_evaluation"):
        (tmp_path / f"{part}.zip").write_bytes(b"PK\x03\x04 cut off")
    assert "is truncated or not a zip" in refused(capsys, "--data-dir", tmp_path, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_resume_with_other_settings_is_refused_by_name(tmp_path, capsys):
    run = ("--limit", "none", "--width", 4, "--meta-steps", 5, "--out", tmp_path)
    assert tp4(*run) == 0
    capsys.readouterr()
    before = (tmp_path / "checkpoint.npz").read_bytes()
    assert "lr = 0.05, now lr = 0.2" in refused(capsys, *run, "--lr", 0.2, "--resume")
    assert "seed = 0, now seed = 1" in refused(capsys, *run, "--seed", 1, "--resume")
    assert (tmp_path / "checkpoint.npz").read_bytes() == before


# -- divergence, resuming, and whose files are whose --------------------------------------------------------------


@pytest.fixture
def small(monkeypatch):
    """Few characters and few questions: what is tested here is no accuracy."""
    monkeypatch.setattr(experiment, "VALIDATION_TASKS", 32)
    monkeypatch.setattr(experiment, "TEST_TASKS", 32)
    monkeypatch.setattr(synthetic, "draw", functools.partial(synthetic.draw, classes=60, drawers=3))


@pytest.mark.parametrize(
    "run",
    [
        ("--limit", "mup"),
        ("--limit", "none", "--width", 8),
        ("--limit", "ntk", "--sigma-in", 8, "--sigma-out", 8),
        ("--limit", "gp", "--sigma-in", 16),
        ("--limit", "pi", "--rank", 8),
    ],
)
def test_divergence_is_an_error_names_the_meta_step_and_keeps_the_last_checkpoint(
    tmp_path, capsys, monkeypatch, small, run
):
    """The rate becomes far too large after an epoch, so that the run diverges in the second on any machine."""
    from tp4lib.maml import train

    real = train.accuracy

    def then_too_fast(model, batches, inner_steps):
        model.lr, model.clip = 1e4, None
        return real(model, batches, inner_steps)

    monkeypatch.setattr(train, "accuracy", then_too_fast)
    line = refused(capsys, *run, "--lr", 1e-4, "--meta-steps", 300, "--out", tmp_path)
    assert "training diverged in epoch 2: " in line
    assert re.search(r"at meta-step 1\d\d; expected finite", line)
    assert "try a smaller --lr" in line
    assert [path.name for path in tmp_path.iterdir()] == ["unfinished"]
    _, meta = checkpoint.load(tmp_path / "unfinished" / "checkpoint.npz")
    assert meta["history"]["epochs"][-1]["meta_steps"] == 100


RUN = ("--limit", "none", "--width", 4, "--meta-steps", 5)


def unfinished(out):
    """A folder as a killed run leaves it, after an earlier run has finished there."""
    assert tp4(*RUN, "--out", out) == 0
    (out / "unfinished").mkdir()
    (out / "checkpoint.npz").rename(out / "unfinished" / "checkpoint.npz")
    (out / "checkpoint.npz").write_bytes((out / "unfinished" / "checkpoint.npz").read_bytes())


def test_an_unfinished_checkpoint_is_not_overwritten(tmp_path, capsys, small):
    unfinished(tmp_path)
    capsys.readouterr()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    line = refused(capsys, *RUN, "--seed", 1, "--out", tmp_path)
    assert "--resume, or choose another --out" in line
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert tp4(*RUN, "--resume", "--out", tmp_path) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.npz", "metrics.json"]


def test_a_failed_run_leaves_the_earlier_one_whole(tmp_path, capsys, monkeypatch, small):
    from tp4lib.maml import train

    assert tp4(*RUN, "--out", tmp_path) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(train, "FACTOR", 0.1)
        patch.setattr(train, "is_diverged", lambda loss, untrained: loss > 0.1 * untrained)
        assert tp4(*RUN, "--seed", 1, "--out", tmp_path) == 2
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert tp4(*RUN, "--seed", 1, "--out", tmp_path) == 0
    assert metrics(tmp_path)["seed"] == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: run["meta"]["settings"].update({"data (SHA-256)": "1" * 64}), "with data (SHA-256) = '1111"),
        (lambda run: run["meta"]["settings"].update({"images (SHA-256)": "1" * 64}), "images (SHA-256) = '1111"),
        (lambda run: run["meta"]["settings"].update({"seed of the tasks": 7}), "with seed of the tasks = 7, now"),
        (lambda run: run["meta"]["settings"].update({"validation": "0"}), "with validation = '0', now"),
        (lambda run: run["meta"]["settings"].pop("validation"), "with validation = nothing, now validation = '"),
        (lambda run: run.update(tp4="0.0.1"), "was written by tp4 0.0.1, this is tp4"),
        (lambda run: run.pop("tp4"), "was written by tp4 of an earlier version, this is tp4"),
    ],
)  # fmt: skip
def test_a_run_is_resumed_with_the_same_data_tasks_and_version_alone(tmp_path, capsys, change, said, small):
    unfinished(tmp_path)
    capsys.readouterr()
    path = tmp_path / "unfinished" / "checkpoint.npz"
    with np.load(path) as file:
        arrays = dict(file)
    header = json.loads(arrays.pop("__meta__").tobytes())
    change(header)
    np.savez(path, **arrays, __meta__=np.frombuffer(json.dumps(header).encode(), np.uint8))
    before = path.read_bytes()
    assert said in refused(capsys, *RUN, "--resume", "--out", tmp_path)
    assert path.read_bytes() == before


def test_other_drawings_under_the_same_path_are_not_resumed_with(tmp_path, capsys, small):
    rng = np.random.default_rng(0)
    names = [f"{part}/Greek/character{c:02d}/{d}.png"
             for part in ("images_background", "images_evaluation") for c in range(30) for d in range(3)]  # fmt: skip
    files = {name: png(rng.random((105, 105)) < 0.9) for name in names}
    folder = write_folder(tmp_path / "data", files)
    run = (*RUN, "--data-dir", folder, "--out", tmp_path / "out")
    assert tp4(*run) == 0
    found = metrics(tmp_path / "out")
    assert (
        found["dataset"] == found["data"][0]["title"] == "60 characters of 2 alphabets in Omniglot's layout"
    )
    assert found["data"][0]["counts"] == {"characters": 60, "alphabets": 2, "drawings": 180}
    assert found["data"][0]["official"] is False
    write_folder(folder, {names[0]: png(np.eye(105, dtype=bool))})
    capsys.readouterr()
    assert "was started with data (SHA-256) =" in refused(capsys, *run, "--resume")


def test_drawn_characters_are_told_unless_they_were_asked_for(tmp_path, capsys, monkeypatch, small):
    monkeypatch.delenv("TP4_DATA")
    monkeypatch.setenv("TP4_OFFLINE", "1")
    monkeypatch.setenv("TP4_CACHE", str(tmp_path / "cache"))
    assert tp4(*RUN, "--out", tmp_path / "a") == 0
    assert "no Omniglot was found; going on with synthetic characters" in capsys.readouterr().err
    monkeypatch.setenv("TP4_DATA", "embedded")
    assert tp4(*RUN, "--out", tmp_path / "b") == 0
    assert "Omniglot" not in capsys.readouterr().err
