"""Training runs: what they record, and that a run cut short at any place comes to the same numbers."""

import math
import types

import numpy as np
import pytest
import torch

from tp4lib import checkpoint
from tp4lib.errors import InputError
from tp4lib.word2vec import CBOW, Corpus, fast
from tp4lib.word2vec import train as train_module
from tp4lib.word2vec.cbow import rounded
from tp4lib.word2vec.checkpoints import CHECKPOINT
from tp4lib.word2vec.shards import ALONE
from tp4lib.word2vec.train import train


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("TP4_PROGRESS", "0")


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """Three blocks of text in which every word follows from the one before, half of the time."""
    rng = np.random.default_rng(0)
    ids = [0]
    for jump, noise in zip(rng.random(40_000), np.minimum(rng.zipf(1.3, 40_000) - 1, 59)):
        ids.append((3 * ids[-1] + 1) % 60 if jump < 0.5 else int(noise))
    return Corpus.from_words([f"w{i}" for i in ids])


def settings(**more):
    return dict(epochs=2, subsample=1e-2, window=3, num_negatives=5, device="cpu", batch_size=64) | more


class Stop(Exception):
    pass


def test_history_and_falling_loss(corpus):
    scores = iter((10.0, 20.0))

    def evaluate(embeddings):
        assert embeddings.shape == (60, 60)
        return types.SimpleNamespace(accuracy=next(scores), correct=1, answered=5, total=9)

    done = train(corpus, "inf", **settings(evaluate=evaluate))
    first, second = done.history
    assert (first["epoch"], second["epoch"]) == (1, 2)
    assert second["loss"] < first["loss"] < 6 * math.log(2)  # where all scores are 0
    assert (first["accuracy"], second["accuracy"], second["answered"], second["total"]) == (10, 20, 5, 9)
    assert second["seconds"] > 0
    assert second["tokens_per_second"] == pytest.approx(len(corpus.ids) / second["seconds"])
    assert done.model.columns == 60
    assert done.settings["width"] == "inf"


@pytest.mark.parametrize("negatives", ["shared", "per-position"])
def test_stopped_after_any_block_it_resumes_to_the_same_bits(corpus, tmp_path, monkeypatch, negatives):
    options = settings(negatives=negatives, checkpoint_seconds=0)
    unbroken = train(corpus, 8, **options)
    whole = 2 * 3
    for killed_at in range(1, whole + 1):
        out, blocks = tmp_path / str(killed_at), []
        with monkeypatch.context() as patch:
            chosen, *_ = train_module._steps("auto", unbroken.model, _sampler(corpus, options), 1, ALONE)

            def steps(*arguments, blocks=blocks, killed_at=killed_at, chosen=chosen):
                blocks.append(1)
                if len(blocks) == killed_at:
                    raise Stop
                return chosen(*arguments)

            patch.setattr(train_module, "_steps", lambda *_, steps=steps: (steps, 1, 1))
            with pytest.raises(Stop):
                train(corpus, 8, **options, out=out)
        if killed_at == 1:
            assert not (out / CHECKPOINT).exists()
            continue
        resumed = train(corpus, 8, **options, out=out, resume=True)
        assert torch.equal(resumed.model.embeddings, unbroken.model.embeddings)
        assert torch.equal(resumed.model.readout, unbroken.model.readout)
        assert [h["loss"] for h in resumed.history] == [h["loss"] for h in unbroken.history]


def _sampler(corpus, options):
    shared = options["negatives"] == "shared"
    return types.SimpleNamespace(batch_size=options["batch_size"], shared=64 if shared else None)


def test_an_evaluation_that_fails_is_made_again(corpus, tmp_path):
    def fail(embeddings):
        raise Stop

    options = settings(epochs=1, out=tmp_path, checkpoint_seconds=0)
    with pytest.raises(Stop):
        train(corpus, 8, **options, evaluate=fail)
    score = types.SimpleNamespace(accuracy=1.0, correct=1, answered=2, total=3)
    assert train(corpus, 8, **options, resume=True, evaluate=lambda _: score).history[0]["answered"] == 2


def test_resuming_a_finished_run_changes_nothing(corpus, tmp_path):
    options = settings(epochs=1, out=tmp_path)
    done = train(corpus, 8, **options)
    again = train(corpus, 8, **options, resume=True)
    assert torch.equal(done.model.embeddings, again.model.embeddings)
    assert done.history == again.history


def test_resume_refuses_other_settings_and_broken_files(corpus, tmp_path):
    train(corpus, 8, **settings(epochs=1, out=tmp_path))
    with pytest.raises(InputError, match="epochs = 1, now epochs = 2"):
        train(corpus, 8, **settings(epochs=2, out=tmp_path, resume=True))
    other = Corpus.from_words(["a", "b", "c", "a", "b", "a", "b", "c"] * 9)
    with pytest.raises(InputError, match="corpus ="):
        train(other, 8, **settings(epochs=1, out=tmp_path, resume=True))
    whole = (tmp_path / CHECKPOINT).read_bytes()
    (tmp_path / CHECKPOINT).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged"):
        train(corpus, 8, **settings(epochs=1, out=tmp_path, resume=True))
    with pytest.raises(InputError, match="no checkpoint"):
        train(corpus, 8, **settings(out=tmp_path / "new", resume=True))
    with pytest.raises(InputError, match="give --out"):
        train(corpus, 8, **settings(resume=True))


def test_a_full_disk_keeps_the_last_good_checkpoint(corpus, tmp_path, monkeypatch):
    saves = []

    def full(file, **arrays):
        saves.append(1)
        if len(saves) == 3:
            file.write(b"half")
            raise OSError(28, "No space left on device")
        return savez(file, **arrays)

    savez = np.savez
    monkeypatch.setattr(np, "savez", full)
    options = settings(out=tmp_path, checkpoint_seconds=0)
    with pytest.raises(InputError, match="No space left"):
        train(corpus, 8, **options)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == [CHECKPOINT]
    _, meta = checkpoint.load(tmp_path / CHECKPOINT)
    assert meta["state"]["block"] == 2
    resumed = train(corpus, 8, **options, resume=True)
    assert torch.equal(resumed.model.embeddings, train(corpus, 8, **settings()).model.embeddings)


@pytest.mark.parametrize("engine", ["torch", pytest.param("numba", marks=pytest.mark.skipif(
    fast.numba is None, reason="numba is not installed"))])  # fmt: skip
def test_divergence_is_named(corpus, engine):
    with pytest.raises(InputError, match=r"diverged in epoch 1.*smaller --lr"):
        train(corpus, 4, **settings(lr=1e25, wd=0.0, engine=engine))


@pytest.mark.parametrize("width", [59, "inf"])
def test_threads_change_the_loss_little(corpus, width):
    one, two = (train(corpus, width, **settings(threads=t)).history[-1]["loss"] for t in (1, 2))
    assert two == pytest.approx(one, rel=0.05)


def test_both_kinds_of_negatives_come_to_the_same_loss(corpus):
    losses = {
        kind: train(corpus, 16, **settings(negatives=kind, batch_size=size, epochs=3)).history[-1]["loss"]
        for kind, size in (("shared", 16), ("per-position", 1))
    }
    assert losses["shared"] == pytest.approx(losses["per-position"], rel=0.03)


def test_any_start_can_be_trained(corpus):
    start = CBOW.from_start(torch.eye(60))
    done = train(corpus, 60, **settings(start=start))
    assert done.model is start
    assert torch.equal(start.embeddings, train(corpus, "inf", **settings()).model.embeddings)
    with pytest.raises(InputError, match="rows"):
        train(corpus, 60, **settings(start=CBOW(7, 60)))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(negatives="many"), "unknown negatives"),
        (dict(lr=0.0), "expected lr > 0"),
        (dict(wd=-1.0), "0 <= wd"),
        (dict(window=0), "window 0"),
        (dict(epochs=0), "epochs 0"),
        (dict(threads=0), "threads 0"),
        (dict(subsample=-1.0), "subsampling"),
        (dict(engine="steam"), "unknown engine"),
        (dict(engine="numba", negatives="per-position"), "numba engine needs"),
        (dict(window_gradient="product"), "window gradient"),
    ],
)
def test_settings_that_cannot_work(corpus, options, says):
    with pytest.raises(InputError, match=says):
        train(corpus, 8, **settings(**options))


def test_bfloat16_is_rounded_without_bias():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(300, generator=g) * 10 ** (3 * torch.randn(300, generator=g))
    mean = torch.stack([rounded(x, g).double() for _ in range(4000)]).mean(0)
    spacing = 2.0 ** (x.abs().log2().floor() - 7)
    assert ((mean - x.double()).abs() / spacing).max() < 5 * 0.5 / math.sqrt(4000)
    whole = x.bfloat16()
    assert torch.equal(rounded(whole.float(), g), whole), "what fits is kept"


def test_bfloat16_storage_trains_as_float32_does_and_resumes_to_the_same_bits(corpus, tmp_path, monkeypatch):
    options = settings(epochs=4, engine="torch", checkpoint_seconds=0)
    full = train(corpus, "inf", **options).history
    half = train(corpus, "inf", **options, dtype=torch.bfloat16)
    assert half.model.readout.dtype == torch.bfloat16
    gain = full[0]["loss"] - full[-1]["loss"]
    assert half.history[-1]["loss"] == pytest.approx(full[-1]["loss"], abs=0.05 * gain)
    train(corpus, "inf", **options, dtype=torch.bfloat16, out=tmp_path)
    again = train(corpus, "inf", **options, dtype=torch.bfloat16, out=tmp_path, resume=True)
    assert torch.equal(again.model.readout, half.model.readout)
    # Rounded to nearest, small steps are lost.
    monkeypatch.setattr("tp4lib.word2vec.cbow.rounded", lambda x, generator: x.bfloat16())
    nearest = train(corpus, "inf", **options, dtype=torch.bfloat16).history
    ours, lost = (abs(h[-1]["loss"] - full[-1]["loss"]) for h in (half.history, nearest))
    assert lost > 2 * ours
