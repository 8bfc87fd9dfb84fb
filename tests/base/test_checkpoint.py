"""Checkpoints from elsewhere: nothing in them is executed, and what is wrong is told in one line."""

import io
import json
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch

from tests.base.test_hostile_files import Trap, encrypted, lying_npz, refused
from tests.test_trust_numbers import fitted, options
from tp4lib import __version__
from tp4lib.base import checkpoint
from tp4lib.data import drawn_characters as synthetic
from tp4lib.maml import models
from tp4lib.maml.fomaml import LinearFOMAML
from tp4lib.word2vec import Corpus
from tp4lib.word2vec.checkpoints import CHECKPOINT
from tp4lib.word2vec.training import train


def written(path, header, **arrays):
    """A checkpoint with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    np.savez(path, **arrays, __meta__=np.frombuffer(text, np.uint8))
    return path


@pytest.mark.parametrize("version", [0, 99, -1, 1.5, "1", None, [1], {"1": 1}])
def test_other_versions_are_refused_with_what_to_do(tmp_path, version):
    path = written(tmp_path / "c.npz", {"version": version, "meta": {}}, x=np.ones(3))
    line = refused(
        r"has checkpoint version .*; this program reads version 1; start again", checkpoint.load, path
    )
    assert f"version {version};" in line
    assert "or finish with the version of tp4 that wrote it" in line


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"1",
        b'"version"',
        b"{}",
        b'{"version": 1}',
        b'{"version": 1, "meta": null}',
        b'{"version": 1, "meta": [1]}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"version": 1, "meta": ' + b'{"a":' * 50_000,
        b"1" * 100_000,
    ],
)
def test_headers_that_are_none(tmp_path, header):
    refused("damaged or not a checkpoint", checkpoint.load, written(tmp_path / "c.npz", header))


def test_nothing_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, good = tmp_path / "c.npz", {"version": 1, "tp4": __version__, "meta": {}}
    traps = {
        "an array of objects": lambda: written(path, good, x=np.array([Trap()], dtype=object)),
        "objects for a header": lambda: np.savez(path, __meta__=np.array([Trap()], dtype=object)),
        "a pickle": lambda: path.write_bytes(pickle.dumps(Trap())),
        "a pickle of arrays": lambda: path.write_bytes(pickle.dumps({"x": np.ones(3), "trap": Trap()})),
        "torch's own file": lambda: torch.save({"x": Trap()}, path),
        "torch's older file": lambda: torch.save({"x": Trap()}, path, _use_new_zipfile_serialization=False),
        "one array": lambda: path.write_bytes(b"\x93NUMPY\x01\x00" + pickle.dumps(Trap())),
    }
    for trap in traps.values():
        trap()
        refused("damaged or not a checkpoint", checkpoint.load, path)
    assert os.listdir(tmp_path) == ["c.npz"]


def test_archives_made_to_do_harm(tmp_path):
    path = tmp_path / "c.npz"
    for shape in ((10**12,), (2**62, 2**62), (63,), (-1,)):
        path.write_bytes(lying_npz(b"x", shape, "|u1"))
        refused("damaged or not a checkpoint", checkpoint.load, path)
    np.savez_compressed(path, x=np.zeros(300 << 20, np.uint8))
    refused("do harm", checkpoint.load, path)
    checkpoint.save(path, {"x": np.ones(3)}, {})
    refused("encrypted", checkpoint.load, encrypted(path))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../x.npy", b"")
    refused("leads outside", checkpoint.load, path)


def test_a_header_that_leaves_the_end_of_an_array_out(tmp_path):
    """NumPy would read fewer numbers, and never come to the checksum at their end."""
    path = tmp_path / "c.npz"
    checkpoint.save(path, {"x": np.arange(10_000.0)}, {})
    data = path.read_bytes()
    assert data.count(b"(10000,), ") == 1
    path.write_bytes(data.replace(b"(10000,), ", b"(10,),    "))
    with np.load(path) as found:
        assert len(found["x"]) == 10
    refused("damaged or not a checkpoint", checkpoint.load, path)


# -- a run's own checkpoint, with one thing changed ----------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus():
    rng = np.random.default_rng(0)
    return Corpus.from_words([f"w{i}" for i in np.minimum(rng.zipf(1.3, 4000) - 1, 39)])


def changed(path, change):
    """The same file with its arrays or its meta changed in place."""
    arrays, meta = checkpoint.load(path)
    change(arrays, meta)
    # Past the writer's own checks.
    written(path, {"version": 1, "tp4": __version__, "meta": meta}, **arrays)


def put(where, key, value):
    return lambda arrays, meta: {"arrays": arrays, **meta, "meta": meta}[where].__setitem__(key, value)


def drop(where, key):
    return lambda arrays, meta: {"arrays": arrays, **meta, "meta": meta}[where].pop(key)


WORD2VEC = {
    "no settings": drop("meta", "settings"),
    "no state": drop("meta", "state"),
    "settings of another kind": put("meta", "settings", 3),
    "state of another kind": put("meta", "state", [1, 2]),
    "no embeddings": drop("arrays", "embeddings"),
    "a row more": put("arrays", "embeddings", np.ones((41, 4), np.float32)),
    "a column more": put("arrays", "readout", np.ones((40, 5), np.float32)),
    "another type": put("arrays", "readout", np.ones((40, 4), np.float64)),
    "integers": put("arrays", "readout", np.ones((40, 4), np.int32)),
    "text": put("arrays", "readout", np.full((40, 4), "x")),
    "nan": put("arrays", "embeddings", np.full((40, 4), np.nan, np.float32)),
    "infinity": put("arrays", "readout", np.full((40, 4), -np.inf, np.float32)),
    **{f"no {key}": drop("state", key) for key in ("epoch", "block", "loss", "history", "evaluated")},
    "an epoch that never was": put("state", "epoch", 99),
    "a negative epoch": put("state", "epoch", -1),
    "a block that never was": put("state", "block", 10**9),
    "a negative block": put("state", "block", -3),
    "an epoch in words": put("state", "epoch", "one"),
    "no history of its epochs": put("state", "history", []),
    "a history of nothing": put("state", "history", [None]),
    "a history without losses": put("state", "history", [{}]),
    "a loss that is none": put("state", "history", [{"loss": "low"}]),
}


@pytest.mark.parametrize("change", WORD2VEC)
def test_word2vec_refuses_a_checkpoint_that_no_run_has_left(corpus, tmp_path, change):
    settings = options(epochs=1, out=tmp_path)
    train(corpus, 4, **settings)
    changed(tmp_path / CHECKPOINT, WORD2VEC[change])
    refused("damaged or not a checkpoint.*without --resume", train, corpus, 4, **settings, resume=True)


MAML = {
    "no settings": drop("meta", "settings"),
    "no history": drop("meta", "history"),
    "a history with more in it": put("history", "more", 1),
    "an empty history": put("history", "epochs", []),
    "a best epoch that never was": put("history", "best_epoch", 9),
    "epochs of nothing": put("history", "epochs", [None]),
    "no parameter": drop("arrays", "model.U"),
    "no best": drop("arrays", "best.V"),
    "no tasks": drop("arrays", "tasks"),
    "tasks of another size": put("arrays", "tasks", np.zeros(9, np.uint8)),
    "tasks of noise": put("arrays", "tasks", np.random.default_rng(0).integers(0, 255, 5064).astype(np.uint8)),
    "another shape": put("arrays", "model.U", np.ones((8, 3), np.float32)),
    "fewer rows": put("arrays", "best.U", np.ones((3, 784), np.float32)),
    "nan": put("arrays", "best.U", np.full((8, 784), np.nan, np.float32)),
    "text": put("arrays", "model.V", np.array(["x"])),
}  # fmt: skip


@pytest.mark.parametrize("change", MAML)
def test_maml_refuses_a_checkpoint_that_no_run_has_left(tmp_path, change):
    images, path = synthetic.draw(classes=12, drawers=4), tmp_path / "c.npz"
    fitted(LinearFOMAML(models.linear_network(8)), images, path)
    changed(path, MAML[change])
    model = LinearFOMAML(models.linear_network(8))
    refused("damaged or not a checkpoint.*without --resume", fitted, model, images, path, resume=True)


def test_the_format_is_npz_and_json(tmp_path):
    checkpoint.save(tmp_path / "c.npz", {"x": torch.ones(2, 3)}, {"epoch": 1, "word": "naïve"})
    with zipfile.ZipFile(tmp_path / "c.npz") as archive:
        assert sorted(archive.namelist()) == ["__meta__.npy", "x.npy"]
        magic, header = (archive.read("__meta__.npy") for _ in range(2))
    assert magic[:6] == b"\x93NUMPY"
    length = struct.unpack("<H", header[8:10])[0]
    assert json.load(io.BytesIO(header[10 + length :])) == {
        "version": 1,
        "tp4": __version__,
        "meta": {"epoch": 1, "word": "naïve"},
    }
