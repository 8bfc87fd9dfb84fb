"""Tensor programs, the language: known moments, the law of W x, derivatives, and what is refused."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tp4lib.base.errors import InputError
from tp4lib.program import FiniteWidth, InfiniteWidth, outer
from tp4lib.program.derivatives import DerivativeMatrix


def worlds():
    return [FiniteWidth(400, seed=1), InfiniteWidth(400, seed=1)]


def catalan(k):
    return math.comb(2 * k, k) // (k + 1)


def gauss_average(function):
    """E function(z) for z ~ N(0, 1), by the trapezium rule."""
    z = np.linspace(-12, 12, 100_001)
    return float((function(z) * np.exp(-z * z / 2)).sum() * (z[1] - z[0]) / math.sqrt(2 * math.pi))


# -- random matrices ---------------------------------------------------------------------------------------------


def semicircle_moment(world, k):
    """<x, A^k x> / n for the Wigner matrix A = W + W^T."""
    W, x = world.matrix(std=math.sqrt(0.5)), world.gaussian()
    y = x
    for _ in range(k):
        y = W @ y + W.T @ y
    return float(world.mean(x, y))


def marchenko_pastur_moment(world, k):
    """<x, (W^T W)^k x> / n for a square W."""
    W, x = world.matrix(), world.gaussian()
    y = x
    for _ in range(k):
        y = W.T @ (W @ y)
    return float(world.mean(x, y))


@pytest.mark.parametrize("k", range(6))
def test_moments_of_random_matrices_are_catalan_numbers(k):
    world = InfiniteWidth(300)
    assert semicircle_moment(world, 2 * k) == pytest.approx(catalan(k), rel=1e-10)
    assert semicircle_moment(world, 2 * k + 1) == pytest.approx(0, abs=1e-10)
    assert marchenko_pastur_moment(world, k) == pytest.approx(catalan(k), rel=1e-10)


def test_the_same_moments_at_finite_width():
    found = np.mean([[semicircle_moment(FiniteWidth(300, seed), 4),
                      marchenko_pastur_moment(FiniteWidth(300, seed), 2)] for seed in range(40)], axis=0)  # fmt: skip
    assert found == pytest.approx([2, 2], abs=0.1)


def test_moments_fail_without_the_correction(monkeypatch):
    monkeypatch.setattr(DerivativeMatrix, "corrections", lambda self, there, stack: [])
    for moment in (semicircle_moment(InfiniteWidth(300), 4), marchenko_pastur_moment(InfiniteWidth(300), 1)):
        assert moment == pytest.approx(0, abs=1e-10)  # as if every product were with a new matrix


# -- the law of W x ----------------------------------------------------------------------------------------------


def test_products_of_one_matrix_are_jointly_gaussian():
    world = InfiniteWidth(50_000)
    W, X = world.matrix(std=1.5), world.gaussian(count=3)
    Y = torch.stack([torch.tanh(X[0]), X[1] * X[2], X[0] ** 2])
    H = W @ Y
    assert torch.allclose(world.mean(H, H), 1.5**2 * world.mean(Y, Y), rtol=1e-10)
    assert torch.allclose(world.mean(H), torch.zeros(3, dtype=torch.float64), atol=1e-12)
    # Gaussian: the fourth moments are Wick's; independent of the vectors that it was applied to.
    s = world.mean(H, H)
    assert world.mean(H[0] ** 2, H[1] ** 2) == pytest.approx(
        float(s[0, 0] * s[1, 1] + 2 * s[0, 1] ** 2), rel=0.03
    )
    assert world.mean(H[0] ** 2, Y[0] ** 2) == pytest.approx(
        float(s[0, 0] * world.mean(Y[0], Y[0])), rel=0.02
    )


def test_w_and_its_transpose_are_independent_on_the_same_vector():
    world = InfiniteWidth(50_000)
    W, x = world.matrix(), world.gaussian()
    a, b = W @ x, W.T @ x
    assert world.mean(a, b) == pytest.approx(0, abs=1e-10)
    assert world.mean(a * a, b * b) == pytest.approx(1, abs=0.02)


def test_a_combination_of_earlier_vectors_takes_no_fresh_noise():
    world = InfiniteWidth(2000)
    W, x, y = world.matrix(), world.gaussian(), world.gaussian()
    a, b = W @ x, W @ torch.tanh(y)
    drawn = world.noises
    c = W @ (2 * x - 3 * torch.tanh(y))
    assert world.noises == drawn
    assert torch.allclose(c.values, (2 * a - 3 * b).values, atol=1e-10)
    assert torch.equal((W @ (0 * x)).values, torch.zeros(2000, dtype=torch.float64))
    assert world.noises == drawn


def test_the_basis_stays_orthonormal_through_nearly_dependent_vectors():
    world = InfiniteWidth(2000)
    W, x, Y = world.matrix(), world.gaussian(), world.gaussian(count=6)
    ((_, part),) = W._parts.values()
    for y, gap in zip(Y, (1e-2, 1e-4, 1e-6, 1e-7, 1e-6, 1e-3)):
        W @ (x + gap * y)
    rows = part._sides[0].basis.rows
    assert len(rows) == 6
    assert torch.allclose(rows @ rows.T / 2000, torch.eye(6, dtype=torch.float64), atol=1e-13)


@pytest.mark.parametrize("gap", [1e-1, 1e-3, 1e-5, 1e-7, 1e-9])
def test_nearly_dependent_vectors_keep_the_covariance(gap):
    world = InfiniteWidth(2000)
    W, x, y = world.matrix(), world.gaussian(), world.gaussian()
    a, b = W @ x, W @ (x + gap * y)
    assert world.mean(a - b, a - b) == pytest.approx(gap**2, rel=1e-3, abs=1e-15)
    # and the correction: E[b W x] = E Z^{W^T b} Z^x
    assert world.mean(W.T @ b, x) == pytest.approx(float(world.mean(b, a)), rel=1e-9)
    assert world.mean(W.T @ (b**3), x) == pytest.approx(3, rel=0.05)


def test_the_correction_is_the_mean_derivative():
    world = InfiniteWidth(20_000)
    W, x = world.matrix(std=2.0), world.gaussian()
    back = W.T @ torch.tanh(W @ x)
    expected = 4 * gauss_average(lambda z: 1 / np.cosh(2 * z) ** 2)
    assert world.mean(back, x) == pytest.approx(expected, rel=1e-3)


def test_the_correction_of_a_function_that_jumps_is_steins():
    """E[Z^x Z^{W^T sign(W x)}] = E |std z| = std sqrt(2 / pi), where autograd's derivative of sign is 0."""
    world = InfiniteWidth(20_000)
    W, x = world.matrix(std=1.5), world.gaussian()
    h = W @ x
    for step in (
        torch.sign(h),
        2.0 * (h > 0) - 1,
        torch.where(h > 0, 1.0, -1.0),
        2 * torch.heaviside(h, torch.zeros(1)) - 1,
    ):
        assert step.jumps
        assert world.mean(W.T @ step, x) == pytest.approx(1.5 * math.sqrt(2 / math.pi), rel=1e-3)
    assert not torch.relu(h).jumps


def test_stein_and_autograd_agree_where_both_hold():
    def program(world, mark):
        W, x = world.matrix(), world.gaussian()
        h = W @ x
        y = torch.tanh(h + 0.5 * torch.sin(W @ torch.tanh(x))) + mark(h)
        back = W.T @ (y * y + y)
        return torch.stack([world.mean(back, x), world.mean(W @ torch.sin(back), h)])

    smooth = program(InfiniteWidth(100_000), lambda h: 0 * h)
    stein = program(InfiniteWidth(100_000), lambda h: 0.0 * (h > 0))
    assert torch.allclose(smooth, stein, atol=0.01)
    assert smooth.abs().min() > 0.1


def nested(world):
    """Both directions, a jump, a squared product and a learned scalar."""
    W, x, g = world.matrix(), world.gaussian(), world.gaussian()
    h = W @ x
    back = W.T @ ((h > 0) * (g + h) + torch.tanh(h))
    scale = world.mean(back, x)
    again = W @ torch.sin(back + scale * x)
    trained = W - 0.5 * outer(again, x)
    return torch.stack(
        [scale, world.mean(again, h), world.mean(trained.T @ torch.tanh(again), torch.tanh(back))]
    )


def test_finite_programs_approach_the_limit_like_one_over_the_root_of_the_width():
    limit = nested(InfiniteWidth(200_000))
    widths, seeds = [64, 128, 256, 512, 1024], 40
    found = torch.stack([torch.stack([nested(FiniteWidth(n, s)) for s in range(seeds)]) for n in widths])
    deviation = (found - limit).square().mean((1, 2)).sqrt()
    slope = np.polyfit(np.log(widths), deviation.log().numpy(), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.12)
    noise = found[-1].std(0) / seeds**0.5
    assert ((found[-1].mean(0) - limit).abs() < 4 * noise).all()


def test_no_derivative_passes_through_averages_or_other_peoples_tensors():
    world = InfiniteWidth(1000)
    W, x = world.matrix(), world.gaussian()
    h = W @ x
    with torch.no_grad():
        y = world.mean(torch.tanh(h), h) * x + torch.ones((), dtype=torch.float64, requires_grad=True) * g_of(
            world
        )
    assert not world.mean(h, h).requires_grad
    assert world.mean(W.T @ y, x) == pytest.approx(0, abs=1e-10)  # y has no Zhat in it


def test_programs_run_inside_no_grad():
    expected = nested(InfiniteWidth(1000))
    with torch.no_grad():
        assert torch.equal(nested(InfiniteWidth(1000)), expected)


def g_of(world):
    return world.gaussian()


# -- averages, stacks, matrices, randomness ------------------------------------------------------------------------


def test_standard_errors_say_how_far_off_an_average_is():
    scores = []
    for seed in range(300):
        world = FiniteWidth(500, seed)
        average, error = world.mean(torch.relu(world.gaussian()), se=True)
        scores.append(float((average - 1 / math.sqrt(2 * math.pi)) / error))
    assert np.std(scores) == pytest.approx(1, abs=0.12)
    assert abs(np.mean(scores)) < 0.2
    world = InfiniteWidth(10_000)
    x = world.gaussian()
    average, error = world.mean(torch.exp(x / 2), torch.exp(x / 2), se=True)
    assert abs(float(average) - math.exp(0.5)) < float(error)
    X = world.gaussian(count=2)
    assert [tuple(part.shape) for part in world.mean(X, torch.stack([x, x, x]), se=True)] == [(2, 3), (2, 3)]
    assert [tuple(part.shape) for part in world.mean(X, se=True)] == [(2,), (2,)]
    assert tuple(world.mean(x, X).shape) == (2,)


def test_samples_are_spread_evenly():
    """A smooth average over a few noises is far better than Monte Carlo's 1 / sqrt(M)."""
    found = []
    for seed in range(8):
        world = InfiniteWidth(2**13, seed)
        U, W = world.gaussian(count=2), world.matrix()
        x = torch.erf(W @ torch.erf(torch.eye(2) @ U))
        found.append(world.mean(x, x)[0, 1] + world.mean(x[0], x[0]))
    s = 2 / math.pi * math.asin(2 / 3)
    expected = 2 / math.pi * math.asin(2 * s / (1 + 2 * s))
    errors = torch.stack(found) - expected
    assert errors.abs().max() < 0.1 * float(x.values.square().std()) / 2**6.5


@pytest.mark.parametrize("world", worlds(), ids=repr)
def test_a_stack_is_its_vectors(world):
    W, X = world.matrix(), world.gaussian(count=3)
    H = torch.tanh(W @ X)
    for x, h in zip(X, H):
        assert torch.allclose(torch.tanh(W @ x).values, h.values, atol=1e-12)
    A = torch.tensor([[1.0, 2, 3], [0, 0, -1]], dtype=torch.float64)
    assert torch.allclose((A @ X).values, A @ X.values)
    assert torch.allclose((W @ (A @ X)).values, A @ (W @ X).values, atol=1e-12)
    assert torch.allclose(world.mean(X, H), X.values @ H.values.T / 400)
    assert torch.allclose((W.T @ H)[1].values, (W.T @ H[1]).values, atol=1e-12)
    assert len(X) == 3
    assert (X[:2] * torch.ones(2, 1)).is_stack
    assert not X.sum(0).is_stack


def entries(W):
    ((_, part),) = W._parts.values()
    return part.entries


def test_gaussian_matrices_combine_linearly():
    for world in worlds():
        W, V, x = world.matrix(), world.matrix(), world.gaussian()
        expected = 2 * (W @ x) - V.T @ x / 4
        for A in (2 * W - V.T / 4, torch.tensor(2.0) * W - np.float64(0.25) * V.T, -(V / 4 - 2 * W.T).T):
            assert torch.allclose((A @ x).values, expected.values, atol=1e-12)
        assert torch.equal(((W - W) @ x).values, 0 * x.values)
    world = InfiniteWidth(300)
    A, x = (world.matrix() + world.matrix().T) / math.sqrt(2), world.gaussian()
    assert world.mean(A.T @ (A @ x), x) == pytest.approx(1, rel=1e-10)
    W = world.matrix(std=math.sqrt(0.5))
    B = W + W.T
    assert world.mean(B @ (B @ (B @ (B @ x))), x) == pytest.approx(2, rel=1e-10)


def test_matrices_add_up_as_in_linear_algebra():
    world = FiniteWidth(50)
    W, X, Y, z = world.matrix(), world.gaussian(count=2), world.gaussian(count=2), world.gaussian()
    dense = entries(W)
    step = outer(X, Y)
    trained = W - 0.5 * step + 2 * outer(z, z).T - step * 0.25
    dense = dense - 0.75 * X.values.T @ Y.values / 50 + 2 * torch.outer(z.values, z.values) / 50
    assert torch.allclose((trained @ z).values, dense @ z.values)
    assert torch.allclose((trained.T @ X).values, X.values @ dense)
    assert torch.allclose((trained.T.T @ X).values, X.values @ dense.T)
    assert len((step + step)._parts) == 1
    assert torch.allclose((-step @ z).values, -(step @ z).values)


@pytest.mark.parametrize("make", [lambda seed: FiniteWidth(64, seed), lambda seed: InfiniteWidth(64, seed)])
def test_seeds_decide_everything_and_nothing_else_does(make):
    state = torch.get_rng_state()
    first, second, other = nested(make(3)), nested(make(3)), nested(make(4))
    assert torch.equal(first, second)
    assert not torch.allclose(first, other)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("make", [FiniteWidth, InfiniteWidth])
def test_single_precision(make):
    world = make(2000, dtype=torch.float32)
    assert nested(world).dtype == torch.float32
    if make is InfiniteWidth:
        assert torch.allclose(nested(world).double(), nested(InfiniteWidth(2000)), atol=0.15)
        assert semicircle_moment(world, 6) == pytest.approx(5, rel=1e-3)


def test_later_noises_are_as_good_as_the_first():
    """Beyond the Sobol points: many products, still orthonormal and Gaussian."""
    world = InfiniteWidth(20_000)
    W, X = world.matrix(), world.gaussian(count=40)
    H = W @ torch.tanh(X)
    last = H[-1] / world.mean(H[-1], H[-1]) ** 0.5
    assert world.mean(last**4) == pytest.approx(3, rel=0.05)
    assert torch.allclose(world.mean(H, X), torch.zeros(40, 40, dtype=torch.float64), atol=1e-10)


# -- what is not in the language -----------------------------------------------------------------------------------


@pytest.mark.parametrize("world", worlds(), ids=repr)
@pytest.mark.parametrize(
    "function",
    [
        torch.tanh, torch.relu, F.gelu, torch.special.erf, torch.sigmoid, torch.abs, lambda x: x.clamp(min=0),
        lambda x: 2**x - x / 3 + (1 - x) ** 2, lambda x: np.float64(2) * x, lambda x: np.float32(2) * x,
        lambda x: torch.where(x > 0, x, 0.1 * x), lambda x: torch.maximum(x, -x), lambda x: torch.lerp(x, -x, 0.3),
        lambda x: torch.tensor(2.0) * x, lambda x: (x > 0) & ~(x > 1), lambda x: torch.stack([x, x])[1].cos(),
        lambda x: torch.einsum("cb,bn->cn", torch.ones(2, 1), x[None]).sum(0), torch.zeros_like,
    ],
)  # fmt: skip
def test_coordinatewise_functions_are_welcome(world, function):
    x = world.gaussian()
    y = function(x)
    expected = function(x.values) if function is not np.float32 else None
    assert torch.allclose(y.values.double(), torch.as_tensor(expected).double(), atol=1e-6)


REFUSED = {
    "a sum": (lambda w, x, W: torch.sum(x), "world.mean"),
    "a method's sum": (lambda w, x, W: x.sum(), "world.mean"),
    "an inner product": (lambda w, x, W: x @ x, "world.mean"),
    "a dot": (lambda w, x, W: torch.dot(x, x), "world.mean"),
    "a norm": (lambda w, x, W: x / torch.norm(x), "world.mean"),
    "a maximum": (lambda w, x, W: x.max(), "extremes have no limit"),
    "softmax": (lambda w, x, W: torch.softmax(x, -1), "coordinate i of the result"),
    "layer norm": (lambda w, x, W: F.layer_norm(x, (400,)), "coordinate i of the result"),
    "sort": (lambda w, x, W: torch.sort(x), "coordinate i of the result"),
    "cumsum": (lambda w, x, W: torch.cumsum(x, 0), "coordinate i of the result"),
    "roll": (lambda w, x, W: x.roll(1), "coordinate i of the result"),
    "fft": (lambda w, x, W: torch.fft.fft(x), "coordinate i of the result"),
    "a concatenation": (lambda w, x, W: torch.cat([x, x]), "coordinate i of the result"),
    "a vector by hand": (lambda w, x, W: x * torch.ones(400), "coordinate i of the result"),
    "one coordinate": (lambda w, x, W: x[3], "single coordinates"),
    "some coordinates": (lambda w, x, W: x[:5], "single coordinates"),
    "a loop over coordinates": (lambda w, x, W: list(x), "single coordinates"),
    "a matrix by hand": (lambda w, x, W: torch.randn(400, 400, dtype=torch.float64) @ x, "world.matrix"),
    "a linear layer": (lambda w, x, W: F.linear(x, torch.ones(400, 400)), "world.matrix"),
    "the outer product of torch": (lambda w, x, W: torch.outer(x, x), "world.matrix"),
    "the shape": (lambda w, x, W: x / x.shape[0], "does not know n"),
    "the length": (lambda w, x, W: x / len(x), "does not know n"),
    "numel": (lambda w, x, W: x / x.numel(), "does not know n"),
    "a number": (lambda w, x, W: float(x), "world.mean"),
    "a truth": (lambda w, x, W: bool(x > 0), "world.mean"),
    "detach": (lambda w, x, W: x.detach(), "constants come from averages"),
    "dropout": (lambda w, x, W: F.dropout(x, 0.1), "world.gaussian"),
    "a random vector by torch": (lambda w, x, W: torch.randn_like(x), "world.gaussian"),
    "a change in place": (lambda w, x, W: x.add_(1), "in place"),
    "a function of a matrix": (lambda w, x, W: torch.tanh(W), "entries of a matrix"),
    "two matrices multiplied": (lambda w, x, W: W @ W, "W @ (V @ x)"),
    "a matrix plus a number": (lambda w, x, W: W + 1, "W + outer(u, v)"),
    "a matrix times a tensor": (lambda w, x, W: W * torch.ones(400, 400), "one by one"),
    "a row vector": (lambda w, x, W: x @ W, "W.T @ x"),
    "a matrix on a tensor": (lambda w, x, W: W @ torch.ones(400), "vector of the program"),
    "the mean of a tensor": (lambda w, x, W: w.mean(torch.ones(400)), "vectors of the program"),
    "another world's vector": (lambda w, x, W: x + FiniteWidth(400).gaussian(), "two worlds"),
    "another world's average": (lambda w, x, W: w.mean(x, InfiniteWidth(400).gaussian()), "two worlds"),
    "another world's product": (lambda w, x, W: W @ InfiniteWidth(400).gaussian(), "two worlds"),
    "outer of tensors": (lambda w, x, W: outer(torch.ones(3), x), "outer(u, v)"),
    "outer of unlike stacks": (lambda w, x, W: outer(x, torch.stack([x, x])), "pair them"),
    "a negative std": (lambda w, x, W: w.gaussian(std=-1), "std=1"),
    "a std that is none": (lambda w, x, W: w.matrix(std=math.nan), "std=1"),
    "no vectors": (lambda w, x, W: w.gaussian(count=0), "count=3"),
}  # fmt: skip


@pytest.mark.parametrize("world", worlds(), ids=repr)
@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_in_the_language_is_refused_with_its_rule(world, what):
    function, rule = REFUSED[what]
    state = torch.get_rng_state()
    with pytest.raises(InputError) as caught:
        function(world, world.gaussian(), world.matrix())
    assert rule in str(caught.value)
    assert "\n" not in str(caught.value)
    if "random" not in what and "dropout" not in what and "by hand" not in what:
        assert torch.equal(state, torch.get_rng_state())


def test_noises_are_at_most_half_the_samples():
    world = InfiniteWidth(40)
    world.gaussian(count=19)  # with the constant 1 they are 20
    with pytest.raises(InputError, match="21 noises in 40 samples"):
        world.gaussian()


def test_a_sobol_point_on_the_border_is_a_finite_noise_beyond_all_others():
    world = InfiniteWidth(64)
    world._sobol[0][:2] = torch.tensor([0.0, 2.0**-30])  # the least that Sobol points can be, and the next
    noise = world.gaussian().values
    assert noise.isfinite().all()
    assert noise.argmin() == 0
    assert noise[0] < noise[1] < noise[2:].min()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_product_with_what_is_not_finite_is_refused(value, transposed):
    world = InfiniteWidth(100)
    W = world.matrix()
    with pytest.raises(InputError, match="W @ x of a vector with coordinates that are NaN or infinite"):
        (W.T if transposed else W) @ (world.gaussian() * value)


@pytest.mark.parametrize(
    ("make", "hint"),
    [
        (lambda: FiniteWidth(0), "n=256"),
        (lambda: FiniteWidth(2.5), "n=256"),
        (lambda: FiniteWidth(10**8).matrix(), "GiB"),
        (lambda: InfiniteWidth(10**13), "fewer samples"),
        (lambda: InfiniteWidth(3), "samples=100000"),
        (lambda: InfiniteWidth(100, dtype=torch.int64), "torch.float64"),
        (lambda: InfiniteWidth(100, device="abacus"), "device"),
        (lambda: InfiniteWidth(40).gaussian(count=30), "samples=160"),
    ],
)
def test_impossible_worlds_are_refused(make, hint):
    with pytest.raises(InputError, match=hint):
        make()
