"""Ranks that share columns compute what one rank computes, survive being killed, and leave what others read."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from gensim.models import KeyedVectors

from tp4lib.base.errors import InputError
from tp4lib.word2vec import __main__ as command
from tp4lib.word2vec.checkpoints import Keeper
from tp4lib.word2vec.shards import Shards, reduced


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A text of capitals and other words, with questions about them."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    words = ["athens", "greece", "oslo", "norway", "paris", "france"] + [f"w{i}" for i in range(41)]
    (folder / "text").write_text(" ".join(words[i] for i in np.minimum(rng.zipf(1.2, 6_000) - 1, 46)))
    (folder / "questions").write_text(": capitals\nAthens Greece Oslo Norway\nAthens Greece Paris France\n")
    return folder


def options(text, out, *more):
    return ["--corpus", text / "text", "--questions", text / "questions", "--width", "inf", "--epochs", "2",
            "--dtype", "float64", "--batch-size", "100", "--subsample", "0", "--device", "cpu", "--lr", "0.005",
            "--out", out, *more]  # fmt: skip


def launch(size: int, arguments, code: str = "") -> list[subprocess.Popen]:
    """The ranks that ``torchrun --nproc-per-node=size -m tp4lib.word2vec`` would start, after running ``code``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = os.environ | {
        "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TP4_PROGRESS": "0",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    code += "\nimport sys; from tp4lib.word2vec.__main__ import main; main(sys.argv[1:])"
    line = [sys.executable, "-c", code, *map(str, arguments)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return [subprocess.Popen(line, env=common | {"RANK": str(r)}, **pipes) for r in range(size)]


def finish(ranks) -> list[str]:
    ends = [rank.communicate(timeout=120) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * len(ranks), ends
    return ends


def vectors(folder) -> torch.Tensor:
    return torch.from_numpy(
        KeyedVectors.load_word2vec_format(str(folder / "vectors.bin"), binary=True).vectors
    )


@pytest.fixture(scope="module")
def alone(text, tmp_path_factory):
    """One rank, in this process, by the torch engine."""
    out = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TP4_PROGRESS", "0")
        patch.setattr("tp4lib.word2vec.steps.on_numba.available", lambda *_: False)
        command.main([str(a) for a in options(text, out)])
    return out


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_give_the_numbers_of_one(text, alone, tmp_path, size):
    ends = finish(launch(size, options(text, tmp_path)))
    assert all(not out for out, _ in ends[1:]), "the first rank alone speaks"
    torch.testing.assert_close(vectors(tmp_path), vectors(alone), rtol=1e-6, atol=1e-8)  # float32 in the file
    one, many = (json.loads((folder / "metrics.json").read_text()) for folder in (alone, tmp_path))
    assert (many["ranks"], many["columns"]) == (size, 47)
    assert (many["accuracy"], many["answered"]) == (one["accuracy"], one["answered"])
    for a, b in zip(one["history"], many["history"], strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-12)


# Blocks that take a while, and a checkpoint after each.
SLOW = """
import time, tp4lib.word2vec.steps.choice as module, tp4lib.word2vec.training as training
quick = module.torch_steps
def slow(*arguments, **options):
    time.sleep(0.4)
    return quick(*arguments, **options)
module.torch_steps = slow
training.train.__kwdefaults__["checkpoint_seconds"] = 0
"""


def test_killed_ranks_resume_to_the_same_numbers(text, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(launch(2, options(text, whole)))
    ranks = launch(2, options(text, broken), SLOW)
    until = time.monotonic() + 60
    # Killed between the writing of two ranks there is no generation yet to go on from: wait for both.
    while (
        len({path.suffixes[-2] for path in broken.glob("unfinished/checkpoint-*of2.npz")}) < 2
        and time.monotonic() < until
    ):
        time.sleep(0.05)
    for rank in ranks:
        rank.send_signal(signal.SIGKILL)
        rank.communicate()
    assert not (broken / "metrics.json").exists()
    finish(launch(2, options(text, broken, "--resume")))
    torch.testing.assert_close(vectors(broken), vectors(whole), rtol=0, atol=0)
    losses = [
        [h["loss"] for h in json.loads((f / "metrics.json").read_text())["history"]] for f in (broken, whole)
    ]
    assert losses[0] == losses[1]


META = {"settings": {}}


def test_a_generation_counts_once_every_rank_has_written_it(tmp_path, monkeypatch):
    ranks = [Keeper(tmp_path, Shards(r, 2)) for r in range(2)]
    monkeypatch.setattr(Shards, "wait", lambda self: None)
    monkeypatch.setattr(Shards, "any", lambda self, flag: flag)
    for generation, writers in (("0000-1", ranks), ("0000-2", ranks[:1])):
        for keeper in writers:
            with monkeypatch.context() as patch:  # killed before the old generation is removed
                patch.setattr("pathlib.Path.glob", lambda self, pattern: [])
                keeper.save(
                    generation, {"x": np.array([keeper.shards.rank])}, META | {"generation": generation}
                )
    x = torch.zeros(1, dtype=torch.int64)
    for keeper in ranks:
        keeper.require_same({})
        assert keeper.load({"x": x}, {})["generation"] == "0000-1"
        assert x == keeper.shards.rank
    ranks[1].save("0000-2", {"x": np.array([1])}, META | {"generation": "0000-2"})
    assert ranks[0].load({"x": x}, {})["generation"] == "0000-2"
    for number in "345":  # of the generations that were written by both, two are kept
        for keeper in ranks:
            keeper.save(f"0000-{number}", {"x": np.array([0])}, META | {"generation": f"0000-{number}"})
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"checkpoint-0000-{number}.{r}of2.npz" for number in "45" for r in range(2)
    ]
    # Damaged on one rank, the newest does not count on the other one either.
    newest = tmp_path / "checkpoint-0000-5.1of2.npz"
    newest.write_bytes(newest.read_bytes()[:-40])
    bad = iter((True, False))
    monkeypatch.setattr(Shards, "any", lambda self, flag: next(bad))
    assert ranks[0].load({"x": x}, {})["generation"] == "0000-4"
    for keeper in ranks:
        keeper.finish()


@pytest.mark.parametrize("size", [1, 3, 8])
def test_every_column_has_one_rank(size):
    held = [list(range(20))[Shards(r, size).columns(20)] for r in range(size)]
    assert [column for columns in held for column in columns] == list(range(20))
    assert max(map(len, held)) - min(map(len, held)) <= 1


def test_reduced_keeps_inner_products_as_well_as_a_singular_value_decomposition():
    g = torch.Generator().manual_seed(0)
    scale = 0.8 ** torch.arange(40, dtype=torch.float64)
    E = torch.randn(60, 40, generator=g, dtype=torch.float64) * scale
    U, S, _ = torch.linalg.svd(E, full_matrices=False)
    best = U[:, :8] * S[:8]
    torch.testing.assert_close(reduced(E, 8) @ reduced(E, 8).T, best @ best.T, rtol=0, atol=1e-8)
    whole = reduced(E, 40)
    torch.testing.assert_close(whole @ whole.T, E @ E.T, rtol=0, atol=1e-10)
    with pytest.raises(InputError, match="from 1 to 40"):
        reduced(E, 41)


def test_vectors_can_be_saved_in_few_columns(text, tmp_path, monkeypatch):
    monkeypatch.setenv("TP4_PROGRESS", "0")
    command.main([str(a) for a in options(text, tmp_path, "--save-dim", "5")])
    assert vectors(tmp_path).shape == (47, 5)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["columns"], metrics["saved_columns"]) == (47, 5)
    assert metrics["saved_accuracy"] in (0.0, 50.0, 100.0)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--save-dim", "48"], "from 1 to 47"),
        (["--resume"], "no checkpoint"),
        (["--width", "x"], "width"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(text, tmp_path, capsys, more, message):
    with pytest.raises(SystemExit) as end:
        command.main([str(a) for a in options(text, tmp_path, *more)])
    assert end.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("tp4: ")
    assert message in error
    assert "\n" not in error
