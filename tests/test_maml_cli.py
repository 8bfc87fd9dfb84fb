"""``tp4 maml`` as a user types it."""

import json
from pathlib import Path

import pytest

from tp4lib.cli import main


@pytest.fixture(autouse=True)
def embedded(monkeypatch):
    monkeypatch.setenv("TP4_DATA", "embedded")


def tp4(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["maml", *map(str, arguments)])
    return stop.value.code


def metrics(out: Path) -> dict:
    return json.loads((out / "metrics.json").read_text())


CHANGES_WITH_THE_CLOCK = {"seconds", "meta_steps_per_second", "environment"}  # the command names its folder


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
    from tp4lib import checkpoint
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
