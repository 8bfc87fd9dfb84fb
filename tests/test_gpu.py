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
from tp4lib.coordcheck import check, check_module
from tp4lib.linear_limit import LinearLimit
from tp4lib.nn import MLP
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
from tp4lib.word2vec.training import train

REAL = os.environ.get("TP4_TEST_GPU") == "1"
X = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
Y = X[:, :1].sign()
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


CASES = {
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
