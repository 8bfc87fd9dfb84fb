"""Ready programs: exact at finite width and for linear networks, and the limit of networks trained by autograd."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, stack_module_state, vmap

from tp4lib import kernels
from tp4lib.base.divergence import Diverged
from tp4lib.base.errors import InputError
from tp4lib.linear_limit import LinearLimit
from tp4lib.nn import MLP, param_groups, rates
from tp4lib.parametrization import ABC, mean_field, mup, ntp, standard
from tp4lib.program import SGD, FiniteWidth, InfiniteWidth, squared_loss, train_mlp, train_rnn
from tp4lib.program.derivatives import DerivativeMatrix, Products

GENERATOR = torch.Generator().manual_seed(5)
XI = torch.randn(4, 3, generator=GENERATOR, dtype=torch.float64)
Y = torch.randn(4, 2, generator=GENERATOR, dtype=torch.float64)


def at(s, u, p1, p2):
    """The two-hidden-layer parametrization with readout start n^-s and update n^-u, layers moving by p1 and p2."""
    a = [(p1 - 1) / 2, p2 / 2, u / 2]
    return ABC(a, [-a[0], 0.5 - a[1], s - a[2]], c=0)


def networks(n, p, activation, steps, lr, seeds):
    """(seeds, steps + 1, P, d_out): outputs of ordinary networks, trained by autograd and SGD."""
    models = [MLP(3, n, 2, p, activation=activation, seed=seed, dtype=torch.float64) for seed in range(seeds)]
    scale, model = rates(models[0]), models[0]
    weights, _ = stack_module_state(models)
    run = vmap(lambda w: functional_call(model, w, XI))
    gradient = vmap(grad(lambda w: squared_loss(functional_call(model, w, XI), Y)))
    outputs = []
    for step in range(steps + 1):
        with torch.no_grad():
            outputs.append(run(weights))
        if step < steps:
            g = gradient(weights)
            weights = {name: (w - lr * scale[name] * g[name]).detach() for name, w in weights.items()}
    return torch.stack(outputs, 1)


def limit(p, activation, steps, lr, samples=16_384, seeds=1):
    runs = [
        train_mlp(InfiniteWidth(samples, seed), XI, Y, p, activation=activation, lr=lr, steps=steps).outputs
        for seed in range(seeds)
    ]
    return torch.stack(runs).mean(0)


def rms(x, axes):
    return x.square().mean(axes).sqrt()


def entries(W):
    ((_, part),) = W._parts.values()
    return part.entries


# -- exact cases -----------------------------------------------------------------------------------------------------


def twin(n, p, activation, seed, std):
    """The `MLP` with the numbers that a program draws in FiniteWidth(n, seed)."""
    world, L = FiniteWidth(n, seed), p.depth
    U = world.gaussian(std[0], count=3)
    W = [entries(world.matrix(std[layer])) for layer in range(1, L)]
    v = world.gaussian(std[L], count=2)
    model = MLP(3, n, 2, p, activation=activation, dtype=torch.float64)
    effective = [U.values.T, *W, v.values / n]
    with torch.no_grad():
        for layer, weight in zip(model.layers, effective):
            layer.weight.copy_(weight / layer.multiplier)
    return model


@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu", "erf", "identity"])
@pytest.mark.parametrize("p", [mup(1), mean_field(), mup(2), mup(3), mup(2).shift(0.3)], ids=repr)
def test_at_finite_width_the_program_is_the_network(p, activation):
    std, batches = [0.7, 1.2, 0.9, 0.8][-p.depth - 1 :], [[0, 1], [2, 3, 1], [0, 1, 2, 3]]
    for momentum, options in ((0.0, {}), (0.9, {}), (0.5, dict(batches=batches))):
        result = train_mlp(
            FiniteWidth(40, seed=3), XI, Y, p, activation=activation, lr=0.5, steps=3, std=std,
            optimizer=SGD(momentum), **options,
        )  # fmt: skip
        model = twin(40, p, activation, 3, std)
        optimizer = torch.optim.SGD(param_groups(model, 0.5), momentum=momentum)
        for step in range(4):
            h = model.preactivations(XI)
            assert torch.allclose(result.outputs[step], h[-1], atol=1e-12)
            assert torch.allclose(result.h[step][0].values, h[0], atol=1e-12)
            assert result.losses[step] == pytest.approx(float(squared_loss(h[-1], Y).detach()), abs=1e-12)
            rows = options.get("batches", [[0, 1, 2, 3]] * 3)[min(step, 2)]
            optimizer.zero_grad()
            squared_loss(model(XI[rows]), Y[rows]).backward()
            optimizer.step()


def test_any_loss_can_be_trained():
    def loss(f, y):
        return F.cross_entropy(f, y.softmax(1))

    result = train_mlp(FiniteWidth(40, seed=3), XI, Y, mup(2), lr=0.5, steps=3, loss=loss)
    model = twin(40, mup(2), "tanh", 3, [1.0] * 3)
    optimizer = torch.optim.SGD(param_groups(model, 0.5))
    for step in range(4):
        assert torch.allclose(result.outputs[step], model(XI), atol=1e-12)
        optimizer.zero_grad()
        loss(model(XI), Y).backward()
        optimizer.step()


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_linear_networks_are_exact(momentum):
    reference = LinearLimit(3, 2, 1.3, 0.7, dtype=torch.float64)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.3, momentum=momentum)
    result = train_mlp(
        InfiniteWidth(200), XI, Y, mup(1), activation="identity", lr=0.3, steps=10, std=[1.3, 0.7],
        optimizer=SGD(momentum),
    )  # fmt: skip
    for step in range(11):
        f = reference(XI)
        assert torch.allclose(result.outputs[step], f, atol=1e-12)
        hidden = reference.hidden(XI).detach()
        assert torch.allclose(result.feature_kernels[step, 0], hidden @ hidden.T, atol=1e-12)
        optimizer.zero_grad()
        squared_loss(f, Y).backward()
        optimizer.step()
    assert result.losses[-1] < 0.75 * result.losses[0]


def test_deep_linear_networks_do_not_depend_on_the_samples():
    runs = [
        train_mlp(InfiniteWidth(m, seed), XI, Y, mup(3), activation="identity", lr=0.2, steps=4).outputs
        for m, seed in ((300, 0), (1000, 7))
    ]
    assert torch.allclose(*runs, atol=1e-10)
    assert runs[0][-1].abs().max() > 0.1


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("activation", ["relu", "erf", "identity"])
def test_forward_pass_is_nngp_and_first_step_ntk(depth, activation):
    result = train_mlp(InfiniteWidth(50_000), XI, Y, ntp(depth), activation=activation, lr=0.1, steps=1)
    tolerance = 1e-12 if activation == "identity" else 5e-3
    nngp, tangent = (kernel(XI, XI, depth, activation) for kernel in (kernels.nngp, kernels.ntk))
    assert (result.feature_kernels[0, -1] - nngp).norm() < min(tolerance, 1e-3) * nngp.norm()
    assert (result.kernel - tangent).norm() < tolerance * tangent.norm()
    step = result.outputs[0] - 0.1 * tangent @ (result.outputs[0] - Y) / 4
    assert torch.allclose(result.outputs[1], step, atol=tolerance * 10)
    assert torch.equal(result.feature_kernels[0], result.feature_kernels[1])


def test_kernel_regime_starts_as_its_gaussian_process():
    draws = torch.stack(
        [
            train_mlp(InfiniteWidth(256, seed), XI, Y, ntp(1), steps=0, std=[1, 2]).outputs[0]
            for seed in range(300)
        ]
    )  # (800, 4, 2)
    expected = 4 * train_mlp(InfiniteWidth(50_000), XI, Y, ntp(1), steps=0).feature_kernels[0, -1]
    assert torch.allclose(torch.einsum("spo,sqo->pq", draws, draws) / 600, expected, atol=0.2)
    assert abs(float(draws[..., 0].mul(draws[..., 1]).mean())) < 0.2
    small_start = train_mlp(InfiniteWidth(256), XI, Y, at(0.75, 1, 0.5, 0.5), steps=0)
    assert not small_start.outputs.any()


# -- ordinary networks approach the limit --------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("depth", [2, 3])
def test_trained_networks_approach_the_limit(depth, activation, monkeypatch):
    """8 steps, 4 inputs: deviations with slope -1/2, means with none left; and not without Zdot."""
    p, widths, seeds, steps = mup(depth), [64, 128, 256], [96, 64, 64], 8
    exact = limit(p, activation, steps, 0.5)
    found = [networks(n, p, activation, steps, 0.5, s) for n, s in zip(widths, seeds)]
    deviations = np.array([float(rms((f - exact)[:, 1:], (0, 1, 2, 3))) for f in found])
    assert np.polyfit(np.log(widths), np.log(deviations), 1)[0] == pytest.approx(-0.5, abs=0.12)

    def bias(reference):
        f = found[-1]
        return rms((f.mean(0) - reference)[1:], (0, 1, 2)), rms(f.std(0)[1:] / len(f) ** 0.5, (0, 1, 2))

    off, noise = bias(exact)
    assert off < 3 * noise
    monkeypatch.setattr(DerivativeMatrix, "corrections", lambda self, there, stack: [])
    off, noise = bias(limit(p, activation, steps, 0.5))
    assert off > 10 * noise


def test_relu_needs_the_derivative_of_its_jump(monkeypatch):
    """phi' of relu jumps: without Stein's lemma, autograd alone misses a delta and comes out elsewhere."""
    exact = limit(mup(3), "relu", 8, 0.5)
    found = networks(384, mup(3), "relu", 8, 0.5, 48)[:, -1]
    noise = rms(found.std(0) / 48**0.5, (0, 1))
    assert rms(found.mean(0) - exact[-1], (0, 1)) < 3 * noise
    monkeypatch.setattr(Products, "by_stein", lambda self, x, std: self.by_autograd(x))
    assert rms(found.mean(0) - limit(mup(3), "relu", 8, 0.5)[-1], (0, 1)) > 5 * noise


def kernel_descent(p, f0, steps, lr):
    return torch.stack([
        train_mlp(InfiniteWidth(2048), XI, Y, p, activation="tanh", lr=lr, steps=steps, f0=f).outputs for f in f0
    ])  # fmt: skip


@pytest.mark.parametrize(
    "p",
    [
        ntp(1), ntp(2), ntp(3), standard(2, lr_exponent=1), at(3 / 4, 1, 1 / 2, 1 / 2), at(4 / 5, 3 / 2, 2 / 5, 2 / 5),
        at(1, 1, 0, 1), at(1, 1, 1, 0), at(2, 1, 0, 0), at(1, 3 / 2, 0, 0), at(1, 2, 1, 1), mean_field(),
    ],
    ids=repr,
)  # fmt: skip
def test_every_stable_parametrization_has_its_limit(p):
    """Layers that move or do not, readouts whose start or update counts, kernels: all approached by networks."""
    deviations, lr, steps = [], 0.2 if p.is_kernel else 0.5, 4
    for n, seeds in ((128, 12), (1024, 6)):
        found = networks(n, p, "tanh", steps, lr, seeds)
        if p.r > 0:
            exact = kernel_descent(p, found[:, 0], steps, lr)
        else:
            exact = limit(p, "tanh", steps, lr, seeds=1)
        deviations.append(float(rms(found - exact, (0, 1, 2, 3))))
    moved = float(rms(exact[..., -1, :, :] - exact[..., 0, :, :], None if p.r == 0 else (0, 1, 2)))
    assert deviations[1] < 0.6 * deviations[0]  # 8^(-1/2) = 0.35, faster where f does not move
    assert deviations[1] < 0.15 * moved or not p.is_nontrivial
    assert (moved > 0.05) == p.is_nontrivial


def test_muP_moves_the_feature_kernel_and_ntp_does_not():
    moving, frozen = (
        train_mlp(InfiniteWidth(5000), XI, Y, p, lr=0.5, steps=8).feature_kernels for p in (mup(2), ntp(2))
    )
    assert (moving[-1] - moving[0]).norm() > 0.1 * moving[0].norm()
    assert torch.equal(frozen[-1], frozen[0])


# -- a recurrent network -------------------------------------------------------------------------------------------


SEQUENCES = torch.randn(3, 3, 2, generator=GENERATOR, dtype=torch.float64)
TARGETS = torch.randn(3, 1, generator=GENERATOR, dtype=torch.float64)


def rnn_by_autograd(n, seed, steps, lr, momentum=0.0, std=(1.0, 1.0, 1.0), activation=torch.tanh):
    """Outputs of an ordinary recurrent network in muP: U, W (entries of order n^-1/2) and readout v / n."""
    world = FiniteWidth(n, seed)
    U, W = world.gaussian(std[0], count=2).values, entries(world.matrix(std[1])).clone()
    v = world.gaussian(std[2], count=1).values
    weights = [w.requires_grad_() for w in (U, W, v)]
    # dLoss/d(U, W, v) are of order 1/n, 1/n (wanted: 1/n), 1/n; U and v have entries of order 1 and move by n x that.
    groups = [{"params": [U, v], "lr": lr * n}, {"params": [W], "lr": lr}]
    optimizer, outputs = torch.optim.SGD(groups, momentum=momentum), []
    for _ in range(steps + 1):
        x = torch.zeros(len(SEQUENCES), n, dtype=torch.float64)
        for k in range(SEQUENCES.shape[1]):
            x = activation(x @ W.T + SEQUENCES[:, k] @ U)
        f = x @ v.T / n
        outputs.append(f.detach())
        optimizer.zero_grad()
        squared_loss(f, TARGETS).backward()
        optimizer.step()
    assert all(w.grad is not None for w in weights)
    return torch.stack(outputs)


@pytest.mark.parametrize(("activation", "phi"), [("tanh", torch.tanh), ("relu", torch.relu)])
def test_at_finite_width_the_recurrent_program_is_the_network(activation, phi):
    options = dict(lr=0.5, steps=4, std=(1.2, 0.9, 0.8))
    how = dict(activation=activation, optimizer=SGD(momentum=0.6)) | options
    found = train_rnn(FiniteWidth(40, seed=2), SEQUENCES, TARGETS, **how).outputs
    expected = rnn_by_autograd(40, 2, activation=phi, momentum=0.6, **options)
    assert torch.allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize(("activation", "phi"), [("tanh", torch.tanh), ("relu", torch.relu)])
def test_recurrent_networks_approach_the_limit(activation, phi, monkeypatch):
    def of_limit():
        return torch.stack([
            train_rnn(InfiniteWidth(20_000, s), SEQUENCES, TARGETS, activation=activation, lr=0.2, steps=4).outputs
            for s in range(2)
        ]).mean(0)  # fmt: skip

    exact, widths = of_limit(), [64, 256]
    found = [torch.stack([rnn_by_autograd(n, s, 4, 0.2, activation=phi) for s in range(64)]) for n in widths]
    deviations = [float(rms((f - exact)[:, 1:], (0, 1, 2, 3))) for f in found]
    assert np.log(deviations[1] / deviations[0]) / np.log(4) == pytest.approx(-0.5, abs=0.15)
    noise = rms(found[1].std(0)[1:] / 8, (0, 1, 2))
    assert rms((found[1].mean(0) - exact)[1:], (0, 1, 2)) < 3 * noise
    monkeypatch.setattr(DerivativeMatrix, "corrections", lambda self, there, stack: [])
    assert rms((found[1].mean(0) - of_limit())[1:], (0, 1, 2)) > 6 * noise


# -- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (dict(parametrization=standard(2)), "try mup"),
        (dict(activation="sine"), "activation='relu'"),
        (dict(y=Y[:, 0]), r"y\[:, None\]"),
        (dict(y=Y[:2]), "P inputs"),
        (dict(xi=XI[0]), "P inputs"),
        (dict(steps=-1), "steps=8"),
        (dict(lr=float("inf")), "lr=0.1"),
        (dict(std=[1.0, 2.0]), "std=1.0"),
        (dict(batches=[[0]]), "batches=None"),
        (dict(f0=Y), "kernel regime"),
        (dict(parametrization=ntp(2), f0=Y[:, 0]), "f0=None"),
        (dict(world="infinite"), "InfiniteWidth"),
    ],
)
def test_bad_input_is_refused(options, hint):
    arguments = dict(world=InfiniteWidth(100), xi=XI, y=Y, parametrization=mup(2)) | options
    with pytest.raises(InputError, match=hint):
        train_mlp(**arguments)


def test_more_than_the_memory_is_refused_before_the_work_begins():
    with pytest.raises(InputError, match="GiB"):
        train_mlp(InfiniteWidth(10_000), XI, Y, mup(2), steps=10**6)


def test_bad_sequences_are_refused():
    with pytest.raises(InputError, match="None"):
        train_rnn(InfiniteWidth(100), SEQUENCES[:, 0], TARGETS)
    with pytest.raises(InputError, match="std"):
        train_rnn(InfiniteWidth(100), SEQUENCES, TARGETS, std=(1, 1))


@pytest.mark.parametrize("world", [FiniteWidth(50), InfiniteWidth(1000)], ids=repr)
@pytest.mark.parametrize("kind", ["muP", "NTP", "rnn"])
def test_a_loss_far_above_the_untrained_one_ends_training(world, kind):
    """At a rate a hundred times too large the loss grows with every step: seen at the first, not at overflow."""
    options = dict(activation="identity", lr=300.0, steps=30)
    with pytest.raises(Diverged, match=r"in step [1-3] of 30: .* 3 times .*smaller lr than 300") as caught:
        train_rnn(world, SEQUENCES, TARGETS, **options) if kind == "rnn" else train_mlp(
            world, XI, Y, {"muP": mup, "NTP": ntp}[kind](2), **options
        )
    loss = float(re.search(r"the loss is (\S+);", str(caught.value))[1])
    assert loss < 1e30


def test_targets_that_the_start_already_meets_are_no_divergence():
    """The untrained loss is 0, a multiple of which says nothing."""
    training = train_mlp(FiniteWidth(50), XI, 0 * Y, mup(2), steps=5)
    assert training.losses.isfinite().all()
    start = torch.full_like(Y, 0.3)
    nearly = train_mlp(InfiniteWidth(200), XI, start + 1e-9, ntp(2), steps=5, f0=start)
    assert nearly.losses.max() < 1e-17
