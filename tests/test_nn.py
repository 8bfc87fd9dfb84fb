"""Perceptrons: the theory they have to obey, the tools they have to survive, and the `mup` package."""

import copy
import doctest
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.func import functional_call, stack_module_state

from tp4lib import nn as tp4nn
from tp4lib.base.errors import InputError
from tp4lib.nn import MLP, ABCLinear, param_groups, rates
from tp4lib.parametrization import ABC, mean_field, mup, ntp, standard

DOUBLE = torch.float64
# Two points inside the faces of the polyhedron (r = 1/4 and 1/5): between muP and NTP with both of the logits' terms
# alive, and one whose readout freezes while the features' change alone moves the logits.
INTERIOR = {
    "interior, r = 1/4": ABC([-0.25, 0.25, 0.5], [0.25, 0.25, 0.25], 0),
    "interior, r = 1/5": ABC([-0.3, 0.2, 0.75], [0.3, 0.3, 0.05], 0),
}


def batch(size=8, d_in=8, d_out=1, seed=7):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, d_in, generator=generator, dtype=DOUBLE) / d_in**0.5
    return x, torch.sign(torch.randn(size, d_out, generator=generator, dtype=DOUBLE))


def train(model, x, y, optimizer, steps):
    """Outputs at every step, the start included: (steps + 1, batch, d_out)."""
    outputs = []
    for _ in range(steps):
        f = model(x)
        outputs.append(f.detach())
        optimizer.zero_grad()
        (0.5 * (f - y).square().mean()).backward()
        optimizer.step()
    return torch.stack([*outputs, model(x).detach()])


# -- theory ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu", "erf", "identity"])
@pytest.mark.parametrize(
    "start", [mup(3), ntp(3), standard(3, lr_exponent=1), mean_field()], ids=lambda p: p.name
)
def test_orbit_trains_one_function(start, activation):
    """(a) Points of one orbit give the same function at every step: float64, 1e-9."""
    x, y = batch(d_out=2)
    curves = []
    for t in (0, 0.5, -1 / 3):
        model = MLP(8, 48, 2, start.shift(t), activation, bias=True, seed=1, dtype=DOUBLE)
        groups = param_groups(model, lr=0.2)
        curves.append(train(model, x, y, torch.optim.SGD(groups, momentum=0.5), steps=12))
    assert (curves[0][-1] - curves[0][0]).abs().max() > 1e-3  # it trains at all
    assert (curves[1] - curves[0]).abs().max() < 1e-9
    assert (curves[2] - curves[0]).abs().max() < 1e-9


@pytest.mark.parametrize("start", [mup(2), ntp(2), standard(2)], ids=lambda p: p.name)
def test_orbit_trains_one_function_under_adam(start):
    """Adam's exponents move with the orbit too (epsilon aside)."""
    x, y = batch()
    curves = []
    for t in (0, 0.5, -0.25):
        model = MLP(8, 48, 1, start.shift(t), "tanh", bias=True, seed=1, dtype=DOUBLE)
        groups = param_groups(model, lr=0.01, optimizer="adamw", weight_decay=0.01)
        curves.append(train(model, x, y, torch.optim.AdamW(groups, eps=1e-30), steps=12))
    assert (curves[1] - curves[0]).abs().max() < 1e-9
    assert (curves[2] - curves[0]).abs().max() < 1e-9


def changes(p, width, seed, x, y, activation, optimizer="sgd", lr=0.1, steps=4, **options):
    """Root-mean-square change of h^1 .. h^L and f after a few steps."""
    model = MLP(x.shape[1], width, y.shape[1], p, activation, seed=seed, dtype=DOUBLE, **options)
    before = [h.detach() for h in model.preactivations(x)]
    groups = param_groups(model, lr, optimizer)
    train(
        model,
        x,
        y,
        torch.optim.SGD(groups) if optimizer == "sgd" else torch.optim.Adam(groups, eps=1e-30),
        steps,
    )
    after = [h.detach() for h in model.preactivations(x)]
    return [float((new - old).square().mean().sqrt()) for new, old in zip(after, before, strict=True)]


def slopes(p, widths, seeds, **options):
    x, y = batch()
    sizes = np.array([[changes(p, n, seed, x, y, **options) for seed in range(seeds)] for n in widths])
    logs = 0.5 * np.log((sizes**2).mean(1))  # (widths, layers)
    return np.polyfit(np.log(widths), logs, 1)[0]


POINTS = {p.name: p for p in (standard(2, lr_exponent=1), ntp(2), mup(2), mean_field())} | INTERIOR


@pytest.mark.parametrize("name", POINTS)
def test_features_move_like_n_to_the_minus_r(name):
    """(b) The fitted power of the feature change is -r within 0.1, and so is every layer's predicted one."""
    p = POINTS[name]
    measured = slopes(p, widths=(64, 128, 256, 512, 1024, 2048), seeds=6, activation="relu")
    assert measured[-2] == pytest.approx(-p.r, abs=0.1)
    assert measured == pytest.approx(p.change_exponents, abs=0.1)


@pytest.mark.parametrize("p", [ntp(2), mup(2), *INTERIOR.values()], ids=["NTP", "muP", *INTERIOR])
def test_adam_moves_every_layer_as_far_as_sgd(p):
    """Adam's exponents are derived from SGD's: the same powers of n for every layer's change, biases included."""
    measured = slopes(
        p, (64, 128, 256, 512, 1024), 4, activation="tanh", optimizer="adam", lr=0.02, bias=True
    )
    assert measured[:-1] == pytest.approx(p.change_exponents[:-1], abs=0.1)


@pytest.mark.parametrize("p", [mup(2), ntp(2), standard(2, lr_exponent=1)], ids=lambda p: p.name)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_bias_moves_the_features_no_more_than_the_weights_do(p, optimizer):
    """A hidden bias moves like the input layer, n^{-r_1}; the output bias by a constant at every width."""
    x, y = batch()
    moved = []
    for n in (64, 1024):
        model = MLP(8, n, 1, p, "tanh", bias=True, seed=0, dtype=DOUBLE)
        groups = param_groups(model, 0.1, optimizer)
        kind = torch.optim.SGD(groups) if optimizer == "sgd" else torch.optim.Adam(groups, eps=1e-30)
        train(model, x, y, kind, steps=1)
        moved.append(
            [float((m.bias_multiplier * m.bias).detach().square().mean().sqrt()) for m in model.layers]
        )
    powers = np.log(np.array(moved[1]) / moved[0]) / np.log(16)
    expected = [p.change_exponents[0]] * 2 + [0.0]
    assert powers == pytest.approx(expected, abs=0.2)


def test_start_is_gaussian_of_the_promised_size():
    p = ABC([-0.25, 0.25, 0.5], [0.25, 0.25, 0.25], 0)
    model = MLP(200, 256, 300, p, seed=3, std=[1.0, 2.0, 0.5])
    for layer, b, std in zip(model.layers, p.b, (1.0, 2.0, 0.5), strict=True):
        w = layer.weight.detach()
        assert float(w.std()) == pytest.approx(std * 256**-b, rel=0.02)
        assert abs(float(w.mean())) < 4 * std * 256**-b / w.numel() ** 0.5


def test_base_width_gives_the_standard_network_there_for_every_parametrization():
    x, _ = batch()
    reference = MLP(8, 64, 3, standard(2), std=[8**-0.5, 1, 1], bias=True, seed=5, dtype=DOUBLE)
    for p in (mup(2), ntp(2), standard(2), *INTERIOR.values()):
        model = MLP(8, 64, 3, p, base_width=64, bias=True, seed=5, dtype=DOUBLE)
        torch.testing.assert_close(model(x), reference(x), rtol=1e-12, atol=1e-12)
        assert set(rates(model, "sgd").values()) == set(rates(model, "adam").values()) == {1.0}
        wider = MLP(8, 128, 3, p, base_width=64, bias=True, seed=5, dtype=DOUBLE)
        assert wider.layers[1].multiplier == pytest.approx(2 ** -p.a[1])
        assert wider.layers[1].rate["adam"] == pytest.approx(2 ** -p.adam_exponents[1])


def test_weight_decay_per_step_is_the_same_at_every_width():
    for n in (64, 1024):
        groups = param_groups(MLP(3, n, 1, mup(2), base_width=64), 1e-2, "adamw", weight_decay=0.1)
        assert len(groups) == (1 if n == 64 else 2)
        assert [g["lr"] * g["weight_decay"] for g in groups] == pytest.approx([1e-3] * len(groups))


@pytest.mark.parametrize("start", [mup(2), ntp(2), standard(2)], ids=lambda p: p.name)
def test_orbit_trains_one_function_under_coupled_decay(start):
    """Adam whose decay is part of the gradient: lambda n^c moves with the orbit as the gradient does."""
    x, y = batch()
    curves = []
    for t in (0, 0.5, -0.25):
        model = MLP(8, 48, 1, start.shift(t), "tanh", bias=True, seed=1, dtype=DOUBLE)
        groups = param_groups(model, lr=0.01, optimizer="adam", weight_decay=0.01)
        curves.append(train(model, x, y, torch.optim.Adam(groups, eps=1e-30), steps=12))
    assert (curves[1] - curves[0]).abs().max() < 1e-9
    assert (curves[2] - curves[0]).abs().max() < 1e-9


def test_coupled_decay_of_mup_is_the_same_number_at_every_width():
    for n, optimizer in itertools.product((64, 1024), ("adam", "rmsprop", "adagrad")):
        groups = param_groups(MLP(3, n, 1, mup(2), base_width=64), 1e-2, optimizer, weight_decay=0.1)
        assert [group["weight_decay"] for group in groups] == [0.1] * len(groups)
        model = MLP(3, n, 1, mean_field(), base_width=64)  # c = -1: gradients shrink like 1/n
        groups = param_groups(model, 1e-2, optimizer, weight_decay=0.1)
        assert [group["weight_decay"] for group in groups] == [pytest.approx(0.1 * 64 / n)] * len(groups)


@pytest.mark.parametrize("optimizer", ["AdamW", "Adam", "RMSprop", "Adagrad"])
def test_weight_decay_holds_the_loss_at_the_same_height_at_every_width(optimizer):
    """In every optimizer, where the decay is strong enough to matter (with the decoupled rule for all: 0.2 to 1.4)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 8, generator=generator) / 8**0.5
    y = torch.randint(4, (64,), generator=generator)

    def final_loss(width, decay):
        model = MLP(8, width, 4, mup(2), seed=0, base_width=64)
        groups = param_groups(model, 1e-2, optimizer.lower(), weight_decay=decay)
        moves = getattr(torch.optim, optimizer)(groups)
        for _ in range(80):
            loss = torch.nn.functional.cross_entropy(model(x), y)
            moves.zero_grad()
            loss.backward()
            moves.step()
        return loss.item()

    decay = 2.0 if optimizer == "AdamW" else 1e-2
    small, large = final_loss(64, decay), final_loss(512, decay)
    assert abs(large - small) < 0.35 * small
    assert small > 1.2 * final_loss(64, 0.0)  # it matters


@pytest.mark.parametrize("kept", [True, False])
def test_schedules_keep_the_ratios_of_rates_if_they_are_told_to(kept):
    optim = torch.optim
    model = MLP(8, 256, 4, mup(2), seed=0)
    schedules = {
        "one cycle": lambda o: optim.lr_scheduler.OneCycleLR(
            o, [group["lr"] for group in o.param_groups] if kept else 1e-2, total_steps=10
        ),
        "cosine": lambda o: optim.lr_scheduler.CosineAnnealingLR(o, 10, 0 if kept else 1e-4),
        "lambda": lambda o: optim.lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    }
    for name, make in schedules.items():
        optimizer = optim.AdamW(param_groups(model, 1e-2, "adamw"))
        before = [group["lr"] for group in optimizer.param_groups]
        schedule = make(optimizer)
        for _ in range(9):
            optimizer.step()
            schedule.step()
        after = [group["lr"] for group in optimizer.param_groups]
        ratios = [new / old for new, old in zip(after, before, strict=True)]
        assert max(before) / min(before) == pytest.approx(16)
        assert (max(ratios) / min(ratios) < 1 + 1e-9) == (kept or name == "lambda"), name


# -- the mup package ------------------------------------------------------------------------------------------------


def mup_network(mup_package, d_in, width, d_out, base):
    def plain(n, readout):
        return torch.nn.Sequential(
            torch.nn.Linear(d_in, n),
            torch.nn.ReLU(),
            torch.nn.Linear(n, n),
            torch.nn.ReLU(),
            readout(n, d_out),
        )

    network = plain(width, mup_package.MuReadout)
    shapes = plain(base, mup_package.MuReadout), plain(2 * base, mup_package.MuReadout)
    mup_package.set_base_shapes(network, shapes[0], delta=shapes[1])
    return network


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("width", [32, 256])
def test_agrees_with_the_mup_package(optimizer, width):
    """(c) The same base, the same start: the same training curve and the same change of every layer."""
    package = pytest.importorskip("mup", reason="the `mup` package is a test extra: pip install mup")
    base, lr, steps = 32, 0.05 if optimizer == "sgd" else 1e-3, 20
    x, y = batch(size=16)
    default = torch.get_default_dtype()
    torch.set_default_dtype(DOUBLE)  # their metadata does not survive .to(float64)
    try:
        theirs = mup_network(package, 8, width, 1, base)
        kind = package.MuSGD if optimizer == "sgd" else package.MuAdam
        options = {} if optimizer == "sgd" else {"eps": 1e-30}
        their_optimizer = kind(theirs.parameters(), lr=lr, **options)
    finally:
        torch.set_default_dtype(default)

    ours = MLP(8, width, 1, mup(2), bias=True, base_width=base, seed=0, dtype=DOUBLE)
    with torch.no_grad():  # their w in our units: W is W, whatever multiplier stands before w
        for layer, other in zip(ours.layers, (theirs[0], theirs[2], theirs[4]), strict=True):
            their_multiplier = base / width if other is theirs[4] else 1.0
            layer.weight.copy_(other.weight * their_multiplier / layer.multiplier)
            layer.bias.copy_(other.bias / layer.bias_multiplier)
    groups = param_groups(ours, lr, optimizer)
    our_optimizer = torch.optim.SGD(groups) if optimizer == "sgd" else torch.optim.Adam(groups, eps=1e-30)

    def their_preactivations():
        h1 = theirs[0](x)
        h2 = theirs[2](theirs[1](h1))
        return [h.detach() for h in (h1, h2, theirs[4](theirs[3](h2)))]

    before = [h.detach() for h in ours.preactivations(x)], their_preactivations()
    our_curve = train(ours, x, y, our_optimizer, steps)
    their_curve = train(theirs, x, y, their_optimizer, steps)
    after = [h.detach() for h in ours.preactivations(x)], their_preactivations()
    assert (our_curve[-1] - our_curve[0]).abs().max() > 1e-2
    torch.testing.assert_close(our_curve, their_curve, rtol=1e-8, atol=1e-10)
    for layer in range(3):  # the coordinate check of either
        ours_moved, theirs_moved = (
            end[layer] - start[layer] for start, end in zip(before, after, strict=True)
        )
        torch.testing.assert_close(ours_moved, theirs_moved, rtol=1e-7, atol=1e-10)


# -- tools ----------------------------------------------------------------------------------------------------------


def test_deepcopy_and_state_dict(tmp_path):
    x, y = batch()
    model = MLP(8, 16, 1, mup(2), "gelu", bias=True, base_width=8, seed=0, dtype=DOUBLE)
    twin = copy.deepcopy(model)
    loaded = MLP(8, 16, 1, mup(2), "gelu", bias=True, base_width=8, seed=99, dtype=DOUBLE)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    loaded.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    curves = [
        train(m, x, y, torch.optim.Adam(param_groups(m, 0.01, "adam")), steps=5)
        for m in (model, twin, loaded)
    ]
    assert torch.equal(curves[0], curves[1])
    assert torch.equal(curves[0], curves[2])
    assert all(not vars(parameter) for parameter in model.parameters())  # nothing hung on tensors


def test_vmap_over_stacked_models_equals_a_loop():
    x, y = batch()
    models = [MLP(8, 16, 1, ntp(2), "tanh", bias=True, seed=seed, dtype=DOUBLE) for seed in range(4)]
    parameters, buffers = stack_module_state(models)
    skeleton = copy.deepcopy(models[0]).to("meta")

    def loss(one, other):
        return 0.5 * (functional_call(skeleton, (one, other), (x,)) - y).square().mean()

    gradient = torch.vmap(torch.func.grad(loss))
    for _ in range(3):
        slopes_now = gradient(parameters, buffers)
        scale = rates(skeleton)
        parameters = {
            name: w.detach() - 0.3 * scale[name] * slopes_now[name] for name, w in parameters.items()
        }
    for index, model in enumerate(models):
        train(model, x, y, torch.optim.SGD(param_groups(model, 0.3)), steps=3)
        for name, w in model.named_parameters():
            torch.testing.assert_close(parameters[name][index], w.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile(backend):
    x, y = batch()
    plain = MLP(8, 16, 1, mup(2), bias=True, seed=0, dtype=DOUBLE)
    compiled = torch.compile(copy.deepcopy(plain), backend=backend, fullgraph=True)
    curves = [train(m, x, y, torch.optim.SGD(param_groups(m, 0.1)), steps=3) for m in (plain, compiled)]
    torch.testing.assert_close(curves[1], curves[0], rtol=1e-10, atol=1e-12)


def _one_of_two(rank, meeting, out):
    """Trains on half of the batch in one of two processes; only the loopback interface is used."""
    os.environ.update(GLOO_SOCKET_IFNAME="lo", OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    from datetime import timedelta

    import torch.distributed as dist

    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    try:
        x, y = batch()
        model = MLP(8, 16, 1, mup(2), bias=True, seed=rank, dtype=DOUBLE)  # rank 0's start is broadcast
        wrapped = torch.nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.SGD(param_groups(wrapped, 0.2), momentum=0.9)
        train(wrapped, x[rank::2], y[rank::2], optimizer, steps=5)
        if rank == 0:
            torch.save(wrapped.module.state_dict(), out)
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed")
def test_two_data_parallel_processes_equal_one(tmp_path):
    x, y = batch()
    alone = MLP(8, 16, 1, mup(2), bias=True, seed=0, dtype=DOUBLE)
    train(alone, x, y, torch.optim.SGD(param_groups(alone, 0.2), momentum=0.9), steps=5)
    out = Path(tmp_path) / "together.pt"
    torch.multiprocessing.spawn(_one_of_two, args=(tmp_path / "meeting", out), nprocs=2)
    together = torch.load(out, weights_only=True)
    for name, w in alone.state_dict().items():
        torch.testing.assert_close(together[name], w, rtol=1e-10, atol=1e-12)


def test_the_seed_decides_the_start_and_nothing_global_changes():
    state = torch.get_rng_state()
    first = MLP(3, 8, 1, mup(1), seed=4)
    again = MLP(3, 8, 1, mup(1), seed=4)
    other = MLP(3, 8, 1, mup(1), seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.layers[0].weight, again.layers[0].weight)
    assert not torch.equal(first.layers[0].weight, other.layers[0].weight)


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP(3, 8, 1, mup(2), activation="swish"), "activation = 'swish'"),
        (lambda: MLP(3, 8, 1, "mup"), "parametrization = 'mup'"),
        (lambda: MLP(3, 0, 1, mup(2)), "width = 0"),
        (lambda: MLP(3, 8.0, 1, mup(2)), "width = 8.0"),
        (lambda: MLP(3, 8, 1, mup(2), std=[1.0, 1.0]), "std has 2 numbers"),
        (lambda: MLP(3, 8, 1, mup(2), std=-1.0), "std = -1.0"),
        (lambda: MLP(3, 8, 1, mup(2), multipliers=[1.0]), "multipliers has 1 numbers"),
        (lambda: MLP(3, 8, 1, mup(2), base_width=0), "base_width = 0"),
        (lambda: ABCLinear(3, 8, mup(1), layer=3), "layer = 3; expected a whole number from 1 to 2"),
        (lambda: param_groups(MLP(3, 8, 1, mup(1)), lr=float("nan")), "lr = nan"),
        (lambda: param_groups(MLP(3, 8, 1, mup(1)), lr=0.1, optimizer="lion"), "optimizer = 'lion'"),
        (lambda: param_groups(torch.nn.Linear(3, 1), lr=0.1), "parameter 'weight' is not in an ABCLinear"),
    ],
)
def test_bad_input_is_one_line(make, message):
    with pytest.raises(InputError) as error:
        make()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_docstring_examples():
    results = doctest.testmod(tp4nn)
    assert results.attempted >= 8
    assert results.failed == 0
