"""Kernels against wide networks (their covariance, their autograd), quadrature and pencil and paper."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.func import functional_call, jacrev, vmap

from tp4lib import kernels
from tp4lib.activations import Hermite
from tp4lib.activations import dual as dual_of
from tp4lib.activations.duals import arc_cosine
from tp4lib.base.errors import InputError

F64 = torch.float64
ACTIVATIONS = {
    "relu": torch.relu,
    "erf": torch.erf,
    "identity": lambda h: h,
    "tanh": torch.tanh,
    "gelu": torch.nn.functional.gelu,
    "quadratic": torch.square,
}
CLOSED, ALL = ["relu", "erf", "identity"], list(ACTIVATIONS)


def inputs(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, dtype=F64, generator=torch.Generator().manual_seed(seed))


class Network(torch.nn.Module):
    """f(x) = w_std / sqrt(n) v . phi(h^L) + b_std b, every parameter N(0, 1): the NTK parametrization, transcribed."""

    def __init__(
        self, d: int, width: int, depth: int, activation: str, w_std: float, b_std: float, seed: int
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        sizes = [d] + [width] * depth + [1]
        draw = lambda *shape: torch.nn.Parameter(torch.randn(*shape, dtype=F64, generator=generator))  # noqa: E731
        self.weights = torch.nn.ParameterList([draw(m, n) for n, m in itertools.pairwise(sizes)])
        self.biases = torch.nn.ParameterList([draw(m) for m in sizes[1:]])
        self.phi, self.w_std, self.b_std = ACTIVATIONS[activation], w_std, b_std

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            x = x if layer == 0 else self.phi(x) / math.sqrt(x.shape[-1])
            x = self.w_std * x @ weight.T + self.b_std * bias
        return x[..., 0]


def empirical_ntk(network: Network, x: torch.Tensor) -> torch.Tensor:
    parameters = dict(network.named_parameters())
    jacobian = vmap(jacrev(lambda p, row: functional_call(network, p, (row,))), (None, 0))(parameters, x)
    flat = torch.cat([j.flatten(1) for j in jacobian.values()], dim=1)
    return flat @ flat.T


def last_layer_covariance(network: Network, x: torch.Tensor) -> torch.Tensor:
    """The exact covariance of f over the readout's weights, given the random layers below it."""
    for layer, (weight, bias) in enumerate(zip(network.weights[:-1], network.biases[:-1])):
        x = x if layer == 0 else network.phi(x) / math.sqrt(x.shape[-1])
        x = network.w_std * x @ weight.T + network.b_std * bias
    features = network.phi(x)
    return network.w_std**2 * features @ features.T / features.shape[1] + network.b_std**2


@pytest.mark.parametrize("activation", [*CLOSED, "tanh", "gelu"])
@pytest.mark.parametrize("depth", [1, 2])
def test_wide_networks_converge_to_the_nngp_at_rate_one_over_root_width(activation, depth):
    x = inputs(6, 4) / 2
    exact = kernels.nngp(x, x, depth, activation, w_std=1.2, b_std=0.3)
    errors = []
    for width in (64, 256, 1024):
        draws = [
            last_layer_covariance(Network(4, width, depth, activation, 1.2, 0.3, seed), x)
            for seed in range(12)
        ]
        errors.append(torch.stack([(draw - exact).square().mean() for draw in draws]).mean().sqrt().item())
    slope = np.polyfit(np.log([64, 256, 1024]), np.log(errors), 1)[0]
    assert -0.65 < slope < -0.35, errors
    assert errors[-1] < 0.1 * exact.abs().max()


@pytest.mark.parametrize("activation", [*CLOSED, "tanh", "gelu"])
@pytest.mark.parametrize("depth", [1, 2])
def test_the_ntk_is_autograds_ntk_of_a_wide_network(activation, depth):
    x = inputs(4, 4, seed=1) / 2
    exact = kernels.ntk(x, x, depth, activation, w_std=1.2, b_std=0.3)
    errors = []
    for width in (32, 512):
        draws = [empirical_ntk(Network(4, width, depth, activation, 1.2, 0.3, seed), x) for seed in range(8)]
        errors.append(
            torch.stack([(draw - exact).norm().square() for draw in draws]).mean().sqrt() / exact.norm()
        )
    assert errors[1] < 0.2, errors
    assert 0.1 < errors[1] / errors[0] < 0.5, errors  # 16 times wider: about a quarter of the error


@pytest.mark.parametrize("activation", ALL)
def test_duals_equal_two_dimensional_quadrature(activation):
    s11, s12, s22 = 1.3, -0.6, 0.7
    # Polar coordinates make ReLU's kinks lie on rays; 4000 angles resolve them to 1e-6.
    radii, weights = np.polynomial.laguerre.laggauss(60)  # r^2 / 2 is exponentially distributed
    angles = (np.arange(4000) + 0.5) * 2 * np.pi / 4000
    z = np.sqrt(2 * radii)[:, None, None] * np.stack([np.cos(angles), np.sin(angles)])
    a, b = torch.linalg.cholesky(torch.tensor([[s11, s12], [s12, s22]], dtype=F64)).numpy()
    u, v = (torch.from_numpy(row[0] * z[:, 0] + row[1] * z[:, 1]) for row in (a, b))
    phi = ACTIVATIONS[activation]
    slope = {
        "relu": lambda h: (h > 0).to(F64),
        "erf": lambda h: 2 / math.sqrt(math.pi) * torch.exp(-h * h),
        "identity": torch.ones_like,
        "tanh": lambda h: 1 / torch.cosh(h) ** 2,
        "gelu": lambda h: torch.special.ndtr(h) + h * torch.exp(-h * h / 2) / math.sqrt(2 * math.pi),
        "quadratic": lambda h: 2 * h,
    }[activation]
    mean = lambda values: (torch.from_numpy(weights) * values.mean(1)).sum()  # noqa: E731
    arguments = [torch.tensor(s, dtype=F64) for s in (s12, s11, s22)]
    dual = dual_of(activation)
    assert dual.value(*arguments).item() == pytest.approx(mean(phi(u) * phi(v)).item(), abs=2e-6)
    assert dual.derivative(*arguments).item() == pytest.approx(mean(slope(u) * slope(v)).item(), abs=2e-4)


@pytest.mark.parametrize("activation", ALL)
def test_prices_theorem_and_gradients(activation):
    """d value / d s12 = derivative; and autograd agrees with finite differences in all three arguments."""
    dual = dual_of(activation)
    s = [torch.tensor(v, dtype=F64, requires_grad=True) for v in (0.4, 1.3, 0.7)]
    gradient = torch.autograd.grad(dual.value(*s), s[0])[0]
    assert torch.allclose(gradient, dual.derivative(*s))
    assert torch.autograd.gradcheck(dual.value, s)
    assert torch.autograd.gradgradcheck(dual.value, s)


def test_any_function_has_kernels():
    """For the sine, E sin u sin v = exp(-(s11 + s22) / 2) sinh s12, and E cos u cos v the same with cosh."""
    x = inputs(5, 4, seed=3) / 2
    s, own = x @ x.T, (x * x).sum(1)
    decay = torch.exp(-(own[:, None] + own) / 2)
    value, slope = decay * torch.sinh(s), decay * torch.cosh(s)
    assert torch.allclose(kernels.nngp(x, x, 1, torch.sin), value, atol=1e-13)
    assert torch.allclose(kernels.ntk(x, x, 1, lambda h: torch.sin(h)), value + slope * s, atol=1e-13)
    assert torch.allclose(kernels.ntk(x, x, 1, Hermite(torch.sin, terms=20)), value + slope * s, atol=1e-10)


def test_what_an_expansion_cannot_hold_is_refused_in_one_line():
    x = inputs(3, 4)
    for kernel, options in ((kernels.nngp, {}), (kernels.ntk, {}), (kernels.nngp, dict(b_std=20.0))):
        scale = 1.0 if options else 20.0
        with pytest.raises(
            InputError, match=r"expansion of tanh leaves out .*%; try a smaller w_std"
        ) as caught:
            kernel(scale * x, scale * x, 1, "tanh", **options)
        assert "\n" not in str(caught.value)
    kink = torch.nn.functional.leaky_relu  # its value is known to 0.01 %, its derivative's jump is not
    assert kernels.nngp(x, x, 2, kink).isfinite().all()
    with pytest.raises(InputError, match="expansion of leaky_relu' leaves out"):
        kernels.ntk(x, x, 2, kink)
    assert kernels.ntk(x[:0], x, 2, "tanh").shape == (0, 3)


def test_many_rows_of_an_expansion_go_in_blocks(monkeypatch):
    x = inputs(200, 3)
    whole = kernels.ntk(x, x[:5], 2, "gelu")
    monkeypatch.setattr("tp4lib.activations.hermite._AT_ONCE", 7)
    assert torch.allclose(kernels.ntk(x, x[:5], 2, "gelu"), whole, rtol=1e-12)


def test_gradients_stay_finite_and_right_where_two_inputs_meet():
    x = inputs(3, 5).requires_grad_()
    diagonal = kernels.nngp(x, x, depth=1).diagonal().sum()  # |x|^2 / 2
    (gradient,) = torch.autograd.grad(diagonal, x)
    assert torch.allclose(gradient, x)
    zero = torch.zeros(1, 5, dtype=F64, requires_grad=True)
    (gradient,) = torch.autograd.grad(kernels.nngp(zero, x.detach(), depth=2).sum(), zero)
    assert torch.isfinite(gradient).all()


def test_depth_one_by_hand():
    x = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]], dtype=F64)
    # Angles: 0 and 1 at 45 degrees, norms 1 and sqrt 2; 0 and 2 at 90 degrees; 1 and 2 at 45, norms sqrt 2 and 2.
    k = lambda c: (math.sqrt(1 - c * c) + (math.pi - math.acos(c)) * c) / (2 * math.pi)  # noqa: E731
    half = math.sqrt(0.5)
    nngp = torch.tensor([
        [0.5, math.sqrt(2) * k(half), 2 * k(0.0)],
        [math.sqrt(2) * k(half), 1.0, math.sqrt(8) * k(half)],
        [2 * k(0.0), math.sqrt(8) * k(half), 2.0],
    ], dtype=F64)  # fmt: skip
    below = torch.tensor(
        [[0.5, 0.375, 0.25], [0.375, 0.5, 0.375], [0.25, 0.375, 0.5]], dtype=F64
    )  # P(both on)
    assert torch.allclose(kernels.nngp(x, x, 1), nngp, atol=1e-14)
    assert torch.allclose(kernels.ntk(x, x, 1), nngp + below * (x @ x.T), atol=1e-7)
    # w_std and b_std enter once a layer: two layers of the identity give w^4 x.y + w^2 b^2 + b^2.
    both = kernels.nngp(x, x, 1, "identity", w_std=2.0, b_std=3.0)
    assert torch.allclose(both, 16 * x @ x.T + 4 * 9 + 9)


@pytest.mark.parametrize("kernel", [kernels.nngp, kernels.ntk])
@pytest.mark.parametrize("activation", CLOSED)
def test_symmetric_and_positive_semidefinite(kernel, activation):
    x = torch.cat(
        [inputs(40, 7), inputs(40, 7)[:3], torch.zeros(1, 7, dtype=F64)]
    )  # duplicates and the origin
    k = kernel(x, x, 3, activation, 1.3, 0.2)
    assert torch.allclose(k, k.T, rtol=1e-12, atol=1e-12)
    assert torch.linalg.eigvalsh(k)[0] > -1e-6 * k.diagonal().max()
    assert torch.isfinite(k).all()


def test_the_diagonal_is_exact_in_float64_and_close_in_float32():
    x = inputs(50, 300)
    norms = (x * x).sum(1)
    assert torch.allclose(kernels.nngp(x, x, 1).diagonal(), norms / 2, rtol=1e-14)
    assert torch.allclose(kernels.ntk(x, x, 1).diagonal(), norms, rtol=1e-8)
    single = kernels.ntk(x.float(), x.float(), 1).diagonal().double()
    assert torch.allclose(single, norms, rtol=3e-4)


@pytest.mark.parametrize("kernel", [kernels.nngp, kernels.ntk])
def test_blocks_change_nothing(kernel, monkeypatch):
    x, y = inputs(33, 6), inputs(20, 6, seed=2)
    whole = kernel(x, y, 2, "relu", 1.2, 0.1)
    monkeypatch.setattr(kernels, "BLOCK", 64)
    assert torch.allclose(kernel(x, y, 2, "relu", 1.2, 0.1), whole, rtol=1e-14)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(x2=torch.zeros(3, 5)), "expected (n1, d) and (n2, d)"),
        (dict(x2=torch.zeros(3, 4, dtype=F64)), "one floating type"),
        (dict(depth=0), "depth = 0; expected a whole number >= 1"),
        (dict(activation="swish"), "expected one of relu, erf, tanh"),
        (dict(w_std=-1.0), "w_std = -1.0; expected a finite number >= 0"),
    ],
)
def test_bad_input_is_refused_in_one_line(change, words):
    good = dict(x1=torch.zeros(2, 4), x2=torch.zeros(3, 4), depth=1, activation="relu", w_std=1.0)
    with pytest.raises(InputError) as caught:
        kernels.nngp(**(good | change))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# -- all of float32 ------------------------------------------------------------------------------------------------

LARGEST, SMALLEST = torch.finfo(torch.float32).max, torch.finfo(torch.float32).tiny


def from_every_corner(n: int, d: int, scale: float, seed: int) -> torch.Tensor:
    """(n + 3, d) float32 inputs: drawn ones, the first one again, its double, and the origin."""
    x = (scale * inputs(n, d, seed)).float()
    return torch.cat([x, x[:1], 2 * x[:1], torch.zeros(1, d)])


@pytest.mark.parametrize("kernel", [kernels.nngp, kernels.ntk])
@pytest.mark.parametrize("activation", CLOSED)
@settings(max_examples=40, deadline=None)
@given(
    depth=st.integers(1, 100),
    w_std=st.floats(0.01, 16),
    b_std=st.sampled_from([0.0, 0.1, 1.0]),
    power=st.floats(-6, 6),
    d=st.sampled_from([1, 5, 300]),
    seed=st.integers(0, 100),
)
@example(depth=15, w_std=16.0, b_std=0.0, power=0.0, d=5, seed=0)
@example(depth=1, w_std=16.0, b_std=0.0, power=6.0, d=300, seed=0)
@example(depth=2, w_std=1.5, b_std=0.0, power=2.0, d=300, seed=0)  # pixels from 0 to 255
def test_float32_agrees_with_float64_wherever_it_can(kernel, activation, depth, w_std, b_std, power, d, seed):
    x = from_every_corner(3, d, 10**power, seed)
    exact = kernel(x.double(), x.double(), depth, activation, w_std, b_std)
    assert exact.isfinite().all()
    if exact.abs().max() > LARGEST:
        with pytest.raises(InputError, match=r"leaves the range of torch.float32 at layer \d+ of "):
            kernel(x, x, depth, activation, w_std, b_std)
        return
    found = kernel(x, x, depth, activation, w_std, b_std)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), exact, rtol=1e-6, atol=SMALLEST)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize(("depth", "w_std"), [(15, 8.0), (15, 16.0), (100, 2.2), (100, 0.9), (1, 0.01)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_relus_diagonal_is_w_to_the_power_twice_the_depth(dtype, depth, w_std, scale):
    x = (scale * inputs(4, 3)).to(dtype)
    square = (x.double() * x.double()).sum(1) * w_std**2
    truth = square * (w_std**2 / 2) ** depth  # S^l = w^2 / 2 S^{l-1}; and T^l has l equal parts
    if truth.max() < LARGEST / (depth + 1):
        found = kernels.nngp(x, x, depth, "relu", w_std).diagonal().double()
        assert torch.allclose(found, truth, rtol=1e-6, atol=SMALLEST)
        found = kernels.ntk(x, x, depth, "relu", w_std).diagonal().double()
        assert torch.allclose(found, (depth + 1) * truth, rtol=1e-5, atol=SMALLEST)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 255.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_arcsine_kernel_against_many_digits(scale, dtype):
    mpmath = pytest.importorskip("mpmath")
    x = from_every_corner(2, 40, scale, 3).to(dtype)
    nngp, ntk = kernels.nngp(x, x, 1, "erf"), kernels.ntk(x, x, 1, "erf")
    with mpmath.workdps(60):
        exact = [[mpmath.mpf(value) for value in row] for row in x.double().tolist()]
        s = [[mpmath.fdot(a, b) for b in exact] for a in exact]
        for i, j in itertools.product(range(len(x)), repeat=2):
            product = (1 + 2 * s[i][i]) * (1 + 2 * s[j][j])
            value = 2 / mpmath.pi * mpmath.asin(2 * s[i][j] / mpmath.sqrt(product))
            slope = 4 / mpmath.pi / mpmath.sqrt(product - 4 * s[i][j] ** 2)
            assert nngp[i, j].item() == pytest.approx(float(value), rel=1e-6, abs=SMALLEST)
            assert ntk[i, j].item() == pytest.approx(float(value + slope * s[i][j]), rel=1e-6, abs=SMALLEST)


@pytest.mark.parametrize("kernel", [kernels.nngp, kernels.ntk])
@pytest.mark.parametrize("activation", ALL)
def test_the_origin_has_the_kernel_of_the_biases_alone(kernel, activation):
    x = torch.cat([torch.zeros(1, 3), torch.ones(1, 3)])
    assert torch.equal(kernel(x, x, 4, activation, 1.3)[0], torch.zeros(2))
    s = t = torch.tensor(0.49, dtype=F64)  # b_std^2
    for _ in range(4):
        slope = dual_of(activation).derivative(s, s, s)
        s = 1.69 * dual_of(activation).value(s, s, s) + 0.49
        t = s + 1.69 * slope * t
    exact = s if kernel is kernels.nngp else t
    assert kernel(x, x, 4, activation, 1.3, 0.7)[0, 0].item() == pytest.approx(exact.item(), rel=1e-6)


@pytest.mark.parametrize("kernel", [kernels.nngp, kernels.ntk])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_inputs_that_are_not_finite_are_refused(kernel, value):
    x = torch.ones(3, 4)
    x[1, 2] = value
    for pair, name in (((x, torch.ones(2, 4)), "x1"), ((torch.ones(2, 4), x), "x2")):
        with pytest.raises(InputError, match=f"^{name} holds 1 numbers that are NaN or infinite"):
            kernel(*pair, 1)


@pytest.mark.parametrize("activation", CLOSED)
def test_nan_among_covariances_stays_nan(activation):
    duals, nan, one = dual_of(activation), torch.tensor([math.nan]), torch.ones(1)
    for arguments in ((nan, one, one), (one, nan, one), (one, one, nan)):
        if activation != "identity" or arguments[0] is nan:
            assert duals.value(*arguments).isnan().all()
        if activation != "identity":
            assert duals.derivative(*arguments).isnan().all()
    c = nan.clone().requires_grad_()
    (slope,) = torch.autograd.grad(arc_cosine(c).sum(), c, create_graph=True)
    assert slope.isnan().all()
    assert torch.autograd.grad(slope.sum(), c)[0].isnan().all()
