"""Momentum, weight decay and Adam in programs: torch.optim at finite width, limits that networks approach."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from tp4lib.base.errors import InputError
from tp4lib.parametrization import mup, ntp
from tp4lib.program import (
    SGD,
    Adam,
    FiniteWidth,
    InfiniteWidth,
    NoiseWarning,
    estimate,
    fitted_power,
    squared_loss,
    train_mlp,
    train_resnet,
    train_rnn,
)

ANGLE = 2 * math.pi * (torch.arange(4, dtype=torch.float64) + 0.5) / 4
XI = torch.stack([ANGLE.cos(), ANGLE.sin(), torch.ones_like(ANGLE)], 1) / math.sqrt(3)
Y = torch.sign(torch.sin(2 * ANGLE))[:, None]
SEQUENCES = torch.stack([XI, XI.roll(1, 0), XI.roll(2, 1)], 1)  # (4, 3, 3)


class Perceptron(nn.Module):
    """U, W^2 .. W^L and v / n; with a branch multiplier, residual."""

    def __init__(self, n, depth, seed, branch=None, recurrent=False):
        super().__init__()
        world, self.n, self.branch, self.recurrent = FiniteWidth(n, seed), n, branch, recurrent
        U = world.gaussian(count=3).values.T
        # The programs draw v before or after the matrices.
        v = world.gaussian(count=1).values if branch else None
        W = [next(iter(world.matrix()._parts.values()))[1].entries for _ in range(depth)]
        v = world.gaussian(count=1).values if v is None else v
        self.U, self.v = nn.Parameter(U.clone()), nn.Parameter(v)
        self.W = nn.ParameterList(nn.Parameter(w.clone()) for w in W)

    def forward(self, xi):
        if self.recurrent:
            x = torch.zeros(len(xi), self.n, dtype=xi.dtype)
            for k in range(xi.shape[1]):
                x = torch.tanh(x @ self.W[0].T + xi[:, k] @ self.U.T)
            return x @ self.v.T / self.n
        x = xi @ self.U.T
        for W in self.W:
            x = x + self.branch * torch.tanh(x @ W.T) if self.branch else torch.tanh(x) @ W.T
        return (x if self.branch else torch.tanh(x)) @ self.v.T / self.n

    def groups(self, lr, adam, decay=0.0, eps=None):
        hidden = lr * (self.branch if adam and self.branch else 1)
        groups = [
            {"params": [self.U, self.v], "lr": lr if adam else lr * self.n},
            {"params": list(self.W), "lr": hidden / self.n if adam else hidden},
        ]
        for group, rate in zip(groups, (lr, hidden)):
            group["weight_decay"] = decay * rate / group["lr"]
            if eps is not None:
                group["eps"] = eps / self.n
        return groups


def by_torch(model, xi, optimizer, steps, batches=None):
    outputs = []
    for step in range(steps + 1):
        outputs.append(model(xi).detach())
        if step < steps:
            rows = slice(None) if batches is None else batches[step]
            optimizer.zero_grad()
            squared_loss(model(xi[rows]), Y[rows]).backward()
            optimizer.step()
    return torch.stack(outputs)


RULES = {
    "sgd": (SGD(), lambda net: torch.optim.SGD(net.groups(0.1, False))),
    "momentum": ("momentum", lambda net: torch.optim.SGD(net.groups(0.1, False), momentum=0.9)),
    "decay": (
        SGD(momentum=0.7, weight_decay=0.1),
        lambda net: torch.optim.SGD(net.groups(0.1, False, 0.1), momentum=0.7),
    ),
    "adam": (Adam(eps=1e-4), lambda net: torch.optim.Adam(net.groups(0.1, True, eps=1e-4))),
    "adamw": (
        Adam((0.8, 0.9), eps=1e-5, weight_decay=0.5),
        lambda net: torch.optim.AdamW(net.groups(0.1, True, 0.5, 1e-5), betas=(0.8, 0.9)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("kind", ["perceptron", "recurrent", "residual"])
def test_at_finite_width_the_program_is_torchs_network(kind, name):
    rule, optimizer = RULES[name]
    world, batches = FiniteWidth(30, seed=4), [[0, 1], [2, 3, 1], [3], [0, 1, 2, 3], [1]]
    if kind == "perceptron":
        model, xi = Perceptron(30, 2, 4), XI
        run = train_mlp(world, XI, Y, mup(3), lr=0.1, steps=5, optimizer=rule, batches=batches)
    elif kind == "recurrent":
        model, xi = Perceptron(30, 1, 4, recurrent=True), SEQUENCES
        run = train_rnn(world, SEQUENCES, Y, lr=0.1, steps=5, optimizer=rule, batches=batches)
    else:
        model, xi = Perceptron(30, 4, 4, branch=0.5), XI
        run = train_resnet(world, XI, Y, depth=4, lr=0.1, steps=5, optimizer=rule, batches=batches)
    expected = by_torch(model, xi, optimizer(model), 5, batches)
    assert torch.allclose(run.outputs, expected, rtol=0, atol=1e-10)
    assert (run.outputs[-1] - run.outputs[0]).abs().max() > 0.02


def test_adam_does_not_depend_on_the_orbits_point():
    runs = [
        train_mlp(FiniteWidth(30), XI, Y, p, lr=0.1, steps=3, optimizer="adam").outputs
        for p in (mup(2), mup(2).shift(0.3))
    ]
    assert torch.equal(*runs)


# -- width infinity ------------------------------------------------------------------------------------------------


def rms(x):
    return float(x.square().mean().sqrt())


def adam_limit(**world):
    settings = dict(dtype=torch.float32, derivatives="stein") | world
    return estimate(
        lambda w: train_mlp(w, XI, Y, mup(2), lr=0.2, steps=5, optimizer="adam").outputs, 1024, seeds=3, **settings
    )  # fmt: skip


def test_networks_trained_by_adam_approach_the_limit():
    exact, untied = adam_limit(), adam_limit(derivatives="none")
    deviations, widths = [], {32: 64, 64: 64, 128: 48, 256: 24}
    for n, many in widths.items():
        models = [Perceptron(n, 1, 100 + i) for i in range(many)]
        f = torch.stack([by_torch(m, XI, torch.optim.Adam(m.groups(0.2, True, eps=1e-8)), 5) for m in models])
        deviations.append(rms((f - exact.mean)[:, 1:]))
    assert np.polyfit(np.log(list(widths)), np.log(deviations), 1)[0] == pytest.approx(-0.5, abs=0.1)
    noise = math.hypot(rms(f.std(0)[1:]) / many**0.5, exact.noise)
    assert rms((f.mean(0) - exact.mean)[1:]) < 2.5 * noise
    assert rms(untied.mean - exact.mean) > 10 * exact.noise


def test_adam_in_the_world_of_autograd_is_the_same_limit():
    exact, other = adam_limit(), adam_limit(derivatives="autograd", dtype=torch.float64)
    assert rms(exact.mean - other.mean) < 4 * math.hypot(exact.noise, other.noise)


@pytest.mark.parametrize("optimizer", ["momentum", SGD(weight_decay=0.2), Adam(weight_decay=0.2)])
def test_weight_decay_and_momentum_have_a_limit(optimizer):
    def train(world):
        return train_mlp(world, XI, Y, mup(2), lr=0.1, steps=5, optimizer=optimizer).outputs

    exact = estimate(train, 1024, seeds=2, derivatives="stein")
    spread = [
        rms((torch.stack([train(FiniteWidth(n, s)) for s in range(12)]) - exact.mean)[:, 1:])
        for n in (32, 256)
    ]
    assert spread[1] < 0.6 * spread[0]  # 8^(-1/2) = 0.35


def test_residual_networks_have_a_limit_of_depth():
    """Distances to half the depth fall like L^-1/2."""
    found = {
        L: estimate(
            lambda w, L=L: train_resnet(w, XI, Y, depth=L, lr=0.5, steps=4).outputs, 4000, seeds=3, derivatives="stein"
        )
        for L in (1, 2, 4, 8)
    }  # fmt: skip
    distances = {L: rms(found[L].mean - found[L // 2].mean) for L in (2, 4, 8)}
    assert min(distances.values()) > 3 * max(limit.noise for limit in found.values())
    slope = np.polyfit(np.log(list(distances)), np.log(list(distances.values())), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.15)


def test_the_residual_program_is_approached_by_networks():
    exact = estimate(
        lambda w: train_resnet(w, XI, Y, depth=3, lr=0.5, steps=4).outputs, 2000, derivatives="stein"
    )
    spread = []
    for n in (32, 256):
        runs = [train_resnet(FiniteWidth(n, s), XI, Y, depth=3, lr=0.5, steps=4).outputs for s in range(24)]
        spread.append(rms((torch.stack(runs) - exact.mean)[:, 1:]))
    assert math.log(spread[1] / spread[0], 8) == pytest.approx(-0.5, abs=0.15)


# -- products by Stein's lemma -------------------------------------------------------------------------------------


def test_moments_of_random_matrices_by_steins_lemma():
    """Wigner's and Marchenko-Pastur's: Catalan numbers, and none without the correction."""
    for derivatives, factor in (("stein", 1), ("none", 0)):
        world = InfiniteWidth(400, derivatives=derivatives)
        W, x = world.matrix(std=math.sqrt(0.5)), world.gaussian()
        y = x
        for k in range(1, 9):
            y = W @ y + W.T @ y
            wanted = factor * (math.comb(k, k // 2) // (k // 2 + 1) if k % 2 == 0 else 0)
            assert world.mean(x, y) == pytest.approx(wanted, abs=1e-9)


def test_products_by_steins_lemma_keep_their_type():
    world = InfiniteWidth(500, dtype=torch.float32, derivatives="stein")
    W, x = world.matrix(), world.gaussian()
    assert (W @ x).values.dtype == torch.float32
    assert (W @ (x > 0)).values.shape == (500,)
    assert not (W.T @ torch.tanh(W @ x)).values.requires_grad


def test_directions_that_the_samples_do_not_resolve_draw_no_noise():
    world = InfiniteWidth(10_000, derivatives="stein")  # M^(-1/3) / 2 = 0.023
    W, x, y = world.matrix(), world.gaussian(), world.gaussian()
    drawn = world.noises
    assert drawn == 2
    for gap, fresh in ((0.0, 1), (0.02, 1), (0.1, 2), (0.2, 2)):
        a = W @ (x + gap * y)
        assert world.noises == drawn + fresh
        assert world.mean(a, a) == pytest.approx(1 + gap**2, abs=2e-3)


# -- noise and refusals --------------------------------------------------------------------------------------------


def test_the_world_says_when_its_noise_is_too_large_and_what_would_do():
    def program(world):
        return world.mean(torch.exp(world.gaussian()) * torch.exp(-world.gaussian(count=3)[2]))

    with pytest.warns(NoiseWarning, match="try samples=") as caught:
        first = estimate(program, 200, seeds=4, tolerance=1e-3)
    enough = first.samples_for(1e-3)
    assert f"samples={enough}" in str(caught[0].message)
    assert enough >= 200 * (first.noise / 1e-3) ** 2
    assert first.samples_for(first.noise) >= 200
    better = estimate(program, 20_000, seeds=4, tolerance=1.0)
    assert better.noise < first.noise
    assert better.runs.shape == (4,)


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (dict(optimizer="lion"), "optimizer='sgd'"),
        (dict(optimizer=3), "optimizer='sgd'"),
        (dict(optimizer="adamw"), r"Adam\(betas, eps, weight_decay\)"),
        (dict(parametrization=ntp(2), optimizer="adam"), r"try mup\(2\)"),
        (dict(parametrization=ntp(2), optimizer=SGD(weight_decay=0.1)), r"try mup\(2\)"),
    ],
)
def test_bad_optimizers_are_refused(options, hint):
    with pytest.raises(InputError, match=hint):
        train_mlp(**(dict(world=InfiniteWidth(100), xi=XI, y=Y, parametrization=mup(2)) | options))


@pytest.mark.parametrize(
    "make",
    [lambda: Adam(betas=(0.9, 1.0)), lambda: Adam(betas=(0.9,)), lambda: Adam(eps=0.0), lambda: SGD(momentum=-0.1),
     lambda: SGD(momentum=1.0), lambda: SGD(weight_decay=math.nan), lambda: Adam(weight_decay=-1.0)],
)  # fmt: skip
def test_bad_settings_are_refused(make):
    with pytest.raises(InputError, match="try "):
        make()


def test_adams_tables_are_refused_before_they_are_made(monkeypatch):
    made, worlds = [], (FiniteWidth(300), InfiniteWidth(300))
    monkeypatch.setattr(torch, "zeros", lambda *shape, **_: made.append(shape))
    for world in worlds:
        world.coordinates = 10**6
        with pytest.raises(InputError, match="tables of 1000000 x 1000000"):
            train_mlp(world, XI, Y, mup(2), optimizer="adam")
    assert not made


@pytest.mark.parametrize(("depth", "hint"), [(0, "depth=4"), (2.5, "depth=4"), (True, "depth=4")])
def test_bad_depths_are_refused(depth, hint):
    with pytest.raises(InputError, match=hint):
        train_resnet(FiniteWidth(8), XI, Y, depth=depth)


def test_an_unknown_way_of_finding_derivatives_is_refused():
    with pytest.raises(InputError, match="derivatives='stein'"):
        InfiniteWidth(100, derivatives="exact")


@pytest.mark.parametrize("seeds", [1, 2.5])
def test_a_noise_needs_two_seeds(seeds):
    with pytest.raises(InputError, match="seeds=4"):
        estimate(lambda world: world.mean(world.gaussian()), 100, seeds=seeds)


@pytest.mark.parametrize("squares", [{64: torch.ones(3)}, {64: torch.ones(3), 128: torch.ones(1)}])
def test_a_power_needs_widths_and_networks(squares):
    with pytest.raises(InputError, match="two or more widths"):
        fitted_power(squares)


def test_the_error_of_a_power_covers_it():
    generator, off = torch.Generator().manual_seed(0), []
    for _ in range(100):
        squares = {n: torch.randn(20, generator=generator).square() / n for n in (64, 128, 256, 512)}
        slope, error = fitted_power(squares)
        off.append((slope + 0.5) / error)
    assert 0.7 < np.std(off) < 1.4


def test_a_program_returns_one_tensor():
    with pytest.raises(InputError, match="outputs"):
        estimate(lambda world: train_mlp(world, XI, Y, mup(1), steps=1), 100)
