"""Files are whole or absent, checkpoints come back equal, damage is told in one line."""

import json
import os
import stat

import numpy as np
import pytest
import torch

from tp4lib.base import checkpoint
from tp4lib.base.errors import InputError
from tp4lib.base.files import atomic_path, out_dir, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "result.json"
    write_json(target, {"a": 1})

    def killed_half_way():
        with atomic_path(target) as part:
            part.write_text("half")
            raise RuntimeError("killed here")

    with pytest.raises(RuntimeError):
        killed_half_way()
    assert json.loads(target.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["result.json"]


def test_files_have_the_usual_permissions(tmp_path):
    write_json(tmp_path / "x.json", 1)
    (tmp_path / "plain").write_text("")
    modes = {stat.S_IMODE(os.stat(path).st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_nan_is_no_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not list(tmp_path.iterdir())


def test_out_dir_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match=r"cannot write to the output folder.*--out"):
        out_dir(tmp_path / "taken")


def test_checkpoint_round_trip_is_exact(tmp_path):
    arrays = {
        "weights": torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
        "state": np.arange(5, dtype=np.uint64),
    }
    checkpoint.save(tmp_path / "c.npz", arrays, {"epoch": 3, "history": [0.1, 0.2]})
    loaded, meta = checkpoint.load(tmp_path / "c.npz")
    assert np.array_equal(loaded["weights"], arrays["weights"].numpy())
    assert loaded["state"].dtype == np.uint64
    assert meta == {"epoch": 3, "history": [0.1, 0.2]}


@pytest.mark.parametrize("cut", [0, 1, 100, -1, -30])
def test_cut_checkpoints_are_refused(tmp_path, cut):
    path = tmp_path / "c.npz"
    checkpoint.save(path, {"x": np.arange(100)}, {"epoch": 1})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"damaged or not a checkpoint .*--resume"):
        checkpoint.load(path)


def test_pickles_are_never_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    np.savez(tmp_path / "c.npz", x=np.array([Trap()], dtype=object))
    with pytest.raises(InputError, match="not a checkpoint"):
        checkpoint.load(tmp_path / "c.npz")
    assert not (tmp_path / "executed").exists()


def test_other_versions_are_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "VERSION", 99)
    checkpoint.save(tmp_path / "c.npz", {}, {})
    monkeypatch.undo()
    with pytest.raises(InputError, match="version 99"):
        checkpoint.load(tmp_path / "c.npz")


def test_other_settings_are_refused_by_name():
    checkpoint.require_same({"lr": 0.1, "width": 64}, {"lr": 0.1, "width": 64}, "this run")
    with pytest.raises(InputError, match="width = 64, now width = 128"):
        checkpoint.require_same({"lr": 0.1, "width": 64}, {"lr": 0.1, "width": 128}, "this run")
