"""Training runs: what they record, and that a run cut short at any place comes to the same numbers."""

import math
import types

import numpy as np
import pytest
import torch

from tp4lib.base import checkpoint
from tp4lib.base.errors import InputError
from tp4lib.word2vec import CBOW, Corpus, checkpoints
from tp4lib.word2vec import model as cbow
from tp4lib.word2vec import training as train_module
from tp4lib.word2vec.checkpoints import BEFORE, CHECKPOINT
from tp4lib.word2vec.steps import on_numba as fast
from tp4lib.word2vec.steps.on_torch import rounded
from tp4lib.word2vec.training import train


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
            chosen, *_ = train_module.choose("auto", unbroken.model, _sampler(corpus, options), 1)

            def steps(*arguments, blocks=blocks, killed_at=killed_at, chosen=chosen):
                blocks.append(1)
                if len(blocks) == killed_at:
                    raise Stop
                return chosen(*arguments)

            patch.setattr(train_module, "choose", lambda *_, steps=steps: (steps, 1, 1))
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


@pytest.mark.parametrize(("small", "left"), [(True, 2), (False, 0)])
def test_a_large_checkpoint_is_left_out_until_it_is_due(corpus, tmp_path, monkeypatch, small, left):
    """One comes after every epoch where it is small; where it is large, once twenty times its time has passed."""
    saves = []
    monkeypatch.setattr(checkpoints, "SMALL", 1 << 30 if small else 0)
    monkeypatch.setattr(checkpoints, "DISK", 1.0)  # bytes a second
    monkeypatch.setattr(checkpoints.Keeper, "save", lambda *_: saves.append(1))
    train(corpus, 8, **settings(epochs=2, out=tmp_path))
    assert len(saves) == left


def test_checkpoints_take_a_twentieth_of_the_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])
    pace = checkpoints.Pace(180.0, size=37 << 30)  # 79 s on the disk that is expected
    written, times = 0, []
    while now[0] < 1e5:
        now[0] += 1.0
        if pace.due():
            times.append(now[0])
            with pace.writing():
                now[0] += 200.0
            written += 200
    assert 20 * (37 << 30) / checkpoints.DISK < times[0] < 1600
    assert written < now[0] / 20 + 200
    few = checkpoints.Pace(180.0, size=200 << 20)  # 0.4 s
    assert not few.affordable()
    now[0] += 10
    assert few.affordable()
    assert not few.due()
    assert checkpoints.Pace(180.0, size=1 << 20).affordable()


def test_a_full_disk_keeps_the_last_good_checkpoint(corpus, tmp_path, monkeypatch):
    saves = []

    def full(member, x):
        saves.append(1)
        if len(saves) == 3 * 3:  # in the last array of the third checkpoint
            member.write(b"half")
            raise OSError(28, "No space left on device")
        write(member, x)

    write = checkpoint._write
    monkeypatch.setattr(checkpoint, "_write", full)
    options = settings(out=tmp_path, checkpoint_seconds=0)
    with pytest.raises(InputError, match="No space left"):
        train(corpus, 8, **options)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == [CHECKPOINT]
    _, meta = checkpoint.load(tmp_path / CHECKPOINT)
    assert meta["state"]["block"] == 2
    resumed = train(corpus, 8, **options, resume=True)
    assert torch.equal(resumed.model.embeddings, train(corpus, 8, **settings()).model.embeddings)


def stopped(corpus, folder, patch, after: int = 4, **more):
    """A run that is cut short after some blocks, and so leaves two checkpoints."""
    chosen, blocks = fast.numba_steps if fast.numba else cbow.torch_steps, []

    def steps(*arguments):
        if len(blocks) == after:
            raise Stop
        blocks.append(1)
        return chosen(*arguments)

    with patch.context() as inner:
        inner.setattr(train_module, "choose", lambda *_: (steps, 1, 1))
        with pytest.raises(Stop):
            train(corpus, 8, **settings(out=folder, checkpoint_seconds=0, **more))


@pytest.mark.parametrize("harm", ["cut short", "a bit turned", "missing", "a bit in the header"])
def test_a_damaged_checkpoint_is_left_for_the_one_before(corpus, tmp_path, monkeypatch, capsys, harm):
    stopped(corpus, tmp_path, monkeypatch)
    assert sorted(p.name for p in tmp_path.iterdir()) == [BEFORE, CHECKPOINT]
    newest = tmp_path / CHECKPOINT
    data = bytearray(newest.read_bytes())
    if harm == "missing":  # killed between the two renames
        newest.unlink()
    else:
        data[len(data) // 2 if harm == "a bit turned" else 200] ^= 1
        newest.write_bytes(data[: len(data) // 2] if harm == "cut short" else data)
    resumed = train(corpus, 8, **settings(out=tmp_path, checkpoint_seconds=0, resume=True))
    said = capsys.readouterr().err
    assert (said.count("\n"), "is damaged" in said) == ((0, False) if harm == "missing" else (1, True)), said
    assert torch.equal(resumed.model.embeddings, train(corpus, 8, **settings()).model.embeddings)
    assert [p.name for p in tmp_path.iterdir()] == [CHECKPOINT], "a finished run keeps one"


def test_when_both_are_damaged_one_line_says_so(corpus, tmp_path, monkeypatch):
    stopped(corpus, tmp_path, monkeypatch)
    for name in (CHECKPOINT, BEFORE):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-40])
    with pytest.raises(InputError, match="is damaged") as caught:
        train(corpus, 8, **settings(out=tmp_path, resume=True))
    assert "\n" not in str(caught.value)


def test_the_one_before_is_of_the_same_run_or_refused(corpus, tmp_path, monkeypatch):
    train(corpus, 8, **settings(epochs=1, out=tmp_path))
    stopped(corpus, tmp_path, monkeypatch, after=1)
    whole = (tmp_path / CHECKPOINT).read_bytes()
    (tmp_path / CHECKPOINT).write_bytes(whole[:-40])
    with pytest.raises(InputError, match="epochs = 1, now epochs = 2"):
        train(corpus, 8, **settings(out=tmp_path, resume=True))


def test_what_a_killed_writer_left_is_removed(corpus, tmp_path):
    (tmp_path / f".{CHECKPOINT}.abc.part").write_bytes(b"half")
    train(corpus, 8, **settings(epochs=1, out=tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == [CHECKPOINT]


def test_a_checkpoint_is_streamed_into_place(tmp_path, monkeypatch):
    """Rows that are not side by side, many pieces, every dtype; and arrays that do not fit are refused."""
    monkeypatch.setattr(checkpoint, "_PIECE", 100)
    g = torch.Generator().manual_seed(0)
    whole = torch.randn(37, 12, generator=g)
    saved = {"a": whole[:, :9], "b": whole.double(), "c": whole.to(torch.int16), "d": torch.tensor(3.0)}
    checkpoint.save(tmp_path / "x", saved, {"n": 1})
    with np.load(tmp_path / "x") as file:  # what it writes is an ordinary npz
        assert np.array_equal(file["a"], whole[:, :9].numpy())
    room = torch.zeros(37, 16)
    into = {"a": room[:, 2:11], "b": torch.zeros(37, 12, dtype=torch.float64)}
    arrays, meta = checkpoint.load(tmp_path / "x", into)
    assert meta == checkpoint.load_meta(tmp_path / "x") == {"n": 1}
    assert torch.equal(room[:, 2:11], whole[:, :9])
    assert not room[:, :2].any()
    assert not room[:, 11:].any()
    assert torch.equal(into["b"], saved["b"])
    assert np.array_equal(arrays["c"], saved["c"].numpy())
    assert arrays["d"].shape == ()
    for wrong in (torch.zeros(37, 8), torch.zeros(37, 9, dtype=torch.float64), torch.zeros(36, 9)):
        with pytest.raises(checkpoint.DamagedCheckpoint):
            checkpoint.load(tmp_path / "x", {"a": wrong})
    with pytest.raises(checkpoint.DamagedCheckpoint):
        checkpoint.load(tmp_path / "x", {"e": torch.zeros(1)})


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
        (dict(lr=0.0), "lr = 0.0"),
        (dict(lr=math.nan), "lr = nan"),
        (dict(lr=math.inf), "lr = inf"),
        (dict(lr=True), "lr = True"),
        (dict(wd=-1.0), "wd = -1.0"),
        (dict(wd=math.nan), "wd = nan"),
        (dict(wd=21.0), "wd < 1 / lr"),
        (dict(input_rate=-1.0), "input_rate = -1.0"),
        (dict(window=0), "window = 0"),
        (dict(window=True), "window = True"),
        (dict(window=2.5), "window = 2.5"),
        (dict(epochs=0), "epochs = 0"),
        (dict(epochs=10**30), "epochs = 1000"),
        (dict(batch_size=1.5), "batch_size = 1.5"),
        (dict(shared_negatives=0), "shared_negatives = 0"),
        (dict(num_negatives="5"), "num_negatives = '5'"),
        (dict(threads=0), "threads = 0"),
        (dict(seed=-1), "seed = -1"),
        (dict(seed=2**63), "seed = 9223"),
        (dict(checkpoint_seconds=math.nan), "checkpoint_seconds = nan"),
        (dict(subsample=-1.0), "subsample = -1.0"),
        (dict(subsample=math.nan), "subsample = nan"),
        (dict(dtype=torch.float16), "dtype torch.float16"),
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
    monkeypatch.setattr("tp4lib.word2vec.steps.on_torch.rounded", lambda x, generator: x.bfloat16())
    nearest = train(corpus, "inf", **options, dtype=torch.bfloat16).history
    ours, lost = (abs(h[-1]["loss"] - full[-1]["loss"]) for h in (half.history, nearest))
    assert lost > 2 * ours


def test_gensims_gradient_draws_more_negatives(corpus):
    drawn = {
        (gradient, batch): train(corpus, 4, epochs=1, window_gradient=gradient, batch_size=batch).settings[
            "shared_negatives"
        ]
        for gradient in ("mean", "sum")
        for batch in (32, 10)
    }
    assert drawn == {("mean", 32): 24, ("mean", 10): 8, ("sum", 32): 96, ("sum", 10): 30}
