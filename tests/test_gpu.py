"""Everything that takes a device, on a pretended GPU: nothing mixes devices, and the numbers are those of the CPU.

Where a real GPU is there, ``make test-gpu`` runs the same cases on it, within the rounding of its sums.
"""

import math
import os

import numpy as np
import pytest
import torch
from torch import nn

from tests import pretend_cuda
from tp4lib import kernels
from tp4lib.base.recorded import Recorded
from tp4lib.coordcheck import check, check_module
from tp4lib.data import drawn_characters, few_shot, images
from tp4lib.linear_limit import LinearLimit
from tp4lib.maml import experiment
from tp4lib.maml import train as maml_train
from tp4lib.maml.settings import MAMLSettings
from tp4lib.nn import MLP, param_groups
from tp4lib.parametrization import mup
from tp4lib.pi_limit import PiMLP
from tp4lib.program import (
    FiniteWidth,
    InfiniteWidth,
    Transformer,
    train_mlp,
    train_resnet,
    train_rnn,
    train_transformer,
)
from tp4lib.scale import scale
from tp4lib.sweep import sweep
from tp4lib.word2vec import Corpus
from tp4lib.word2vec.steps import on_triton
from tp4lib.word2vec.training import train

REAL = os.environ.get("TP4_TEST_GPU") == "1"
X = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
Y = X[:, :1].sign()
CHARACTERS = drawn_characters.draw(classes=8, drawers=4)
TOKENS, TARGETS = torch.tensor([[0, 1, 2], [2, 0, 1]]), torch.tensor([[1, 2, 0], [0, 1, 2]])


def program(train, *data, world=InfiniteWidth, size=1024, **options):
    """Outputs of a program, trained in a world of the device."""

    def on(device, each):
        if not isinstance(each, torch.Tensor):
            return each
        return each.to(device, torch.float64 if each.is_floating_point() else each.dtype)

    def case(device):
        here = [on(device, each) for each in data]
        return train(world(size, 0, device=device), *here, steps=2, **options).outputs

    return case


def pi_limit(device):
    network = PiMLP(3, 1, rank=8, depth=2, device=device)
    for _ in range(3):
        network.loss_step(X.to(device), Y.to(device), lr=0.1)
    return network(X.to(device)).detach()


def linear_limit(device):
    limit = LinearLimit(3, 1, device=device)
    optimizer = torch.optim.SGD(limit.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (limit(X.to(device)) - Y.to(device)).square().mean().backward()
        optimizer.step()
    return limit(X.to(device)).detach()


def perceptron_sweep(device):
    make = lambda seed: MLP(3, 16, 1, mup(2), seed=seed, device=device)  # noqa: E731
    return sweep(make, [0.1, 0.2], [0, 1], X.to(device), Y.to(device), steps=4, batch_size=8).losses


def coordinates(device):
    found = check(mup(1), X, Y, widths=(16, 32, 64), seeds=2, steps=2, device=device)
    return np.array([each.measured for each in found.growth()])


def small(width):
    torch.manual_seed(width)
    return nn.Sequential(
        nn.Linear(3, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)
    )


def square(model, batch):
    x, y = batch
    return (model(x) - y).square().mean()


def module_check(device):
    batches = [(X.to(device), Y.to(device))]
    found = check_module(small, (16, 32, 64), 16, mup(2), square, batches, 0.01, steps=2, seeds=2)
    return torch.tensor(list(found.powers.values()))


def scaled_training(device):
    scaled = scale(small, 32, 16, mup(2))
    model = scaled.model.to(device)
    optimizer = torch.optim.AdamW(scaled.groups(0.01, "adamw", weight_decay=0.1))
    for _ in range(3):
        optimizer.zero_grad()
        square(model, (X.to(device), Y.to(device))).backward()
        optimizer.step()
    return model(X.to(device)).detach()


def word2vec(width, **changes):
    """Embeddings after an epoch of the default settings; torch's step, as a pretended GPU has no Triton."""
    words = np.random.default_rng(0).zipf(1.3, 4000) % 60

    def case(device):
        corpus = Corpus.from_words([f"w{i}" for i in words])
        return train(corpus, width, epochs=1, device=device, engine="torch", **changes).model.embeddings

    return case


def maml(limit, steps=3, **more):
    """Losses of a few meta-steps."""

    def case(device):
        tasks = few_shot.Tasks(CHARACTERS, ways=5, seed=0, device=device)
        model = experiment.learner(MAMLSettings(limit=limit, **more), tasks)[0]
        asked = maml_train.batches(few_shot.Tasks(CHARACTERS, seed=1, device=device), 4)
        history = maml_train.fit(model, tasks, asked, meta_steps=steps, epoch_steps=2, meta_batch=4)
        return torch.tensor([each["loss"] for each in history.epochs])

    return case


CASES = {
    "MAML, linear limit": maml("mup"),
    "MAML, width 8": maml("none", width=8),
    "MAML, NTK": maml("ntk"),
    "MAML, pi-limit": maml("pi", rank=8),
    "Word2Vec, width 16": word2vec(16),
    "Word2Vec, infinity": word2vec(math.inf),
    "Word2Vec, gensim's gradient": word2vec(16, window_gradient="sum"),
    "perceptron, infinity": program(train_mlp, X, Y, mup(2), lr=0.1),
    "perceptron, width n": program(train_mlp, X, Y, mup(2), lr=0.1, world=FiniteWidth, size=64),
    "perceptron, Adam": program(train_mlp, X, Y, mup(2), lr=0.1, optimizer="adam"),
    "perceptron, Stein": program(
        train_mlp, X, Y, mup(2), lr=0.1, world=lambda *a, **k: InfiniteWidth(*a, **k, derivatives="stein")
    ),
    "residual network": program(train_resnet, X[:4], Y[:4], depth=2),
    "recurrent network": program(train_rnn, X.reshape(4, 4, 3), Y[:4]),
    "Transformer": program(train_transformer, TOKENS, TARGETS, Transformer(vocab=3), lr=0.1, size=4096),
    "pi-limit": pi_limit,
    "linear limit": linear_limit,
    "sweep": perceptron_sweep,
    "coordinate check": coordinates,
    "coordinate check of a module": module_check,
    "any module, scaled": scaled_training,
    "NNGP kernel": lambda device: kernels.nngp(X.to(device), X.to(device), 2),
    "NTK": lambda device: kernels.ntk(X.to(device), X.to(device), 2),
}


def on_host(found):
    return found.cpu().numpy() if isinstance(found, torch.Tensor) else np.asarray(found)


@pytest.mark.parametrize("case", CASES)
def test_the_numbers_on_a_gpu_are_those_of_the_cpu(case):
    expected = on_host(CASES[case]("cpu"))
    assert np.isfinite(expected).all()
    if REAL:
        np.testing.assert_allclose(on_host(CASES[case]("cuda")), expected, rtol=1e-4, atol=1e-4)
        return
    with pretend_cuda.device() as gpu:
        found = on_host(CASES[case]("cuda"))
    assert gpu.launches, "nothing ran on the device"
    np.testing.assert_array_equal(found, expected)


@pytest.mark.skipif(REAL, reason="the same as cuda")
@pytest.mark.parametrize(
    "make",
    [
        lambda: PiMLP(3, 1, rank=8, depth=1, device="auto").U,
        lambda: LinearLimit(3, 1, device="auto").U,
        lambda: MLP(3, 8, 1, mup(2), device="auto").layers[0].weight,
        lambda: few_shot.Tasks(CHARACTERS, device="auto").table,
        lambda: images.load("digits", device="auto").train_x,
    ],
)
def test_auto_is_the_gpu_where_there_is_one(make):
    with pretend_cuda.device():
        assert make().is_cuda
    assert make().device.type == "cpu"


@pytest.mark.skipif(REAL, reason="the same as cuda")
def test_a_check_of_coordinates_runs_on_auto():
    np.testing.assert_array_equal(coordinates("auto"), coordinates("cpu"))


# ---- How often the host launches and waits. Bounds for the hot loops; a new wait in one of them is a new line here.


def counted(act, times):
    """Launches and waits a repetition, without those of the first: set-up is another matter."""
    with pretend_cuda.device() as gpu:
        step = act()
        step()
        gpu.reset()
        for _ in range(times):
            step()
        return gpu.launches.total() / times, gpu.waits.total() / times, dict(gpu.waits)


def meta_step():
    tasks = few_shot.Tasks(CHARACTERS, seed=0, device="cuda")
    model = experiment.learner(MAMLSettings(limit="mup"), tasks)[0]
    step = maml_train.outer_step_of(model, tasks, maml_train.Schedule(meta_batch=4))
    return lambda: step(tasks.batch(4))


def perceptron_step():
    model = MLP(3, 16, 1, mup(2), seed=0, device="cuda")
    optimizer = torch.optim.Adam(param_groups(model, 0.1, "adam"), foreach=True)
    x, y = X.to("cuda"), Y.to("cuda")

    def step():
        optimizer.zero_grad()
        square(model, (x, y)).backward()
        optimizer.step()

    return step


@pytest.mark.skipif(REAL, reason="of the pretended device")
@pytest.mark.parametrize(
    ("act", "launches", "waits"),
    [(meta_step, 12, 0), (perceptron_step, 100, 0)],
    ids=["MAML", "muP with Adam"],
)
def test_hot_loops_launch_little_and_do_not_wait(act, launches, waits):
    launched, waited, where = counted(act, 10)
    assert launched <= launches
    assert waited <= waits, where


@pytest.mark.skipif(REAL, reason="of the pretended device")
def test_a_sweep_waits_twice_a_step():
    """For the losses, which decide who has diverged, and with the batch."""
    make = lambda seed: MLP(3, 16, 1, mup(2), seed=seed, device="cuda")  # noqa: E731
    waits = []
    for steps in (4, 14):
        with pretend_cuda.device() as gpu:
            x, y = X.to("cuda"), Y.to("cuda")
            gpu.reset()
            sweep(make, [0.1, 0.2], [0, 1], x, y, steps=steps, batch_size=8, optimizer="adam")
            waits.append(gpu.waits.total())
    assert waits[1] - waits[0] <= 2 * 10


@pytest.mark.skipif(REAL, reason="of the pretended device")
def test_without_a_compiler_word2vec_goes_on_and_says_so(monkeypatch, capsys):
    monkeypatch.setattr(on_triton, "lacking", lambda: "a C compiler (gcc or clang)")
    corpus = Corpus.from_words([f"w{i % 7}" for i in range(300)])
    with pretend_cuda.device():
        train(corpus, 4, epochs=1, device="cuda")
    line = capsys.readouterr().err
    assert "need a C compiler (gcc or clang); going on with torch's step" in line


@pytest.mark.skipif(REAL, reason="of the pretended device")
def test_a_recorded_step_does_what_the_step_does():
    with pretend_cuda.device() as gpu:
        total, x = torch.zeros(3, device="cuda"), torch.ones(3, device="cuda")

        def step(x):
            total.add_(x * 2)
            return total.sum()

        recorded = Recorded(step, [x], [total])
        assert total.tolist() == [0.0, 0.0, 0.0]
        losses = [recorded(x), recorded(3 * x)]
        assert [float(loss) for loss in losses] == [6.0, 24.0]
        assert total.tolist() == [8.0, 8.0, 8.0]
        gpu.reset()
        recorded(x)
        assert gpu.launches.total() == 3  # a copy, the graph, a copy
        calls = []

        def waits(x):
            calls.append(x)
            return x * float(x.sum()) if len(calls) > 3 else x  # only while it is captured

        with pytest.raises(RuntimeError, match="capturing"):
            Recorded(waits, [x], [])


# ---- The pretended device itself


def refused(act):
    with pretend_cuda.device(), pytest.raises((RuntimeError, TypeError)) as caught:
        act(torch.ones(3, device="cuda"))
    return str(caught.value)


@pytest.mark.skipif(REAL, reason="of the pretended device")
@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda x: x + torch.ones(3), "at least two devices"),
        (lambda x: x @ torch.ones(3, 2), "at least two devices"),
        (lambda x: torch.ones(3)[x.long()], "indices should be"),
        (lambda x: x.numpy(), "can't convert cuda:0"),
        (lambda x: np.asarray(x), "can't convert cuda:0"),
        (lambda x: x.pin_memory(), "cannot pin"),
        (
            lambda x: torch.randn(3, device="cuda", generator=torch.Generator()),
            "'cuda' device type for generator",
        ),
        (lambda x: torch.randn(3, generator=torch.Generator("cuda")), "'cpu' device type for generator"),
        (lambda x: x.normal_(generator=torch.Generator()), "'cuda' device type for generator"),
    ],
)
def test_the_pretended_device_refuses_what_a_real_one_does(act, words):
    assert words in refused(act)


@pytest.mark.skipif(REAL, reason="of the pretended device")
def test_the_pretended_device_counts():
    with pretend_cuda.device() as gpu:
        x = torch.ones(1000, device="cuda")
        assert (gpu.launches["fill_"] or gpu.launches["ones"], sum(gpu.waits.values())) == (1, 0)
        y = x * 2 + 1
        assert (sum(gpu.launches.values()), sum(gpu.waits.values()), gpu.live) == (3, 0, 8000)
        assert gpu.peak == 12_000  # x, 2 x and their sum with 1 at once
        assert float(y.sum()) == 3000
        assert sum(gpu.waits.values()) == 1
        assert y.cpu().device.type == "cpu"
        assert sum(gpu.waits.values()) == 2
        assert y.view(10, 100).T.shape == (100, 10)  # a view launches nothing and holds nothing
        assert gpu.live == 8000
        del x, y
        assert gpu.live == 0
    assert not torch.cuda.is_available() or math.isfinite(1)
    assert torch.ones(1).device.type == "cpu"
