"""Divergence is seen where it happens, by every engine; and training on nothing is not training."""

import json
import math

import numpy as np
import pytest
import torch

from tests.word2vec.test_shards import launch
from tp4lib.base import checkpoint
from tp4lib.base.divergence import FACTOR, Diverged
from tp4lib.base.errors import InputError
from tp4lib.collection import cli
from tp4lib.word2vec import CBOW, Corpus
from tp4lib.word2vec import training as w2v
from tp4lib.word2vec.blocks import Sampler
from tp4lib.word2vec.checkpoints import CHECKPOINT
from tp4lib.word2vec.nonlinear import PiCBOW
from tp4lib.word2vec.settings import StepSettings
from tp4lib.word2vec.steps import on_numba as fast
from tp4lib.word2vec.steps.on_torch import torch_steps

needs_numba = pytest.mark.skipif(fast.numba is None, reason="numba is not installed")
ENGINES = ["torch", pytest.param("numba", marks=needs_numba)]
DOUBLE = torch.float64


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("TP4_PROGRESS", "0")


def zipf_words(count: int = 4000) -> list[str]:
    rng = np.random.default_rng(0)
    return [f"w{i}" for i in np.minimum(rng.zipf(1.3, count) - 1, 39)]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus.from_words(zipf_words())


def options(**more):
    return dict(epochs=2, subsample=0, window=3, num_negatives=5, device="cpu", lr=0.02) | more


# -- the engines agree on the loss ------------------------------------------------------------------------------------


def with_scores_of(size: float, dtype: torch.dtype, columns: int) -> CBOW:
    """A model whose scores are of the given size, of both signs."""
    g = torch.Generator().manual_seed(3)
    E, R = torch.randn(2, 40, columns, generator=g, dtype=DOUBLE)
    return CBOW.from_start(E.to(dtype), (R * size / math.sqrt(columns)).to(dtype))


@needs_numba
@pytest.mark.parametrize("size", [1.0, 60.0, 300.0, 1e6, 1e100])
@pytest.mark.parametrize(("columns", "tile"), [(6, 512), (50, 8)])
@pytest.mark.parametrize("batches", [dict(batch_size=32, shared=24), dict(batch_size=1)])
def test_the_loss_is_exact_however_large_the_scores(corpus, monkeypatch, size, columns, tile, batches):
    monkeypatch.setattr(fast, "TILE", tile)
    sampler = Sampler(
        corpus.vocab, corpus.ids[:300], window=3, num_negatives=5, subsample=0, lr=1e-9, **batches
    )
    losses = [
        float(steps(with_scores_of(size, DOUBLE, columns), sampler.block(0, 0), StepSettings(wd=0.0))[0])
        for steps in (torch_steps, fast.numba_steps)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-9)
    if size >= 300:
        assert losses[0] / 300 > size / 10


# -- every engine refuses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("negatives", ["shared", "per-position"])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("width", [4, "inf"])
def test_a_run_that_diverges_at_once_is_refused_at_its_first_block(
    corpus, tmp_path, short_blocks, engine, negatives, dtype, width
):
    """Far beyond the stable rates: all engines stop at the same place, and nothing is left."""
    size = {"batch_size": 1} if negatives == "per-position" else {}
    settings = options(lr=50.0, wd=0.0, engine=engine, negatives=negatives, dtype=dtype, out=tmp_path, **size)
    says = r"diverged in epoch 1, in block 1 of 4: the loss .*; the rate there was 50; try a smaller --lr"
    with pytest.raises(Diverged, match=says) as caught:
        w2v.train(corpus, width, **settings)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("more", [dict(engine="torch", dtype=torch.bfloat16), dict(threads=2)])
def test_so_do_other_ways_to_train(corpus, short_blocks, more):
    with pytest.raises(Diverged, match="epoch 1, in block 1 of 4"):
        w2v.train(corpus, 4, **options(lr=50.0, wd=0.0, **more))


def test_a_finite_loss_far_above_the_untrained_one_is_divergence(tmp_path, capsys):
    """Nothing overflows, but the loss is 605, 34 times that of knowing nothing; this used to end well."""
    (tmp_path / "text").write_text(" ".join(zipf_words(3000)))
    (tmp_path / "questions").write_text(": x\nw0 w1 w2 w3\n")
    line = [
        "word2vec",
        "--corpus",
        tmp_path / "text",
        "--questions",
        tmp_path / "questions",
        "--subsample",
        "0",
    ]
    line += ["--min-count", "1", "--lr", "0.1", "--width", "4", "--out", tmp_path / "out", "--epochs", "1"]
    with pytest.raises(SystemExit) as end:
        cli.main([str(x) for x in line])
    printed = capsys.readouterr()
    assert (end.value.code, printed.out) == (2, "")
    assert "diverged in epoch 1, in block 1 of 1" in printed.err
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def loses_its_way(steps, at: int):
    """The engine, which before block ``at`` of the run makes the readout large, as a diverging run does."""
    calls = []

    def wrapped(model, block, settings, **more):
        calls.append(1)
        if len(calls) == at:
            model.readout += 1e4 * torch.sign(model.readout)
        return steps(model, block, settings, **more)

    return wrapped


@pytest.mark.parametrize("engine", ENGINES)
def test_the_last_good_checkpoint_stays_also_after_the_next_try(
    corpus, tmp_path, monkeypatch, short_blocks, engine
):
    settings = options(engine=engine, out=tmp_path, checkpoint_seconds=0)
    steps = torch_steps if engine == "torch" else fast.numba_steps

    def lost(at, **more):
        with monkeypatch.context() as patch:
            patch.setattr(w2v, "choose", lambda *_: (loses_its_way(steps, at), 1, 1))
            with pytest.raises(
                Diverged, match=r"in epoch 1, in block 3 of 4: the loss is .* expected at most 3 times"
            ):
                w2v.train(corpus, 6, **settings, **more)

    lost(3)
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert checkpoint.load(tmp_path / CHECKPOINT)[1]["state"]["block"] == 2
    lost(1, resume=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == kept
    resumed = w2v.train(corpus, 6, **settings, resume=True).model
    assert torch.equal(resumed.embeddings, w2v.train(corpus, 6, **options(engine=engine)).model.embeddings)


def test_in_a_round_of_a_gpu_the_block_is_named(corpus, monkeypatch, short_blocks):
    """Losses stay on the device until the end of a round; then each block's counts, not their mean."""
    untrained = 6 * math.log(2)
    means = iter([untrained, 0.5 * untrained, 1.01 * FACTOR * untrained, untrained])

    def steps(model, block, settings):
        return torch.tensor(next(means) * len(block), dtype=DOUBLE), len(block)

    monkeypatch.setattr(w2v, "choose", lambda *_: (steps, 8, 1))
    with pytest.raises(Diverged, match=r"in epoch 1, in block 3 of 4: the loss is 12\.6"):
        w2v.train(corpus, 6, **options())


@pytest.mark.slow
def test_ranks_refuse_together(tmp_path):
    (tmp_path / "text").write_text(" ".join(zipf_words(2000)))
    (tmp_path / "questions").write_text(": x\nw0 w1 w2 w3\n")
    line = ["--corpus", tmp_path / "text", "--questions", tmp_path / "questions", "--subsample", "0", "--lr", "50",
            "--min-count", "1", "--device", "cpu", "--out", tmp_path / "out"]  # fmt: skip
    ranks = launch(2, line)
    ends = [rank.communicate(timeout=120) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [2, 2], ends
    assert "diverged in epoch 1, in block 1 of 1" in ends[0][1]
    assert ends[0][1].count("\n") == 1
    assert not (tmp_path / "out").exists()


# -- what is no divergence --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_a_start_with_large_scores_may_come_down(corpus, engine):
    """The loss of a start of one's own is what it is held against, where that is above the loss of zero scores."""
    start = with_scores_of(40.0, torch.float32, 6)
    before = CBOW.from_start(start.embeddings, start.readout)
    done = w2v.train(corpus, 6, **options(start=start, engine=engine, lr=0.002))
    assert done.history[0]["loss"] > FACTOR * 6 * math.log(2)
    assert done.history[-1]["loss"] < done.history[0]["loss"]
    again = w2v.train(corpus, 6, **options(start=before, engine=engine, lr=0.002))
    assert again.settings["start"] == done.settings["start"], "looking at its loss does not change the start"


@pytest.mark.parametrize("engine", ENGINES)
def test_looking_at_the_loss_of_a_start_changes_no_bit(corpus, engine):
    start = with_scores_of(3.0, torch.float32, 6)
    before = CBOW.from_start(start.embeddings, start.readout)
    steps = torch_steps if engine == "torch" else fast.numba_steps
    run = w2v._Run(
        start, Sampler(corpus.vocab, corpus.ids, batch_size=8, shared=6, subsample=0), StepSettings(), {},
        w2v.Engine(steps), None, 0,
    )  # fmt: skip
    run.allow_for_start()
    assert run.untrained > 26 * math.log(2)
    assert torch.equal(start.embeddings, before.embeddings)
    assert torch.equal(start.readout, before.readout)


# -- the pi-limit -----------------------------------------------------------------------------------------------------


def test_the_pi_limit_refuses_too():
    corpus = Corpus.from_words(zipf_words(600))
    sampler = Sampler(
        corpus.vocab, corpus.ids, window=3, num_negatives=5, subsample=0, batch_size=16, lr=50.0
    )
    with pytest.raises(InputError, match=r"diverged|finite"):
        PiCBOW(corpus.vocab, 8, "identity", negatives=5, max_rows=200).train(sampler)


def test_training_on_no_position_is_refused():
    corpus = Corpus.from_words(["a", "b"] * 3)
    with pytest.raises(InputError, match=r"left none of the 6 words .* nothing to train on; .*--subsample 0"):
        w2v.train(corpus, 4, epochs=1, device="cpu")
    with pytest.raises(InputError, match="left no position to train on"):
        PiCBOW(corpus.vocab, 4).train(Sampler(corpus.vocab, corpus.ids))
    assert w2v.train(corpus, 4, epochs=1, device="cpu", subsample=0).history[0]["loss"] > 0


def test_a_text_that_subsampling_empties_ends_in_one_line(tmp_path, capsys):
    """It used to end well, with a loss of 0.0 and the random start for vectors."""
    (tmp_path / "six").write_text("a b a b a b\n")
    (tmp_path / "questions").write_text(": x\none two three four\n")
    line = [
        "word2vec",
        "--corpus",
        tmp_path / "six",
        "--questions",
        tmp_path / "questions",
        "--min-count",
        "1",
    ]
    line = [str(x) for x in [*line, "--epochs", "1", "--out", tmp_path / "out"]]
    with pytest.raises(SystemExit) as end:
        cli.main(line)
    printed = capsys.readouterr()
    assert (end.value.code, printed.out, printed.err.count("\n")) == (2, "", 1)
    assert "nothing to train on" in printed.err
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit) as end:
        cli.main([*line, "--subsample", "0"])
    assert end.value.code == 0
    assert "none of 1 questions answered" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["history"][0]["loss"] > 0
    assert (metrics["accuracy"], metrics["answered"], metrics["total"]) == (None, 0, 1)
