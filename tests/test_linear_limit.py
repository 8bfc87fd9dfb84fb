"""The linear muP limit against theory, a plain transcription, and networks of finite width."""

import math

import numpy as np
import pytest
import torch

from tp4lib.base.errors import InputError
from tp4lib.linear_limit import LinearLimit, sgd_step

D_IN, D_OUT = 6, 2


def data(seed: int = 0, n: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, D_IN, generator=generator, dtype=torch.float64)
    return x, torch.randn(n, D_OUT, generator=generator, dtype=torch.float64)


def limit(bias_scale: float = 0.7) -> LinearLimit:
    return LinearLimit(D_IN, D_OUT, sigma_in=0.8, sigma_out=0.5, bias_scale=bias_scale, dtype=torch.float64)


def train(
    network: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int, lr: float = 0.1
) -> torch.Tensor:
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        (0.5 * (network(x) - y).square().sum(1).mean()).backward()
        optimizer.step()
    return network(x).detach()


def test_one_step_by_hand():
    s1, s2, alpha, lr, y = 0.8, 0.5, 0.7, 0.1, 2.0
    network = LinearLimit(1, 1, s1, s2, alpha, dtype=torch.float64)
    x = torch.ones(1, 1, dtype=torch.float64)
    assert network(x).item() == 0  # the limit starts at f = 0 exactly
    f = train(network, x, torch.full((1, 1), y, dtype=torch.float64), steps=1, lr=lr)
    # f = 0 so chi = -y: U = [s1; lr y s2], V = [lr y s1, s2], b = [0; lr y alpha s2].
    expected_U, expected_V = [[s1], [lr * y * s2]], [[lr * y * s1, s2]]
    torch.testing.assert_close(network.U.data, torch.tensor(expected_U, dtype=torch.float64))
    torch.testing.assert_close(network.V.data, torch.tensor(expected_V, dtype=torch.float64))
    torch.testing.assert_close(network.b.data, torch.tensor([0, lr * y * alpha * s2], dtype=torch.float64))
    assert f.item() == pytest.approx(lr * y * (s1**2 + s2**2 + alpha**2 * s2**2), rel=1e-12)


def test_equals_a_plain_transcription():
    x, y = data()
    network = limit()
    ours = train(network, x, y, steps=50)

    X, Y, alpha = x.numpy(), y.numpy(), 0.7
    U = np.vstack([0.8 * np.eye(D_IN), np.zeros((D_OUT, D_IN))])
    V = np.hstack([np.zeros((D_OUT, D_IN)), 0.5 * np.eye(D_OUT)])
    b = np.zeros(D_IN + D_OUT)
    for _ in range(50):
        dU, dV, db = np.zeros_like(U), np.zeros_like(V), np.zeros_like(b)
        for xi, yi in zip(X, Y):
            h = U @ xi + alpha * b
            chi = (V @ h - yi) / len(X)
            dU += np.outer(V.T @ chi, xi)
            dV += np.outer(chi, h)
            db += alpha * V.T @ chi
        U, V, b = U - 0.1 * dU, V - 0.1 * dV, b - 0.1 * db
    np.testing.assert_allclose(network.U.detach(), U, atol=1e-13)
    np.testing.assert_allclose(network.V.detach(), V, atol=1e-13)
    np.testing.assert_allclose(ours, (X @ U.T + alpha * b) @ V.T, atol=1e-12)


@pytest.mark.parametrize("width", [math.inf, 30])
def test_training_is_the_reference_step_by_step(width):
    x, y = data()
    network = limit() if width == math.inf else limit().sample(width, reduce=False)
    U, V, b = (part.detach().clone() for part in (network.U, network.V, network.b))
    for _ in range(20):
        U, V, b = sgd_step(U, V, b, x, y, lr=0.1, alpha=0.7)
        train(network, x, y, steps=1)
    for mine, theirs in ((network.U, U), (network.V, V), (network.b, b)):
        torch.testing.assert_close(mine.detach(), theirs, rtol=1e-12, atol=1e-13)


def test_finite_widths_approach_the_limit_at_rate_one_over_root_n():
    x, y = data()
    f = train(limit(), x, y, steps=20)
    widths = [2**k for k in range(5, 12)]
    errors = []
    for width in widths:
        squares = [
            (train(limit().sample(width, seed), x, y, steps=20) - f).square().mean().item()
            for seed in range(16)
        ]
        errors.append(math.sqrt(sum(squares) / len(squares)))
    slope = np.polyfit(np.log(widths), np.log(errors), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.08), (slope, errors)


@pytest.mark.parametrize("bias_scale", [0.0, 0.7])
def test_a_wide_network_is_exactly_one_of_width_d_plus_o(bias_scale):
    x, y = data()
    whole, reduced = (limit(bias_scale).sample(200, seed=3, reduce=reduce) for reduce in (False, True))
    assert whole.U.shape == (200, D_IN)
    assert reduced.U.shape == (D_IN + D_OUT, D_IN)
    assert reduced.width == whole.width == 200
    for _ in range(5):
        torch.testing.assert_close(
            train(reduced, x, y, steps=20), train(whole, x, y, steps=20), rtol=1e-10, atol=1e-10
        )


def test_sample_is_the_mup_network_of_that_width():
    from tp4lib.nn import MLP
    from tp4lib.parametrization import mup

    width, (x, y) = 48, data()
    ours = limit(bias_scale=0.0).sample(width, seed=1, reduce=False)
    theirs = MLP(D_IN, width, D_OUT, mup(1), activation="identity").double()
    # muP: W^1 = sqrt(n) w^1, W^2 = w^2 / sqrt(n), the rates of w^1 and w^2 equal and not changing with n.
    with torch.no_grad():
        w1, w2 = theirs.parameters()
        w1.copy_(ours.U)
        w2.copy_(ours.V)
    f = theirs(x)
    torch.testing.assert_close(f, ours(x))
    torch.testing.assert_close(train(theirs, x, y, steps=20), train(ours, x, y, steps=20))


def test_sampled_entries_have_mups_variance():
    wide = LinearLimit(40, 30, sigma_in=0.8, sigma_out=0.5, dtype=torch.float64).sample(1000, reduce=False)
    assert wide.U.std().item() * 1000**0.5 == pytest.approx(0.8, rel=0.02)
    assert wide.V.std().item() * 1000**0.5 == pytest.approx(0.5, rel=0.02)


def test_sampling_is_by_seed_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    a, b, c = limit().sample(20, seed=1), limit().sample(20, seed=1), limit().sample(20, seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a.U, b.U)
    assert not torch.equal(a.U, c.U)
    state = limit().sample(20, seed=5).state_dict()
    a.load_state_dict(state)
    assert torch.equal(a.U, state["U"])


@pytest.mark.parametrize("width", [0, -3])
def test_bad_width(width):
    with pytest.raises(InputError, match=f"width = {width}; expected a whole number >= 1"):
        limit().sample(width)


def test_too_wide_to_draw_is_refused_before_allocation():
    with pytest.raises(InputError, match="drawing width 10000000000000 needs"):
        limit().sample(10**13)


def test_bad_sizes():
    with pytest.raises(InputError, match="d_in = 0"):
        LinearLimit(0, 2)
