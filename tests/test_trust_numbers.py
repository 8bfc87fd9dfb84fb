"""Overflow, NaN and divergence are noticed at the step they happen, named, and leave the last good checkpoint."""

import copy
import math
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.base.test_hostile_files import refused, tried
from tp4lib.base import checkpoint
from tp4lib.base.divergence import Diverged
from tp4lib.data import drawn_characters as synthetic
from tp4lib.data import omniglot
from tp4lib.maml import kernel_fomaml, models
from tp4lib.maml import pi_fomaml as pi
from tp4lib.maml import train as maml_train
from tp4lib.maml.fomaml import LinearFOMAML
from tp4lib.maml.reference import ReferenceMAML
from tp4lib.nn import MLP
from tp4lib.parametrization import mup, ntp
from tp4lib.pi_limit.network import PiMLP
from tp4lib.program import FiniteWidth, InfiniteWidth, train_mlp, train_rnn
from tp4lib.sweep import sweep
from tp4lib.word2vec import CBOW, Corpus
from tp4lib.word2vec import training as w2v
from tp4lib.word2vec.checkpoints import CHECKPOINT
from tp4lib.word2vec.steps import on_numba as fast
from tp4lib.word2vec.steps.on_torch import require_finite, torch_steps

numba = pytest.param("numba", marks=pytest.mark.skipif(fast.numba is None, reason="numba is not installed"))
ENGINES = ["torch", numba]
BAD = [math.nan, math.inf, -math.inf]


# -- word2vec ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    rng = np.random.default_rng(0)
    return Corpus.from_words([f"w{i}" for i in np.minimum(rng.zipf(1.3, 4000) - 1, 39)])


def options(**more):
    return dict(epochs=2, subsample=0, window=3, num_negatives=5, device="cpu", checkpoint_seconds=0) | more


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("negatives", ["shared", "per-position"])
@pytest.mark.parametrize(("width", "lr"), [(4, 1e3), (4, 1e12), (4, 1e30), ("inf", 1e6)])
def test_word2vec_at_rates_that_are_too_large(corpus, tmp_path, short_blocks, engine, negatives, width, lr):
    size = {"batch_size": 1} if negatives == "per-position" else {}
    settings = options(lr=lr, wd=0.0, engine=engine, negatives=negatives, out=tmp_path, **size)
    line = refused(
        r"diverged in epoch \d, in block \d of 4: (the loss of step \d+ of \d+ is|the \w+ are no longer finite)"
        r".*try a smaller --lr",
        w2v.train, corpus, width, **settings,
    )  # fmt: skip
    if lr >= 1e12 and (step := re.search(r"step (\d+) of (\d+)", line)):
        assert int(step[1]) < int(step[2])  # the first such step, not the end of the block
    for path in tmp_path.iterdir():  # whatever was kept on the way is good
        arrays, _ = checkpoint.load(path)
        assert all(np.isfinite(array).all() for array in arrays.values())


def poisoned(steps, matrix, value, at):
    """The engine, which after block ``at`` of the run leaves one wrong number in a word's row, loss and all."""
    calls = []

    def wrapped(model, block, settings, **more):
        result = steps(model, block, settings, **more)
        calls.append(1)
        if len(calls) == at:
            getattr(model, matrix)[int(block.tokens[0]), 1] = value
        return result

    return wrapped


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("matrix", ["embeddings", "readout"])
@pytest.mark.parametrize("value", BAD)
def test_word2vec_with_one_wrong_number(corpus, tmp_path, monkeypatch, short_blocks, engine, matrix, value):
    """Noticed in its block, though the loss does not show it; the checkpoint before it is good."""
    settings = options(engine=engine, out=tmp_path)
    steps = torch_steps if engine == "torch" else fast.numba_steps
    with monkeypatch.context() as patch:
        patch.setattr(w2v, "choose", lambda *_: (poisoned(steps, matrix, value, 3), 1, 1))
        says = f"diverged in epoch 1, in block 3 of 4: the {matrix} are no longer finite"
        refused(says, w2v.train, corpus, 6, **settings)
    arrays, meta = checkpoint.load(tmp_path / CHECKPOINT)
    assert meta["state"]["block"] == 2
    assert all(np.isfinite(array).all() for array in arrays.values())
    # From there it goes on to the numbers of a run without the fault.
    resumed = w2v.train(corpus, 6, **settings, resume=True).model
    assert torch.equal(resumed.embeddings, w2v.train(corpus, 6, **options(engine=engine)).model.embeddings)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("matrix", ["embeddings", "readout"])
def test_word2vec_at_the_edge_of_float32(corpus, tmp_path, engine, matrix):
    """Rows of 3e38 are finite, their products are not: refused, or trained on without anything that is not finite."""
    start = CBOW(40, 6)
    getattr(start, matrix).fill_(3e38)
    trained, line = tried(w2v.train, corpus, 6, **options(engine=engine, start=start, out=tmp_path))
    assert "diverged in epoch 1" in line or torch.isfinite(trained.model.readout).all()
    for path in tmp_path.iterdir():
        assert all(np.isfinite(array).all() for array in checkpoint.load(path)[0].values())


@pytest.mark.parametrize("matrix", ["embeddings", "readout"])
def test_what_is_not_finite_in_the_rows_of_a_block_is_seen(corpus, matrix):
    look = require_finite
    block = w2v.Sampler(corpus.vocab, corpus.ids[:50], batch_size=8, shared=4, subsample=0).block(0, 0)
    model = CBOW(40, 6)
    look(model, block)
    getattr(model, matrix)[int(block.tokens[-1])] = 3e38  # the row is finite, its sum is not
    look(model, block)
    for value in BAD:
        getattr(model, matrix)[int(block.tokens[-1]), 5] = value
        with pytest.raises(Diverged, match=f"the {matrix} are no longer finite"):
            look(model, block)


def test_a_hidden_infinity_in_bfloat16_is_noticed(corpus, tmp_path, monkeypatch, short_blocks):
    monkeypatch.setattr(w2v, "choose", lambda *_: (poisoned(torch_steps, "readout", math.inf, 2), 1, 1))
    settings = options(engine="torch", dtype=torch.bfloat16, out=tmp_path)
    refused("in block 2 of 4: the readout are no longer finite", w2v.train, corpus, 6, **settings)
    assert checkpoint.load(tmp_path / CHECKPOINT)[1]["state"]["block"] == 1


@pytest.mark.parametrize("value", BAD)
def test_a_start_that_is_not_finite(corpus, value):
    start = CBOW.from_start(torch.eye(40))
    start.readout[3, 3] = value
    refused("start holds numbers that are not finite", w2v.train, corpus, 40, **options(start=start))


@pytest.mark.parametrize("lr", [math.nan, math.inf, -1.0, 0.0])
@pytest.mark.parametrize("name", ["lr", "wd", "subsample"])
def test_settings_that_are_no_numbers(corpus, name, lr):
    if (name, lr) in (("wd", 0.0), ("subsample", 0.0), ("subsample", math.inf)):
        return  # these mean something
    refused("expected", w2v.train, corpus, 4, **options(**{name: lr}))


# -- MAML -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images():
    return synthetic.draw(classes=12, drawers=4)


def learners(images, lr):
    tasks = omniglot.Tasks(images)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(784, 8), torch.nn.ReLU(), torch.nn.Linear(8, 5))
    return {
        "width 8": lambda: LinearFOMAML(models.linear_network(8), lr=lr),
        "infinite": lambda: LinearFOMAML(models.linear_network(math.inf), lr=lr),
        "gp": lambda: kernel_fomaml.kernel_learner("gp", "linear", tasks, lr=lr),
        "ntk": lambda: kernel_fomaml.kernel_learner("ntk", "linear", tasks, lr=lr),
        "relu gp": lambda: kernel_fomaml.kernel_learner("gp", "relu", tasks, lr=lr),
        "pi": lambda: pi.pi_learner(rank=12, chosen=replace(pi.HYPERPARAMETERS, lr=lr)),
        "pi, deep": lambda: pi.pi_learner(rank=12, depth=2, chosen=replace(pi.HYPERPARAMETERS, lr=lr)),
        "general": lambda: ReferenceMAML(copy.deepcopy(net), lr=lr),
    }


KINDS = ["width 8", "infinite", "gp", "ntk", "relu gp", "pi", "pi, deep", "general"]


def fitted(model, images, path, **more):
    tasks = omniglot.Tasks(images)
    questions = maml_train.batches(omniglot.Tasks(images, seed=1), 8)
    return maml_train.fit(
        model, tasks, questions, meta_steps=12, epoch_steps=4, meta_batch=4, save_to=path, **more
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lr", [1e20, 1e38])
def test_maml_at_rates_that_are_too_large(images, tmp_path, kind, lr):
    model = learners(images, lr)[kind]()
    history, line = tried(fitted, model, images, tmp_path / "c.npz")
    if line:
        assert "\n" not in line
        assert "finite" in line
        assert "--lr" in line
    else:  # it has kept its best epoch, and says why it ended
        assert "the query loss rose to" in history.stopped
    assert (
        all(torch.isfinite(value).all() for value in model.state_dict().values())
        or not (tmp_path / "c.npz").exists()
    )
    if (tmp_path / "c.npz").exists():
        arrays, _ = checkpoint.load(tmp_path / "c.npz")
        assert all(np.isfinite(a).all() for a in arrays.values() if a.dtype.kind == "f")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("at", [6, 8])
def test_maml_with_one_wrong_number(images, tmp_path, kind, value, at):
    """Put into a parameter after a meta-step: seen in the next loss, or at the latest when the epoch ends."""
    model, steps = learners(images, 0.01)[kind](), []

    def step(batch):
        loss = type(model).outer_step(model, batch)
        steps.append(1)
        if len(steps) == at:
            next(v for v in model.state_dict().values() if v.numel()).view(-1)[0] = value
        return loss

    model.outer_step = step
    line = refused(r"diverged in epoch 2: .*try a smaller --lr", fitted, model, images, tmp_path / "c.npz")
    assert any(f"at meta-step {n};" in line for n in (at, min(at + 1, 8), 8))
    _, meta = checkpoint.load(tmp_path / "c.npz")
    assert [row["meta_steps"] for row in meta["history"]["epochs"]] == [4]
    resumed = learners(images, 0.01)[kind]()
    history = fitted(resumed, images, tmp_path / "c.npz", resume=True)
    whole = learners(images, 0.01)[kind]()
    assert [row["loss"] for row in fitted(whole, images, tmp_path / "w.npz").epochs] == [
        row["loss"] for row in history.epochs
    ]


@pytest.mark.parametrize("kind", ["infinite", "gp", "pi"])
def test_answers_that_are_no_numbers_are_no_accuracy(images, kind):
    model = learners(images, 0.01)[kind]()
    for value in model.state_dict().values():
        value.fill_(math.nan)
    if kind == "gp":
        model._forget()
    refused("logits of a task are not finite", model.evaluate, omniglot.Tasks(images).batch(3), 20)


# -- pi-limits, programs, sweeps ------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "quadratic", "identity"])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("lr", [1e10, 1e30, 3e38])
def test_a_pi_limit_is_left_as_it_was_before_the_step_that_overflows(activation, depth, lr):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(6, 3, generator=g), torch.randn(6, 2, generator=g)
    net = PiMLP(3, 2, 8, depth, activation, sigma_out=1.0, bias_scale=0.5)
    for _ in range(40):
        before = {name: value.clone() for name, value in net.state_dict().items()}
        if line := tried(net.loss_step, x, y, lr)[1]:
            break
    assert re.search("(finite|diverged).*smaller lr than", line)
    after = net.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(torch.isfinite(value).all() for value in after.values())


@pytest.mark.parametrize("where", ["x", "y"])
def test_a_pi_limit_given_nan(where):
    net = PiMLP(3, 2, 8, 1)
    data = {"x": torch.ones(4, 3), "y": torch.ones(4, 2)}
    data[where][1, 1] = math.nan
    refused("the loss is nan|U is no longer finite", net.loss_step, data["x"], data["y"], 0.1)
    assert len(net.layers[0]) == 0
    assert torch.isfinite(net.U).all()


@pytest.mark.parametrize("world", [FiniteWidth(20), InfiniteWidth(4000)])
@pytest.mark.parametrize("activation", ["relu", "identity", "tanh"])
def test_programs_name_the_step(world, activation):
    xi, y = torch.eye(2, dtype=torch.float64), torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    for parametrization in (mup(2), ntp(2)):
        refused(
            r"diverged in step \d+ of 40: .*smaller lr than 1e\+200",
            train_mlp, world, xi, y, parametrization, activation=activation, lr=1e200, steps=40,
        )  # fmt: skip
    if activation == "identity":
        more = dict(activation=activation, lr=1e200, steps=40)
        refused(r"diverged in step \d+ of 40", train_rnn, world, xi[..., None], y, **more)
    xi[0, 0] = math.nan
    refused("xi holds numbers that are NaN", train_mlp, world, xi, y, mup(1), steps=3)


def test_sweeps_name_the_step_and_refuse_nan():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(32, 4, generator=g), torch.randn(32, 1, generator=g)

    def run(x, y, rates, **more):
        make = lambda seed: MLP(4, 16, 1, mup(2), seed=seed)  # noqa: E731
        return sweep(make, rates, [0, 1], x, y, steps=15, batch_size=8, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = run(x, y, [0.01, 1e6, 1e30, 3e38])
    assert found.stable.tolist() == [[True] * 2] + [[False] * 2] * 3
    assert (found.diverged_at[1:] >= 1).all()
    assert (found.diverged_at[1:] <= 3).all()
    assert not np.isnan(found.losses).any()
    for value in (math.nan, math.inf):
        for bad in (x, y):
            kept = bad[3, 0].clone()
            bad[3, 0] = value
            refused("not finite", run, x, y, [0.1])
            bad[3, 0] = kept


# -- checkpoints ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", BAD)
def test_no_checkpoint_is_written_with_a_number_that_is_not_finite(tmp_path, dtype, value):
    good, path = np.ones((3, 5), dtype), tmp_path / "c.npz"
    checkpoint.save(path, {"x": good, "ids": np.arange(3)}, {"epoch": 1})
    before = path.read_bytes()
    bad = good.copy()
    bad[2, 4] = value
    for array in (bad, torch.from_numpy(bad)):
        refused("x is no longer finite", checkpoint.save, path, {"x": array}, {"epoch": 2})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c.npz"]
