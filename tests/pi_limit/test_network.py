"""Pi-limits against finite pi-networks, the linear limit, functional derivatives and second-order MAML."""

import copy
import doctest
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tp4lib.base.divergence import Diverged
from tp4lib.base.errors import InputError
from tp4lib.linear_limit import LinearLimit
from tp4lib.pi_limit import PiMLP, compression
from tp4lib.pi_limit import layer as rows_module
from tp4lib.pi_limit import network as network_module
from tp4lib.pi_limit.finite import default_loss
from tp4lib.pi_limit.reference import pi_step

F64 = torch.float64


def data(n: int = 6, d: int = 3, o: int = 2, seed: int = 0, labels: bool = False):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, dtype=F64, generator=generator)
    y = (
        torch.randint(o, (n,), generator=generator)
        if labels
        else torch.randn(n, o, dtype=F64, generator=generator)
    )
    return x, y


def network(depth: int = 2, rank: int = 5, d: int = 3, o: int = 2, **options) -> PiMLP:
    options = dict(sigma_hidden=3.0, sigma_out=1.0, bias_scale=0.5, dtype=F64) | options
    return PiMLP(d, o, rank, depth, **options)


def train(net, steps: int = 10, lr: float = 0.1, **options) -> list[torch.Tensor]:
    """Ten steps on minibatches; outputs at fixed inputs after each."""
    x, y = data(8, labels=options.pop("labels", False))
    outputs = []
    for step in range(steps):
        batch = slice(4 * (step % 2), 4 * (step % 2) + 4)
        net.loss_step(x[batch], y[batch], lr, **options)
        outputs.append(net(x).detach())
    return outputs


@pytest.mark.parametrize("activation", ["relu", "erf", "quadratic", "tanh"])
def test_ten_steps_of_finite_pi_networks_converge_like_one_over_root_width(activation):
    scale = 0.2 if activation == "quadratic" else 1.0
    limit = network(activation=activation, sigma_in=scale, sigma_hidden=3.0 * scale, rank=4)
    options = dict(clip=1.0, weight_decay=0.05, labels=True, lr=0.3)
    exact = train(copy.deepcopy(limit), **options)
    assert (exact[-1] - exact[0]).norm() > 0.3  # it learns
    widths, seeds, errors = [64, 256, 1024], 5, []
    for width in widths:
        each = [train(limit.sample(width, seed), **options) for seed in range(seeds)]
        errors.append(np.mean([float((mine[-1] - exact[-1]).square().mean()) for mine in each]) ** 0.5)
    slope = np.polyfit(np.log(widths), np.log(errors), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.17), errors
    assert errors[-1] < 0.25 * exact[-1].square().mean().sqrt()


@pytest.mark.parametrize("activation", ["relu", "erf", "identity", "quadratic", "tanh", "gelu"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_training_is_the_reference_step_by_step(depth, activation):
    """Twelve minibatches: U, the rows of every layer and the losses are those of the dozen lines of `pi_step`."""
    scale = 0.3 if activation == "quadratic" else 1.0
    net = network(depth, activation=activation, sigma_in=scale, sigma_hidden=scale, bias_scale=0.0)
    U, layers = net.U.detach().clone(), [(layer.A.clone(), layer.B.clone()) for layer in net.layers]
    x, y = data(8)
    for step in range(12):
        batch = slice(4 * (step % 2), 4 * (step % 2) + 4)
        U, layers, loss = pi_step(U, layers, x[batch], y[batch], 0.1, net.kernel)
        assert torch.allclose(net.loss_step(x[batch], y[batch], 0.1), loss, atol=1e-12)
    assert torch.allclose(net.U, U, atol=1e-12)
    for layer, (A, B) in zip(net.layers, layers):
        assert torch.allclose(layer.A, A, atol=1e-12)
        assert torch.allclose(layer.B, B, atol=1e-12)


@pytest.mark.parametrize("depth", [1, 3])
def test_other_depths_follow_too(depth):
    limit = network(depth=depth, multipliers=[0.7, *[1.1] * depth], sigma_hidden=2.0, rank=4)
    exact = train(copy.deepcopy(limit), steps=6)[-1]
    wide = [train(limit.sample(2000, seed), steps=6)[-1] for seed in range(2)]
    assert all((f - exact).norm() < 0.15 * exact.norm() for f in wide)


def test_a_network_sampled_after_training_has_the_trained_outputs():
    limit = network(rank=4)
    x, _ = data(8)
    train(limit)
    f = limit(x).detach()
    errors = [((limit.sample(n, 1)(x) - f).norm() / f.norm()).item() for n in (100, 4000)]
    assert errors[1] < 0.05 < 3 * errors[0]


@pytest.mark.parametrize("labels", [False, True])
def test_a_linear_network_of_full_rank_is_the_linear_limit(labels):
    """Rank d + o, depth 1: rows add up to the coefficient matrices of the linear muP limit, at every step."""
    d, o, sigma_out = 3, 2, 0.7
    pi = network(
        1, d + o, activation="identity", sigma_in=1.3, sigma_out=sigma_out, bias_scale=0.5, output_bias=False
    )
    linear = LinearLimit(d, o, 1.3, sigma_out, bias_scale=0.5, dtype=F64)
    x, y = data(8, labels=labels)

    for step in range(10):
        batch = slice(4 * (step % 2), 4 * (step % 2) + 4)
        pi.loss_step(x[batch], y[batch], 0.1)
        loss = default_loss(y)(linear(x[batch]), y[batch])
        gradients = torch.autograd.grad(loss, list(linear.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(linear.parameters(), gradients):
                parameter.sub_(0.1 * gradient)
        assert torch.allclose(pi(x), linear(x), atol=1e-12)


def test_the_appended_rows_are_the_gradient_of_the_function():
    """In a direction C K(B, .) of any hidden or output matrix, the loss changes by <gradient, direction>."""
    net = network(depth=3, rank=4, multipliers=[0.5, 1.2, 0.8, 1.1])
    train(net, steps=3)
    x, y = data(4, seed=5)
    for index, layer in enumerate(net.layers):
        before = len(layer)
        stepped = copy.deepcopy(net)
        stepped.loss_step(x, y, lr=1e-3)
        A = stepped.layers[index].A[before:] / -1e-3
        B = stepped.layers[index].B[before:]
        C, D = data(5, net.rank, layer.d_out, seed=6)[1], data(5, net.rank, 1, seed=7)[0]
        predicted = float((A * (net.kernel(B, D) @ C)).sum())
        losses = []
        for eps in (1e-5, -1e-5):
            moved = copy.deepcopy(net)
            moved.layers[index].append(D, eps * C)
            losses.append(default_loss(y)(moved(x), y).item())
        assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(predicted, rel=1e-6)


def test_the_norm_for_clipping_is_that_of_the_infinite_network():
    """A small step of gradient descent changes the loss by -rate |gradient|^2; clipping bounds the step's length."""
    net = network(depth=2, rank=4)
    train(net, steps=4)
    x, y = data(4, seed=5)
    norm = net.norm(*net._gradients(x, y, default_loss(y))[2:]).item()
    before = default_loss(y)(net(x), y).item()
    small = copy.deepcopy(net)
    small.loss_step(x, y, lr=1e-7)
    assert (before - default_loss(y)(small(x), y).item()) / 1e-7 == pytest.approx(norm**2, rel=1e-4)
    # A step clipped to c is a step of rate c / norm; a clip above the norm does nothing.
    one, other, third = (copy.deepcopy(net) for _ in range(3))
    one.loss_step(x, y, lr=0.1, clip=norm / 4)
    other.loss_step(x, y, lr=0.1 / 4)
    assert torch.allclose(one(x), other(x), atol=1e-9)
    third.loss_step(x, y, lr=0.1, clip=2 * norm)
    other = copy.deepcopy(net)
    other.loss_step(x, y, lr=0.1)
    assert torch.equal(third(x), other(x))
    finite = net.sample(4000)
    h = [p.detach().clone() for p in finite.weights]
    finite.loss_step(x, y, lr=1.0, clip=0.01)
    moved = [
        (p - q).norm().item() * rate for p, q, rate in zip(finite.weights, h, [4000**-0.5, 1.0, 4000**-0.5])
    ]
    assert math.hypot(*moved) <= 0.0101


def inner_step(net, U, A, x, y, eps):
    """MAML's adaptation as a function of the coefficients: new U, and every layer's rows old and new."""
    biases = net.biases

    def forward(x, U, rows):
        g = [x @ U.T + net.bias_scale * biases[0]]
        for index, parts in enumerate(rows, start=1):
            out = sum(net.kernel(g[-1], B) @ A for B, A in parts)
            g.append(out + net.bias_scale * biases[index])
        return g

    rows = [[(layer.B, a)] for layer, a in zip(net.layers, A)]
    g = forward(x, U, rows)
    found = torch.autograd.grad(default_loss(y)(g[-1], y), [U, *g[1:]], create_graph=True)
    adapted = [[*old, (b, -eps * a)] for old, b, a in zip(rows, g[:-1], found[1:])]
    return lambda x: forward(x, U - eps * found[0], adapted)[-1]


@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_second_order_maml_differentiates_through_appended_rows(activation):
    """The outer gradient in U and in all A, through B = g_in and A = dL/dg_out of the inner step, by differences."""
    net = network(depth=2, rank=4, activation=activation)
    train(net, steps=2)
    x, y = data(3, seed=8)
    xq, yq = data(3, seed=9)

    def outer(U, *A):
        return default_loss(yq)(inner_step(net, U, A, x, y, 0.3)(xq), yq)

    inputs = [net.U.detach().clone(), *(layer.A.clone() for layer in net.layers)]
    for tensor in inputs:
        tensor.requires_grad_()
    gradients = torch.autograd.grad(outer(*inputs), inputs)
    generator = torch.Generator().manual_seed(0)
    for index, gradient in enumerate(gradients):
        direction = torch.randn(gradient.shape, dtype=F64, generator=generator)
        values = []
        for eps in (1e-5, -1e-5):
            moved = [t.detach().clone().requires_grad_() for t in inputs]
            moved[index] = (moved[index] + eps * direction).detach().requires_grad_()
            values.append(outer(*moved).item())
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(float((gradient * direction).sum()), rel=1e-5)
    # The adapted function is that of a step of SGD with every bias left where it was.
    stepped = copy.deepcopy(net)
    stepped.loss_step(x, y, 0.3)
    with torch.no_grad():
        for mine, start in zip(stepped.biases, net.biases):
            mine.copy_(start)
    adapted = inner_step(net, inputs[0], [t.detach().requires_grad_() for t in inputs[1:]], x, y, 0.3)
    assert torch.allclose(adapted(xq), stepped(xq), atol=1e-12)


def test_blocks_change_nothing(monkeypatch):
    net = network(depth=2, rank=4)
    train(net, steps=10)
    x, y = data(8, seed=3)
    copies = []
    for budget in (1 << 24, 24):
        monkeypatch.setattr(rows_module, "BUDGET", budget)
        other = copy.deepcopy(net)
        losses = [other.loss_step(x, y, 0.1, clip=0.5) for _ in range(3)]
        copies.append(torch.stack([*losses, *other(x).flatten()]))
        norms = [layer.norm() for layer in other.layers]
    assert torch.allclose(copies[0], copies[1], rtol=1e-12)
    assert norms == pytest.approx([layer.norm() for layer in other.layers])


def test_weight_decay_is_one_number_a_step():
    net = network(depth=2, rank=4, sigma_in=1.0, bias_scale=0.0)
    x, y = data(4)
    other = copy.deepcopy(net)
    net.loss_step(x, y, 0.5, weight_decay=0.2)
    with torch.no_grad():
        rows = [layer.A * 0.9 for layer in other.layers]
        U = other.U * 0.9
    other.loss_step(x, y, 0.5)
    for mine, theirs, start in zip(net.layers, other.layers, rows):
        assert torch.allclose(mine.A[: len(start)], start)
        assert torch.allclose(mine.A[len(start) :], theirs.A[len(start) :])
    assert torch.allclose(net.U - U, other.U - U / 0.9)


def test_a_start_without_readout_is_zero_and_moves_the_readout_first():
    net = PiMLP(3, 2, rank=6, depth=2, dtype=F64)
    x, y = data(4)
    assert torch.equal(net(x), torch.zeros(4, 2, dtype=F64))
    U = net.U.detach().clone()
    net.loss_step(x, y, 0.1)
    assert torch.equal(net.U, U)
    assert net(x).abs().max() > 1e-3
    assert not torch.equal(net.U, U) or net.loss_step(x, y, 0.1) > 0
    assert not torch.equal(net.U, U)


def test_the_start_is_isometric_where_the_rank_allows_it():
    x, _ = data(5, d=4)
    net = PiMLP(4, 2, rank=9, depth=1, sigma_in=1.5, sigma_out=1.0, dtype=F64)
    g = net.preactivations(x)[0]
    assert torch.allclose(g @ g.T, 1.5**2 * x @ x.T)
    assert torch.allclose(net.layers[-1].B @ g.T, torch.zeros(2, 5, dtype=F64), atol=1e-12)
    squares = [
        PiMLP(40, 2, rank=10, depth=1, seed=s, dtype=F64).U.detach().square().sum(0).mean() for s in range(3)
    ]
    assert squares == pytest.approx([1.0] * 3)


def test_any_function_can_be_the_activation():
    limit = network(activation=lambda h: torch.sin(1.5 * h) + 0.5 * h, rank=4)
    exact = train(copy.deepcopy(limit))[-1]
    wide = train(limit.sample(2000))[-1]
    assert (wide - exact).norm() < 0.15 * exact.norm()


def test_the_default_is_float32_and_trains_a_classifier():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 2, generator=generator)
    y = (x[:, 0] * x[:, 1] > 0).long()  # no linear function does this
    net = PiMLP(2, 2, rank=16, depth=2, bias_scale=1.0)
    for _ in range(8):
        for batch in torch.randperm(200, generator=generator).split(20):
            net.loss_step(x[batch], y[batch], 0.5)
    assert (net(x).argmax(1) == y).float().mean() > 0.93
    assert net.U.dtype == net(x).dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(rank=0), "rank = 0"),
        (dict(depth=0), "depth = 0"),
        (dict(activation="swish"), "try activation='relu'"),
        (dict(multipliers=[1.0]), "multipliers=[1.0, 1.0]"),
        (dict(max_rows=2), "max_rows=4096"),
    ],
)
def test_bad_input_is_refused_in_one_line(options, words):
    with pytest.raises(InputError) as caught:
        PiMLP(**dict(d_in=2, d_out=1, rank=4, depth=1) | options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_training_that_diverges_says_so():
    net, (x, y) = network(activation="quadratic"), data(4)

    def run():
        for _ in range(60):
            net.loss_step(x, y, 100.0)

    with pytest.raises(InputError, match="try a smaller lr"):
        run()
    with pytest.raises(InputError, match="width = 3; expected a whole number >= 5; try width=20"):
        net.sample(3)


@pytest.mark.parametrize("finite", [False, True])
def test_a_loss_far_above_the_untrained_one_ends_training(finite):
    (x, y), net = data(64), network()
    net = net.sample(30) if finite else net
    first = net.loss_step(x, y, 0.05)
    net.loss_step(x, y, 30.0)  # far beyond what is stable, far from overflow
    before = copy.deepcopy(net)
    with pytest.raises(Diverged, match=r"in step 3: the loss is .* 3 times .*smaller lr than 30"):
        net.loss_step(x, y, 30.0)
    assert first > 0
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), before.state_dict().values()))


def test_single_samples_may_be_worse_than_the_untrained_network():
    """One sample in twenty is an outlier, so that its loss is far above three times that of the output 0 elsewhere."""
    x, y = data(200)
    y = torch.where(torch.arange(200)[:, None] % 20 == 0, -3.0, 0.3) * torch.ones_like(y)
    net = network(sigma_out=0.0)
    losses = [net.loss_step(x[i : i + 1], y[i : i + 1], 0.05).item() for i in range(200)]
    assert max(losses[20:]) > 30 * np.median(losses)


def test_weight_decay_leaves_biases_alone():
    x, y = data()
    for make in (network, lambda: network().sample(30)):
        plain, decayed = make(), make()
        for net in (plain, decayed):
            for bias in net.biases:
                bias.data += 1.0
        plain.loss_step(x, y, 0.1)
        decayed.loss_step(x, y, 0.1, weight_decay=0.5)
        assert len(plain.biases) == 3
        assert all(torch.equal(a, b) for a, b in zip(plain.biases, decayed.biases))
    assert not torch.equal(plain.weights[0], decayed.weights[0])


def test_what_overflows_is_named():
    x, y = torch.ones(4, 3), torch.ones(4, 2)
    with pytest.raises(InputError, match="a bias is no longer finite"):
        PiMLP(3, 2, 4, 1, bias_scale=1e25).loss_step(x, y, 1e20)
    with pytest.raises(InputError, match="a new row is no longer finite"):
        PiMLP(3, 2, 4, 1).loss_step(x, 1e10 * y, 1e30)


def test_losses():
    x, y = data(4, labels=True)
    assert default_loss(y) is F.cross_entropy
    assert default_loss(x)(torch.zeros(2, 3), torch.ones(2, 3)).item() == 1.5


@pytest.mark.parametrize("module", [compression, network_module, rows_module], ids=lambda m: m.__name__)
def test_the_examples_in_the_documentation(module):
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0
