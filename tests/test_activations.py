"""Dual kernels of vectors: quadrature, a million Gaussian units, finite differences."""

import doctest
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tp4lib import activations, kernels, linear_limit
from tp4lib.activations import ACTIVATIONS, Hermite, activation_of, dual, duals, hermite
from tp4lib.base.errors import InputError
from tp4lib.kernels import nngp, ntk
from tp4lib.maml.kernel_spaces import limit_kernel
from tp4lib.nn import MLP
from tp4lib.parametrization import mup
from tp4lib.pi_limit import PiMLP
from tp4lib.program import FiniteWidth, InfiniteWidth, train_mlp

F64 = torch.float64
NAMES = list(ACTIVATIONS)


def vectors(n: int, r: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(n, r, dtype=F64, generator=torch.Generator().manual_seed(seed)) / math.sqrt(r)


def by_quadrature(phi, u: torch.Tensor, v: torch.Tensor) -> float:
    """E phi(u.z) phi(v.z) in polar coordinates, where the kinks of ReLU lie on rays."""
    radii, weights = np.polynomial.laguerre.laggauss(80)
    angles = (np.arange(4000) + 0.5) * 2 * np.pi / 4000
    z = np.sqrt(2 * radii)[:, None, None] * np.stack([np.cos(angles), np.sin(angles)])
    L = np.linalg.cholesky(torch.stack([torch.stack([u @ u, u @ v]), torch.stack([u @ v, v @ v])]).numpy())
    a, b = (torch.from_numpy(row[0] * z[:, 0] + row[1] * z[:, 1]) for row in L)
    return float((torch.from_numpy(weights) * (phi(a) * phi(b)).mean(1)).sum())


@pytest.mark.parametrize("name", NAMES)
def test_kernels_equal_quadrature(name):
    u, v = vectors(2, 5, seed=3, scale=1.3)
    kernel = dual(name)
    assert kernel(u[None], v[None]).item() == pytest.approx(by_quadrature(kernel.phi, u, v), abs=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_forward_and_backward_equal_means_over_a_million_hidden_units(name):
    """g -> sum_i A_i K(B_i, g), and its derivative in g, against W phi(Omega g) with explicit hidden units."""
    kernel, r, n = dual(name), 4, 1_000_000
    A, B, g = vectors(6, 3, seed=1), vectors(6, r, seed=2), vectors(2, r, seed=3).requires_grad_()
    generator = torch.Generator().manual_seed(0)
    forward, backward, square_f, square_b = 0, 0, 0, 0
    for _ in range(10):
        omega = torch.randn(n // 10, r, dtype=F64, generator=generator)
        readout = kernel.phi(omega @ B.T) @ A  # (units, 3)
        h = (omega @ g.T).detach().requires_grad_()
        x = kernel.phi(h)
        (slope,) = torch.autograd.grad(x.sum(), h)
        terms_f = x.detach()[:, :, None] * readout[:, None, :]  # (units, 2, 3)
        terms_b = (slope * readout.sum(1, keepdim=True))[:, :, None] * omega[:, None, :]  # (units, 2, r)
        forward, backward = forward + terms_f.sum(0) / n, backward + terms_b.sum(0) / n
        square_f, square_b = square_f + terms_f.square().sum(0) / n, square_b + terms_b.square().sum(0) / n
    exact = kernel(g, B) @ A
    (gradient,) = torch.autograd.grad(exact.sum(), g)
    assert ((exact - forward).abs() < 4 * (square_f / n).sqrt()).all()
    assert ((gradient - backward).abs() < 4 * (square_b / n).sqrt()).all()
    assert exact.detach().abs().max() > 20 * (square_f / n).sqrt().max()  # the test can tell


@pytest.mark.parametrize("name", NAMES)
def test_first_and_second_derivatives_equal_finite_differences(name):
    kernel = dual(name)
    u, v = vectors(3, 4, seed=4).requires_grad_(), vectors(2, 4, seed=5).requires_grad_()
    assert torch.autograd.gradcheck(kernel, (u, v))
    assert torch.autograd.gradgradcheck(kernel, (u, v))


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_stay_finite_and_right_where_vectors_meet_or_vanish(name):
    kernel = dual(name)
    B = vectors(1, 4, seed=6)
    for g in (B.clone(), -B, 2 * B, torch.zeros_like(B)):
        g.requires_grad_()
        (first,) = torch.autograd.grad(kernel(B, g).sum(), g, create_graph=True)
        assert torch.isfinite(first).all()
        if name != "identity":
            (second,) = torch.autograd.grad((first * vectors(1, 4, seed=7)).sum(), g)
            assert torch.isfinite(second).all()
    # B . E phi(B.z) phi'(B.z) z is half the derivative of s -> E phi(s B.z)^2, which no angle enters.
    g = B.clone().requires_grad_()
    (first,) = torch.autograd.grad(kernel(B, g).sum(), g)
    x = torch.linspace(-12, 12, 200_001, dtype=F64)
    density = torch.exp(-x * x / 2) / density_sum(x)
    diagonal = lambda s: (kernel.phi(s * B.norm() * x).square() * density).sum().item()  # noqa: E731
    assert (first * B).sum().item() == pytest.approx((diagonal(1.001) - diagonal(0.999)) / 0.004, rel=1e-5)


def density_sum(x: torch.Tensor) -> torch.Tensor:
    return torch.exp(-x * x / 2).sum()


def test_relus_second_derivative_vanishes_where_two_vectors_meet():
    """d^2 K / dg^2 = E relu(B.z) delta(g.z) z z^T is 0 at g = B, though both of its parts are unbounded there."""
    kernel, B = dual("relu"), vectors(1, 3, seed=1)
    for shift in (1e-3, 1e-6, 1e-8, 0.0):
        g = (B + shift * vectors(1, 3, seed=2)).requires_grad_()
        (first,) = torch.autograd.grad(kernel(B, g).sum(), g, create_graph=True)
        hessian = torch.stack([torch.autograd.grad(part, g, retain_graph=True)[0] for part in first[0]])
        assert hessian.abs().max() < max(10 * shift, 1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_they_agree_with_the_duals_of_covariances(name):
    u, v = vectors(5, 6, seed=8), vectors(4, 6, seed=9)
    other = dual(name).value(u @ v.T, (u * u).sum(1)[:, None], (v * v).sum(1))
    assert torch.allclose(dual(name)(u, v), other, atol=1e-13)


@pytest.mark.parametrize(
    ("name", "size"), [("erf", 2.0), ("quadratic", 2.0), ("identity", 3.0), ("relu", 2.0)]
)
def test_an_expansion_errs_by_no_more_than_it_says(name, size):
    exact = dual(name)
    cut = Hermite(exact.phi, terms=24, nodes=128)
    u, v = vectors(6, 4, seed=1), vectors(5, 4, seed=2)
    u, v = (size * F.normalize(w, dim=1) for w in (u, v))
    error = (exact(u, v) - cut(u, v)).abs().max().item()
    quadrature = 5e-3 if name == "relu" else 1e-12  # a kink is hard on Gauss-Hermite nodes
    assert error <= cut.tail(size) + quadrature
    assert cut.tail(size) < {"erf": 2e-2, "relu": 2e-2}.get(name, 1e-10)


def test_longer_expansions_are_better_and_odd_functions_take_half_the_terms():
    short, long = Hermite(torch.tanh, terms=12), Hermite(torch.tanh, terms=48)
    assert short.tail(1.0) > 100 * long.tail(1.0)
    assert long.orders == list(range(1, 48, 2))


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    seed=st.integers(0, 1000),
    n=st.integers(1, 8),
    r=st.integers(1, 6),
    scale=st.sampled_from([0.0, 0.1, 1.0, 3.0]),
)
def test_symmetric_positive_and_blind_to_rotation(name, seed, n, r, scale):
    kernel, v = dual(name), vectors(n, r, seed, scale)
    K = kernel(v, v)
    assert torch.allclose(K, K.T, atol=1e-12 * (1 + K.abs().max().item()))
    assert torch.linalg.eigvalsh(K)[0] > -1e-7 * (1 + K.diagonal().max())
    Q = torch.linalg.qr(vectors(r, r, seed + 1)).Q
    assert torch.allclose(kernel(v @ Q, v @ Q), K, atol=3e-7 * (1 + K.abs().max().item()))
    assert torch.allclose(kernel.split(v).vectors, v, atol=1e-12)


def test_batches_of_matrices():
    kernel = dual("relu")
    u, v = vectors(12, 4).view(3, 4, 4), vectors(15, 4, seed=1).view(3, 5, 4)
    assert torch.allclose(kernel(u, v)[1], kernel(u[1], v[1]))


@pytest.mark.parametrize("name", NAMES)
def test_slopes_are_derivatives(name):
    h = torch.linspace(-4, 4, 100, dtype=F64).requires_grad_()  # without 0, ReLU's kink
    row = ACTIVATIONS[name]
    (exact,) = torch.autograd.grad(row.phi(h).sum(), h)
    assert torch.allclose(row.slope(h.detach()).to(F64), exact, atol=1e-14)
    of_function = activation_of(lambda h: row.phi(h)).slope
    assert torch.equal(of_function(h.detach()), exact)
    if name not in ("relu", "identity"):
        (curvature,) = torch.autograd.grad(of_function(h).sum(), h)  # differentiable again
        (expected,) = torch.autograd.grad(row.slope(h).sum(), h)
        assert torch.allclose(curvature, expected, atol=1e-13)


@pytest.mark.parametrize("activation", [*NAMES, "linear", torch.sin, lambda h: h * torch.sigmoid(h)])
def test_what_one_module_accepts_all_accept(activation):
    x, y = vectors(3, 2, scale=0.5), vectors(3, 1, seed=1)
    one = MLP(2, 8, 1, mup(2), activation, seed=0, dtype=F64)
    assert one(x).isfinite().all()
    assert torch.allclose(one.phi(x), dual(activation).phi(x))
    assert PiMLP(2, 1, 4, 2, activation, dtype=F64).loss_step(x, y, 0.1).isfinite()
    assert nngp(x, x, 2, activation).isfinite().all()
    assert ntk(x, x, 2, activation).isfinite().all()
    assert limit_kernel("ntk", activation)(x, x).isfinite().all()
    program = dict(activation=activation, lr=1e-4, steps=2)
    for world in (FiniteWidth(20), InfiniteWidth(2000)):
        assert train_mlp(world, x, y, mup(2), **program).outputs.isfinite().all()


def test_linear_is_another_name_of_identity():
    x = vectors(3, 4)
    assert activation_of("linear") is activation_of("identity")
    assert MLP(4, 8, 1, mup(1), "linear").activation == "identity"
    assert torch.equal(nngp(x, x, 2, "linear"), nngp(x, x, 2, "identity"))


@pytest.mark.parametrize("derivatives", ["autograd", "stein"])
def test_programs_take_a_function_for_what_it_is(derivatives):
    """tanh by name and as a function: the same network at any width, and the same limit."""
    x, y = vectors(3, 2), vectors(3, 1, seed=1)
    runs = [
        [
            train_mlp(make(), x, y, mup(2), activation=activation, lr=0.5, steps=4).outputs
            for activation in ("tanh", lambda h: torch.tanh(h))
        ]
        for make in (lambda: FiniteWidth(50), lambda: InfiniteWidth(20_000, derivatives=derivatives))
    ]
    assert torch.allclose(*runs[0], atol=1e-12)
    assert torch.allclose(*runs[1], atol=0.02 * float(runs[1][0].abs().max()))


@pytest.mark.parametrize("take", [activation_of, dual, lambda a: MLP(2, 4, 1, mup(1), a)])
@pytest.mark.parametrize("bad", ["swish", None, 3])
def test_an_unknown_activation_is_refused_in_one_line(take, bad):
    with pytest.raises(
        InputError, match=r"activation = .*; expected one of relu, .* or a function; try"
    ) as caught:
        take(bad)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "module", [activations, duals, hermite, kernels, linear_limit], ids=lambda m: m.__name__
)
def test_the_examples_in_the_documentation(module):
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0


def test_bad_input():
    with pytest.raises(InputError, match="expected one of relu, erf"):
        dual("swish")
    with pytest.raises(InputError, match="terms = 10; expected a whole number from 1 to 5"):
        Hermite(torch.tanh, terms=10, nodes=5)
    with pytest.raises(InputError, match="nodes = 512; expected a whole number from 1 to 300"):
        Hermite(torch.tanh, nodes=512)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(one=st.floats(-6, 6), other=st.floats(-6, 6), r=st.sampled_from([1, 4, 100]), seed=st.integers(0, 100))
@example(one=6.0, other=6.0, r=100, seed=0)
@example(one=-6.0, other=-6.0, r=1, seed=0)
def test_float32_agrees_with_float64_wherever_it_can(name, one, other, r, seed):
    u, v = vectors(4, r, seed, 10**one).float(), vectors(3, r, seed + 1, 10**other).float()
    v = torch.cat([v, 10 ** (other - one) * u[:1], torch.zeros(1, r)])
    kernel = dual(name)
    exact, found = kernel(u.double(), v.double()), kernel(u, v).double()
    # An angle is known to sqrt(2 eps) = 5e-4: what K may lose, beside its size sqrt(K(u, u) K(v, v)).
    size = (
        kernel(u.double(), u.double()).diagonal()[:, None] * kernel(v.double(), v.double()).diagonal()
    ).sqrt()
    assert ((found - exact).abs() <= 1e-3 * size + 1e-37).all()


@pytest.mark.parametrize("name", ["relu", "erf", "identity"])  # quadratic's rho is the square itself
@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e18, 1e30])
def test_squares_outside_the_range_of_float32_are_not_formed(name, scale):
    kernel, v = dual(name), vectors(3, 5, seed=1)
    both = kernel(scale * v, v / scale)
    found = kernel((scale * v).float(), (v / scale).float()).double()
    assert torch.allclose(found, both, rtol=1e-3, atol=1e-3 * both.abs().max().item())


@pytest.mark.parametrize("name", NAMES)
def test_nan_in_gives_nan_out(name):
    v = vectors(3, 4).float()
    v[1, 2] = math.nan
    K = dual(name)(v, vectors(2, 4).float())
    assert K[1].isnan().all()
    assert K[[0, 2]].isfinite().all()


def test_an_activation_that_is_not_finite_is_refused():
    with pytest.raises(InputError, match="activation log is not finite everywhere"):
        Hermite(torch.log)
    broken = Hermite(torch.tanh, terms=4)
    broken.phi = torch.log
    assert math.isnan(broken.tail(1.0))
