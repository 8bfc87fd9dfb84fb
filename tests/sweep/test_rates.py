"""A sweep is what a Python loop over torch.optim gives, and finds the edges that theory predicts."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tp4lib.base.errors import InputError
from tp4lib.data.images import load, one_hot
from tp4lib.nn import MLP, param_groups
from tp4lib.parametrization import mup, ntp, standard
from tp4lib.sweep import Sweep, minibatches, sweep
from tp4lib.sweep import rates as module


def problem(count=60, d_in=5, d_out=3, dtype=torch.float64, seed=0):
    """Inputs of norm about 1 and a smooth nonlinear target."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(count, d_in, generator=g, dtype=torch.float64) / math.sqrt(d_in)
    y = torch.tanh(2 * x @ torch.randn(d_in, d_out, generator=g, dtype=torch.float64))
    return x.to(dtype), y.to(dtype)


def python_loop(make, rates, seeds, x, y, *, steps, batch_size, optimizer, loss, blowup=1e4):
    """The same runs one by one with torch.optim; losses (R, S, steps + 1) and the step of divergence."""
    losses = np.full((len(rates), len(seeds), steps + 1), math.inf)
    diverged_at = np.full(losses.shape[:2], -1)
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    for r, rate in enumerate(rates):
        for s, seed in enumerate(seeds):
            model = make(seed)
            first, step = None, kinds[optimizer](param_groups(model, rate, optimizer))
            for t, batch in enumerate(minibatches(len(x), batch_size, steps + 1)):
                f = model(x[batch])
                if loss == "square":
                    value = 0.5 * ((f - y[batch]) ** 2).sum(1).mean()
                else:
                    value = nn.CrossEntropyLoss()(f, y[batch])
                first = first or value.item()
                if not value.item() <= blowup * first:
                    diverged_at[r, s] = t
                    break
                losses[r, s, t] = value.item()
                step.zero_grad()
                value.backward()
                step.step()
    return losses, diverged_at


@pytest.mark.parametrize(
    ("optimizer", "loss", "bias", "rates"),
    [
        ("sgd", "square", True, [0.02, 0.1, 0.7, 1e3]),
        ("sgd", "cross_entropy", False, [0.02, 0.1, 0.7, 1e6]),
        ("adam", "square", True, [0.01, 0.03, 0.3, 1e4]),
        ("adam", "cross_entropy", False, [0.01, 0.03, 0.3, 1e6]),
    ],
)
def test_equals_a_python_loop_over_torch_optim(optimizer, loss, bias, rates):
    x, y = problem()
    if loss == "cross_entropy":
        y = y.argmax(1)

    def make(seed):
        return MLP(5, 32, 3, mup(2), "tanh", bias=bias, base_width=8, seed=seed, dtype=torch.float64)

    args = dict(steps=25, batch_size=16, optimizer=optimizer, loss=loss)
    result = sweep(make, rates, [3, 4], x, y, **args)
    losses, diverged_at = python_loop(make, rates, [3, 4], x, y, **args)
    assert (result.diverged_at == diverged_at).all()
    assert (result.diverged_at[-1] > 0).all(), "the set has to hold diverging members"
    assert result.stable[:-1].all(), "and stable ones"
    np.testing.assert_array_equal(np.isinf(result.losses), np.isinf(losses))
    np.testing.assert_allclose(result.losses, losses, rtol=1e-10, atol=1e-10)


def test_members_are_independent_of_their_company(monkeypatch):
    x, y = problem()
    args = dict(steps=15, batch_size=20, test=(x, y), evaluate_every=4)

    def make(seed):
        return MLP(5, 16, 3, ntp(2), seed=seed, dtype=torch.float64)

    rates, seeds = [0.01, 0.1, 50.0], [0, 1, 2]
    together = sweep(make, rates, seeds, x, y, **args)
    assert set(together.stable[-1]) == {False}
    for chunk in (1, 2, 4):
        monkeypatch.setattr(module, "_members_at_once", lambda *_, chunk=chunk: chunk)
        parts = sweep(make, rates, seeds, x, y, **args)
        for name in ("losses", "diverged_at", "test_loss", "test_accuracy"):
            np.testing.assert_allclose(getattr(parts, name), getattr(together, name), rtol=1e-9, err_msg=name)
    alone = sweep(make, [0.1], [1], x, y, **args)
    np.testing.assert_allclose(alone.losses[0, 0], together.losses[1, 1], rtol=1e-9)


def test_test_set_is_evaluated_as_the_trained_network_would():
    x, y = problem()
    x_test, y_test = problem(seed=7)

    def make(seed):
        return MLP(5, 16, 3, mup(1), seed=seed, dtype=torch.float64)

    result = sweep(make, [0.1], [0], x, y, steps=7, batch_size=30, test=(x_test, y_test), evaluate_every=3)
    assert result.evaluated_at.tolist() == [3, 6, 7]
    model = make(0)
    optimizer = torch.optim.SGD(param_groups(model, 0.1))
    seen = []
    for t, batch in enumerate(minibatches(60, 30, 7)):
        optimizer.zero_grad()
        (((model(x[batch]) - y[batch]) ** 2).sum(1).mean() / 2).backward()
        optimizer.step()
        if t + 1 in (3, 6, 7):
            f = model(x_test)
            right = (f.argmax(1) == y_test.argmax(1)).double().mean().item()
            seen.append((0.5 * ((f - y_test) ** 2).sum(1).mean().item(), right))
    np.testing.assert_allclose(result.test_loss[0, 0], [value for value, _ in seen], rtol=1e-10)
    np.testing.assert_allclose(result.test_accuracy[0, 0], [right for _, right in seen])


@pytest.mark.parametrize("rate", [30.0, 1e3, 1e10, 1e30])
def test_divergence_is_reported_by_its_step_and_never_as_nan(rate):
    x, y = problem(dtype=torch.float32)
    result = sweep(
        lambda seed: MLP(5, 16, 3, standard(2), seed=seed),
        [1e-4, rate],
        [0, 1],
        x,
        y,
        steps=30,
        batch_size=20,
        test=(x, y),
        evaluate_every=1,
    )
    assert result.stable.tolist() == [[True, True], [False, False]]
    for value in (result.losses, result.test_loss, result.test_accuracy):
        assert not np.isnan(value).any()
    for seed, step in enumerate(result.diverged_at[1]):
        assert 1 <= step <= 30
        assert np.isfinite(result.losses[1, seed, :step]).all()
        assert np.isinf(result.losses[1, seed, step:]).all()
        late = result.evaluated_at >= step
        assert np.isinf(result.test_loss[1, seed, late]).all()
        assert (result.test_accuracy[1, seed, late] == 0).all()


def test_a_blow_up_in_the_last_update_is_found():
    x, y = problem(dtype=torch.float32)
    result = sweep(
        lambda seed: MLP(5, 16, 3, standard(2), seed=seed), [1e20], [0], x, y, steps=1, batch_size=20
    )
    assert result.diverged_at.tolist() == [[1]]


def test_same_arguments_same_bits_and_torch_seed_untouched():
    x, y = problem(dtype=torch.float32)

    def run():
        return sweep(
            lambda seed: MLP(5, 16, 3, mup(2), seed=seed), [0.1, 1.0], [0, 1], x, y, steps=9, batch_size=8
        )

    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = run()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    assert (first.losses == run().losses).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 40), st.integers(0, 3))
def test_minibatches_are_passes_without_replacement(count, batch_size, steps, seed):
    batch_size = min(batch_size, count)
    batches = [batch.tolist() for batch in minibatches(count, batch_size, steps, seed)]
    assert len(batches) == steps
    assert all(len(batch) == batch_size for batch in batches)
    per_pass = count // batch_size
    for begin in range(0, steps, per_pass):
        seen = [index for batch in batches[begin : begin + per_pass] for index in batch]
        assert len(set(seen)) == len(seen)


def result_with(losses, diverged_at=None):
    """A result with the given final losses (R, S) at the rates 1, 2, 4, .."""
    losses = np.asarray(losses, dtype=float)
    rates, seeds = 2.0 ** np.arange(losses.shape[0]), np.arange(losses.shape[1])
    at = np.where(np.isinf(losses), 3, -1) if diverged_at is None else np.asarray(diverged_at)
    none = np.zeros((*losses.shape, 0))
    return Sweep(rates, seeds, losses[..., None], at, np.zeros(0, int), none, none)


def test_edge_and_optimum_of_known_curves():
    inf = math.inf
    assert result_with([[1, 1], [1, inf], [inf, 1]]).largest_stable_rate() == pytest.approx([8**0.5, 2**0.5])
    # log loss a parabola in log rate with its lowest point at 2^1.3
    curve = np.exp((np.arange(4) - 1.3) ** 2)
    assert result_with(curve[:, None]).optimum() == pytest.approx(2**1.3)
    assert result_with([[3], [2], [inf]]).optimum() == 2.0
    assert result_with([[1], [2], [3]]).optimum() == 1.0
    assert result_with([[4], [3], [2]]).optimum() == 4.0


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: result_with([[math.inf], [math.inf]]).largest_stable_rate(),
            "smallest rate, 1, diverges.*lower",
        ),
        (lambda: result_with([[1], [1]]).largest_stable_rate(), "largest rate, 2, is stable.*higher"),
        (lambda: result_with([[math.inf]]).optimum(), "every rate diverged.*lower"),
        (lambda: result_with([[0], [1]]).optimum(), "loss is 0"),
        (lambda: result_with([[1]]).final_loss(2), "last = 2; expected a whole number from 1 to 1"),
    ],
)
def test_results_that_cannot_be_read_say_so(call, text):
    with pytest.raises(InputError, match=text):
        call()


class WithBuffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = MLP(5, 8, 3, mup(1), seed=0)
        self.register_buffer("count", torch.zeros(1))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (dict(rates=[]), "rates = []; expected different numbers"),
        (dict(rates=[0.1, 0.1]), "different numbers"),
        (dict(rates=[-1.0]), "rates[0] = -1.0; expected a finite number > 0"),
        (dict(rates=[1.0, math.nan]), "rates[1] = nan"),
        (dict(rates=["fast"]), "rates[0] = 'fast'"),
        (dict(rates=0.1), "different numbers"),
        (dict(seeds=[]), "seeds = []; expected different numbers"),
        (dict(seeds=[0.5]), "seeds[0] = 0.5; expected a whole number"),
        (dict(steps=0), "steps = 0"),
        (dict(batch_size=0), "batch_size = 0"),
        (dict(batch_size=61), "batch_size = 61; expected a whole number from 1 to 60"),
        (dict(evaluate_every=-1), "evaluate_every = -1"),
        (dict(optimizer="lion"), "expected sgd or adam"),
        (dict(loss="hinge"), "expected one of square, cross_entropy"),
        (dict(blowup=1.0), "blowup = 1.0"),
        (dict(y=torch.zeros(60, dtype=torch.int64)), "see tp4lib.data.images.one_hot"),
        (dict(y=torch.zeros(59, 3)), "test_or_xy_shapes"),
        (dict(y=torch.zeros(60, 1)), "3 outputs and y has 1"),
        (dict(loss="cross_entropy"), "int64 classes"),
        (dict(test=(torch.zeros(4, 5), torch.zeros(3, 3))), "test have shapes"),
        (dict(x=torch.zeros(60, 5, dtype=torch.float64)), "expected the same"),
        (dict(make=lambda seed: WithBuffer()), "buffers"),
        (dict(make=lambda seed: nn.Linear(5, 3)), "not in an ABCLinear"),
    ],
    ids=lambda value: "" if isinstance(value, str) else ",".join(value),
)
def test_bad_input_is_refused_in_one_line(change, text):
    x, y = problem(dtype=torch.float32)
    args = dict(
        make=lambda seed: MLP(5, 8, 3, mup(1), seed=seed),
        rates=[0.1],
        seeds=[0],
        x=x,
        y=y,
        steps=2,
        batch_size=5,
    )
    text = "x and y have shapes" if text == "test_or_xy_shapes" else text
    with pytest.raises(InputError, match=re.escape(text)) as caught:
        sweep(**(args | change))
    assert "\n" not in str(caught.value)


def test_a_member_beyond_the_memory_is_refused(monkeypatch):
    monkeypatch.setitem(module._COPIES, "sgd", 10**12)
    x, y = problem(dtype=torch.float32)
    with pytest.raises(InputError, match=r"GiB.*try a smaller width"):
        sweep(lambda seed: MLP(5, 8, 3, mup(1), seed=seed), [0.1], [0], x, y, steps=2, batch_size=5)


def stable_rate_slope(parametrization, x, y, widths, low, high, **args):
    """Slope of log2(largest stable rate), mean over seeds, against log2(width)."""
    edges = []
    for width in widths:
        result = sweep(
            lambda seed, n=width: MLP(x.shape[1], n, y.shape[1], parametrization(2), seed=seed),
            np.geomspace(low(width), high(width), 12),
            [0, 1, 2],
            x,
            y,
            **args,
        )
        edges.append(np.log2(result.largest_stable_rate()).mean())
    return np.polyfit(np.log2(widths), edges, 1)[0]


def test_the_largest_stable_rate_falls_like_1_over_n_for_sp():
    digits = load("digits")
    x, y = digits.train_x / 8, one_hot(digits.train_y)
    slope = stable_rate_slope(
        standard, x, y, [64, 128, 256], lambda n: 30 / n, lambda n: 2000 / n, steps=20, batch_size=256
    )
    assert slope == pytest.approx(-1, abs=0.25)


def test_the_largest_stable_rate_does_not_depend_on_width_for_mup():
    x, y = problem(count=128, d_in=8, dtype=torch.float32)
    slope = stable_rate_slope(
        mup, x, y, [64, 128, 256, 512], lambda n: 0.5, lambda n: 50, steps=40, batch_size=64
    )
    assert slope == pytest.approx(0, abs=0.2)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_best_rate_stays_in_mup_and_falls_in_sp(optimizer):
    """Tuned at width 64, used at 256: the optimum's drift in octaves per doubling of the width."""
    digits = load("digits")
    x = digits.train_x
    y, loss = (one_hot(digits.train_y), "square") if optimizer == "sgd" else (digits.train_y, "cross_entropy")
    octaves = np.arange(-5, 0.5, 0.5) if optimizer == "sgd" else np.arange(-10, -4.0)
    drift = {}
    for parametrization in (standard, mup):
        best = [
            sweep(
                lambda seed, n=width, p=parametrization: MLP(64, n, 10, p(2), base_width=64, seed=seed),
                2.0**octaves,
                [0, 1],
                x,
                y,
                steps=40,
                batch_size=64,
                optimizer=optimizer,
                loss=loss,
            ).optimum(last=10)
            for width in (64, 256)
        ]
        drift[parametrization] = np.log2(best[1] / best[0]) / 2
    assert abs(drift[mup]) < 0.35
    assert drift[standard] < -0.4
