"""The Transformer program: at finite width torch's own network trained by torch.optim; at infinity its limit."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tp4lib.base.divergence import Diverged
from tp4lib.base.errors import InputError
from tp4lib.program import (
    SGD,
    Adam,
    FiniteWidth,
    InfiniteWidth,
    Transformer,
    estimate,
    fitted_power,
    train_transformer,
)

GENERATOR = torch.Generator().manual_seed(3)
TEXT = torch.randint(4, (3, 5), generator=GENERATOR)
TOKENS, TARGETS = TEXT[:, :-1], TEXT[:, 1:]


class Block(nn.Module):
    """Attention by torch's own kernel, heads of the full width, logits over n."""

    def __init__(self, n, heads, activation):
        super().__init__()
        self.heads, self.activation = heads, activation
        self.q, self.k, self.v = (nn.Linear(n, heads * n, bias=False) for _ in range(3))
        self.o = nn.Linear(heads * n, n, bias=False)
        self.up, self.down = nn.Linear(n, n, bias=False), nn.Linear(n, n, bias=False)

    def forward(self, x, branch):
        q, k, v = (w(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for w in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1 / x.shape[-1])
        x = x + branch * self.o(mixed.transpose(1, 2).flatten(2))
        return x + branch * self.down(self.activation(self.up(x)))


class Network(nn.Module):
    """An ordinary decoder in muP: the readout's multiplier is 1/n, all else is in the start and the rates."""

    def __init__(self, n, shape, length):
        super().__init__()
        self.n, self.branch = n, shape.branch
        self.tokens, self.positions = nn.Embedding(shape.vocab, n), nn.Embedding(length, n)
        activation = {"tanh": torch.tanh, "relu": F.relu}[shape.activation]
        self.blocks = nn.ModuleList(Block(n, shape.heads, activation) for _ in range(shape.depth))
        self.readout = nn.Linear(n, shape.vocab, bias=False)
        if shape.tied:
            self.readout.weight = self.tokens.weight
        self.double()

    def forward(self, tokens):
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x, self.branch)
        return self.readout(x) / self.n

    def groups(self, lr, decay=0.0, eps=None, adam=False):
        """muP's rates: vectors n eta and matrices eta for SGD, eta and eta / n for Adam."""
        vectors = [self.tokens.weight, self.positions.weight]
        vectors += [] if self.readout.weight is self.tokens.weight else [self.readout.weight]
        matrices = list(self.blocks.parameters())
        found = []
        for params, rate in ((vectors, lr if adam else lr * self.n), (matrices, lr / self.n if adam else lr)):
            found.append({"params": params, "lr": rate, "weight_decay": decay * lr / rate})
            if eps is not None:
                found[-1]["eps"] = eps / self.n
        return found


def initialize(network, n, shape, seed):
    """The numbers that the program draws in FiniteWidth(n, seed), or muP's own start for seed=None."""
    if seed is None:
        with torch.no_grad():
            for name, weight in network.named_parameters():
                weight.normal_(std=n**-0.5 if "blocks" in name else 1.0)
        return
    world, length = FiniteWidth(n, seed), network.positions.weight.shape[0]
    E = world.gaussian(shape.std[0], count=shape.vocab + length).values
    with torch.no_grad():
        network.tokens.weight.copy_(E[: shape.vocab])
        network.positions.weight.copy_(E[shape.vocab :])
        for block in network.blocks:

            def draw():
                ((_, part),) = world.matrix(shape.std[1])._parts.values()
                return part.entries

            for h in range(shape.heads):
                rows = slice(h * n, (h + 1) * n)
                for linear in (block.q, block.k, block.v):
                    linear.weight[rows] = draw()
                block.o.weight[:, rows] = draw()
            block.up.weight.copy_(draw())
            block.down.weight.copy_(draw())
        if not shape.tied:
            network.readout.weight.copy_(world.gaussian(shape.std[2], count=shape.vocab).values)


def ordinary(n, shape, optimizer, steps, seed=None, batches=None, targets=TARGETS):
    """Logits (steps + 1, S, K, vocab) of an ordinary network, trained by autograd and torch.optim."""
    network = Network(n, shape, TOKENS.shape[1])
    initialize(network, n, shape, seed)
    optimizer, outputs = optimizer(network), []
    for step in range(steps + 1):
        outputs.append(network(TOKENS).detach())
        if step < steps:
            rows = slice(None) if batches is None else batches[step]
            loss = F.cross_entropy(network(TOKENS[rows]).flatten(0, 1), targets[rows].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return torch.stack(outputs)


RULES = {
    "sgd": ("sgd", lambda net: torch.optim.SGD(net.groups(0.4))),
    "momentum": (
        SGD(momentum=0.8, weight_decay=0.05),
        lambda net: torch.optim.SGD(
            # Coupled decay is part of the gradient, which is 1/n of the program's.
            [g | {"weight_decay": 0.05 * 0.4 / g["lr"]} for g in net.groups(0.4)],
            momentum=0.8,
        ),
    ),
    "adam": (
        Adam(eps=1e-4),
        lambda net: torch.optim.Adam(net.groups(0.05, eps=1e-4, adam=True)),
    ),
    "adamw": (
        Adam(betas=(0.8, 0.95), eps=1e-4, weight_decay=0.3),
        lambda net: torch.optim.AdamW(net.groups(0.05, 0.3, 1e-4, adam=True), betas=(0.8, 0.95)),
    ),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(
    "shape",
    [
        Transformer(vocab=4),
        Transformer(vocab=5, heads=2, depth=2, branch=0.7, activation="relu", std=(0.8, 1.1, 0.6)),
        Transformer(vocab=4, heads=3, tied=True),
    ],
    ids=["plain", "heads and depth", "tied"],
)
def test_at_finite_width_the_program_is_torchs_network(name, shape):
    rule, optimizer = RULES[name]
    batches = [[0, 1], [2], [0, 1, 2]]
    for rows in (None, batches):
        found = train_transformer(
            FiniteWidth(24, seed=1), TOKENS, TARGETS, shape, lr=0.05 if "adam" in name else 0.4, steps=3,
            optimizer=rule, batches=rows,
        )  # fmt: skip
        expected = ordinary(24, shape, optimizer, 3, seed=1, batches=rows)
        assert torch.allclose(found.outputs, expected, rtol=0, atol=1e-10)
        loss = F.cross_entropy(expected[-1].flatten(0, 1), TARGETS.flatten())
        assert found.losses[-1] == pytest.approx(float(loss), abs=1e-10)
    assert (found.outputs[-1] - found.outputs[0]).abs().max() > 0.05


# -- width infinity ------------------------------------------------------------------------------------------------

SHAPE = Transformer(vocab=4)


def limit(samples=3000, seeds=2, steps=5, **world):
    return estimate(
        lambda w: train_transformer(w, TOKENS, TARGETS, SHAPE, lr=0.4, steps=steps).outputs,
        samples,
        seeds=seeds,
        **({"derivatives": "stein"} | world),
    )


@pytest.fixture(scope="module")
def found():
    """Logits of ordinary networks by width, all with torch's own start."""
    torch.manual_seed(1)
    runs = {32: 48, 64: 48, 128: 32, 256: 16}
    return {
        n: torch.stack([ordinary(n, SHAPE, RULES["sgd"][1], 5) for _ in range(many)])
        for n, many in runs.items()
    }


def rms(x):
    return float(x.square().mean().sqrt())


def test_ordinary_networks_approach_the_limit(found):
    exact, untied = limit(), limit(derivatives="none")
    squares = {n: (f - exact.mean)[:, 1:].square().mean((1, 2, 3, 4)) for n, f in found.items()}
    slope, error = fitted_power(squares)
    assert error < 0.05
    assert slope == pytest.approx(-0.5, abs=0.1)
    f = found[256]
    noise = math.hypot(rms(f.std(0)[1:]) / len(f) ** 0.5, exact.noise)
    assert rms((f.mean(0) - exact.mean)[1:]) < 2 * noise
    assert rms((f.mean(0) - untied.mean)[1:]) > 2 * rms((f.mean(0) - exact.mean)[1:])
    assert rms(untied.mean - exact.mean) > 10 * exact.noise


def test_stein_and_autograd_draw_the_same_limit():
    stein, autograd = limit(3000, steps=2), limit(1000, steps=2, derivatives="autograd")
    assert rms(stein.mean - autograd.mean) < 4 * math.hypot(stein.noise, autograd.noise)
    assert max(stein.noise, autograd.noise) < 0.01


def test_attention_starts_uniform_and_moves():
    run = train_transformer(
        InfiniteWidth(2000, derivatives="stein"), TOKENS, TARGETS, Transformer(4, depth=2, heads=2), lr=0.1, steps=2
    )  # fmt: skip
    assert run.attention.shape == (3, 2, 2, 3, 4, 4)
    uniform = torch.tril(torch.ones(4, 4)).double()
    assert torch.allclose(run.attention[0], uniform / uniform.sum(1, keepdim=True), atol=0.02)
    assert torch.allclose(run.attention.sum(-1), torch.ones(()).double())
    assert not (run.attention * (1 - uniform)).any()
    assert (run.attention[-1] - run.attention[0]).abs().max() > 0.01
    assert run.losses[-1] < run.losses[1] < run.losses[0]
    assert len(run.before) == len(run.after) == 3


def test_targets_that_do_not_count_change_nothing():
    asked = TARGETS.clone()
    asked[:, :2] = -100
    first = train_transformer(FiniteWidth(16), TOKENS, asked, SHAPE, steps=2)
    expected = ordinary(16, SHAPE, lambda net: torch.optim.SGD(net.groups(0.1)), 2, seed=0, targets=asked)
    assert torch.allclose(first.outputs, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (dict(world="infinite"), "InfiniteWidth"),
        (dict(shape=4), "Transformer"),
        (dict(tokens=TOKENS.double()), "whole numbers"),
        (dict(tokens=TOKENS[0]), "whole numbers"),
        (dict(tokens=TOKENS + 1), "vocab=5"),
        (dict(tokens=-1 - TOKENS), "expected 0 .. 3"),
        (dict(targets=TARGETS - 5), "-100"),
        (dict(targets=TARGETS[:, 1:]), "text"),
        (dict(targets=0 * TARGETS - 100), "text"),
        (dict(steps=2.5), "steps=8"),
        (dict(lr=math.nan), "lr=0.1"),
        (dict(optimizer="lion"), "optimizer='sgd'"),
        (dict(batches=[[0]]), "batches=None"),
        (dict(batches=[[3]] * 2), "batches=None"),
        (dict(batches=[[]] * 2), "batches=None"),
    ],
)
def test_bad_input_is_refused(options, hint):
    given = dict(world=FiniteWidth(8), tokens=TOKENS, targets=TARGETS, shape=SHAPE, steps=2) | options
    with pytest.raises(InputError, match=hint) as error:
        train_transformer(**given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options",
    [dict(vocab=2.5), dict(vocab=1), dict(depth=0), dict(heads=True), dict(branch=math.inf), dict(std=(1, 1)),
     dict(std=(1, -1, 1)), dict(activation="sine")],
)  # fmt: skip
def test_bad_shapes_are_refused(options):
    with pytest.raises(InputError, match="try "):
        Transformer(**(dict(vocab=4) | options))


def test_too_many_steps_for_the_samples_say_how_many_would_do():
    with pytest.raises(InputError, match="expected at most 250, half as many; try samples=2000"):
        train_transformer(InfiniteWidth(500, derivatives="stein"), TOKENS, TARGETS, SHAPE, lr=0.4, steps=8)


def test_divergence_is_seen_at_its_step():
    with pytest.raises(Diverged, match=r"step [12] of 30"):
        train_transformer(FiniteWidth(16), TOKENS, TARGETS, SHAPE, lr=50.0, steps=30)


def test_more_than_the_memory_is_refused_before_the_work_begins():
    for world in (InfiniteWidth(2000, derivatives="stein"), InfiniteWidth(2000)):
        with pytest.raises(InputError, match="GiB"):
            train_transformer(world, TOKENS, TARGETS, SHAPE, steps=10**6)
    with pytest.raises(InputError, match="GiB"):
        train_transformer(FiniteWidth(200_000), TOKENS, TARGETS, SHAPE, optimizer="adam")
