"""The coordinate check: exact on power laws, right about the named points, honest about runs that diverge."""

import dataclasses
import doctest
import math

import numpy as np
import pytest
import torch

from tp4lib.base.errors import InputError
from tp4lib.coordcheck import CoordCheck, check
from tp4lib.coordcheck import perceptrons as coordcheck
from tp4lib.parametrization import ABC, mup, ntp, standard

WIDTHS = (64, 128, 256, 512, 1024)


def batch(size=8, d_in=8, seed=7):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, d_in, generator=generator, dtype=torch.float64) / d_in**0.5
    return x, torch.sign(torch.randn(size, 1, generator=generator, dtype=torch.float64))


@pytest.fixture(scope="module")
def blown_up():
    """SP at a constant rate: the wider, the sooner it diverges."""
    return check(standard(2), *batch(), widths=WIDTHS, seeds=3, steps=8, lr=0.5)


def power_law(powers, noise=0.0, seeds=3):
    """A check of muP with sizes that are exact powers of n, times noise of its own per seed."""
    rng = np.random.default_rng(0)
    n = np.array(WIDTHS)[:, None, None]
    start = n ** np.array(powers, dtype=float) * np.exp(
        noise * rng.standard_normal((len(WIDTHS), seeds, len(powers)))
    )
    none = np.full((len(WIDTHS), seeds), -1)
    return CoordCheck(mup(2), WIDTHS, start, start[:, :, None], np.zeros((len(WIDTHS), seeds, 2)), none, 0.1)


def test_exact_powers_are_found_exactly():
    found = power_law([0.0, -0.5, 1.25])
    for layer, power in enumerate((0.0, -0.5, 1.25)):
        assert found.exponent(layer, 0) == (pytest.approx(power, abs=1e-12), pytest.approx(0, abs=1e-12))


def test_error_covers_the_noise():
    found = power_law([0.0, -0.5, 0.5], noise=0.3, seeds=40)
    for layer, power in enumerate((0.0, -0.5, 0.5)):
        measured, error = found.exponent(layer, 0)
        # Least squares over five octaves: 0.3 / sqrt(40 seeds) / sqrt(sum of (ln n - mean)^2) = 0.022.
        assert error == pytest.approx(0.3 / math.sqrt(40) / (math.log(2) * math.sqrt(10)), rel=0.5)
        assert abs(measured - power) < 4 * error


@pytest.mark.parametrize("seeds", [2, 3, 7])
def test_the_error_is_the_jackknifes(seeds):
    """sqrt((S - 1) / S sum_s (slope without s - their mean)^2): the error of a mean where the slope is one."""
    found = power_law([0.3], noise=0.2, seeds=seeds)
    squares = found.start[:, :, 0] ** 2
    without = [
        np.polyfit(np.log(WIDTHS), 0.5 * np.log(np.delete(squares, s, axis=1).mean(1)), 1)[0]
        for s in range(seeds)
    ]
    spread = sum((slope - np.mean(without)) ** 2 for slope in without)
    error = found.exponent(0, 0)[1]
    assert error == pytest.approx(math.sqrt((seeds - 1) / seeds * spread), rel=1e-9)
    if seeds == 2:  # and so half the distance of the two seeds' own slopes
        assert error == pytest.approx(abs(without[0] - without[1]) / 2, rel=1e-9)


@pytest.mark.parametrize(("spread", "shown"), [(1.0, 10**1.5), (4.0, 10**1.5), (14.0, 17.0)])
def test_the_axis_shows_at_least_a_decade_and_a_half_where_sizes_hardly_differ(spread, shown):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sizes = np.geomspace(1, spread, len(WIDTHS))[:, None, None] * np.ones((1, 2, 1))
    none = np.full((len(WIDTHS), 2), -1)
    found = CoordCheck(
        ABC([0, 0.5], [0, 0], 0, name="flat"), WIDTHS, sizes, sizes[:, :, None], sizes[..., 0], none, 0.1
    )
    found = dataclasses.replace(found, parametrization=mup(1), start=np.concatenate([sizes, sizes], axis=2),
                                change=np.concatenate([sizes, sizes], axis=2)[:, :, None])  # fmt: skip
    figure = found.plot()
    low, high = figure.axes[0].get_ylim()
    assert high / low == pytest.approx(shown, rel=0.15)
    plt.close(figure)


def test_an_output_that_is_nan_behind_finite_layers_has_diverged():
    found = check(mup(1), *batch(), widths=(8, 16), seeds=1, steps=2, std=[1.0, 1e308], lr=0.1)
    assert (found.diverged_at == 0).all()
    assert np.isnan(found.loss).all()


@pytest.mark.parametrize(
    "p", [mup(2), ntp(2), standard(2, lr_exponent=1), mup(1)], ids=lambda p: f"{p.name}, L={p.depth}"
)
def test_measured_exponents_are_the_predicted_ones(p):
    found = check(p, *batch(), widths=WIDTHS, seeds=8, steps=3)
    rows = found.growth()
    assert [(row.layer, row.quantity) for row in rows[: p.depth + 1]] == [
        *((f"h{k}", "start") for k in range(1, p.depth + 1)),
        ("f", "start"),
    ]
    for row in rows:
        # The logit's start is one random number per seed and input: its scatter is larger than the tolerance.
        slack = 0.1 if (row.layer, row.quantity) != ("f", "start") else 4 * row.error
        assert row.measured == pytest.approx(row.predicted, abs=slack), row
    assert {row.verdict for row in rows if row.quantity == "change" and row.predicted == 0} == {
        "ok, moves at every width"
    }
    assert found.divergence == ""
    assert np.isfinite(found.change).all()


def test_start_and_change_are_told_apart():
    """A change that shrinks like 1/sqrt(n) is invisible in |h_t| and plain in |h_t - h_0|."""
    found = check(ntp(2), *batch(), widths=WIDTHS, seeds=4, steps=2)
    assert found.exponent(1, 0)[0] == pytest.approx(0, abs=0.05)
    assert found.exponent(1, 2)[0] == pytest.approx(-0.5, abs=0.1)
    assert float(found.change[-1, :, -1, 1].max()) < 0.01 * float(found.start[-1, :, 1].min())


def test_adam_is_checked_too():
    found = check(
        mup(2), *batch(), widths=WIDTHS, seeds=4, steps=3, optimizer="adam", lr=0.02, activation="tanh"
    )
    for layer in range(3):
        assert found.exponent(layer)[0] == pytest.approx(0, abs=0.1)


def test_wrong_expectation_is_called_out():
    """What a network that was meant to be muP but is NTP would be told."""
    mistaken = dataclasses.replace(check(ntp(2), *batch(), widths=WIDTHS, steps=2), parametrization=mup(2))
    verdicts = {(row.layer, row.quantity): row.verdict for row in mistaken.growth()}
    for line in (("h1", "change"), ("h2", "change")):
        assert verdicts[line] == "DIFFERS from the prediction"


def test_scatter_is_not_mistaken_for_a_difference():
    """Two seeds leave the logit's start uncertain by more than the tolerance; the verdict says so."""
    rows = [power_law([0.0, 0.0, -0.5], noise=1.0, seeds=3).growth(step=0)[layer] for layer in range(3)]
    rows = [row for row in rows if abs(row.measured - row.predicted) > 0.1]
    assert rows
    assert {row.verdict for row in rows} == {"compatible but noisy: use more seeds"}


def test_divergence_is_reported_with_its_step(blown_up):
    assert (blown_up.diverged_at[-1] > 0).all()
    assert (
        blown_up.diverged_at[-1].min() < blown_up.diverged_at[0].max()
        or (blown_up.diverged_at[0] == -1).any()
    )
    first = int(blown_up.diverged_at[blown_up.diverged_at > 0].min())
    assert f"the first at step {first} (width" in blown_up.divergence
    text = blown_up.table()
    assert "unstable: " in text
    assert "nan" not in text.lower()
    for i, j in np.argwhere(blown_up.diverged_at > 0):
        step = blown_up.diverged_at[i, j]
        assert np.isfinite(blown_up.change[i, j, : step - 1]).all()  # everything before it is kept
        assert np.isnan(blown_up.change[i, j, step - 1 :]).all()  # nothing after it is made up
    # Before any run has left, the growth itself is measured, and its sign is the predicted one.
    first_step = {row.layer: row for row in blown_up.growth(step=1) if row.quantity == "change"}
    assert first_step["h1"].measured == pytest.approx(-0.5, abs=0.15)
    assert first_step["h2"].measured == pytest.approx(0.5, abs=0.15)
    assert first_step["f"].measured > 0.5
    assert blown_up.growth(step=1)[-1].verdict == "blows up as width grows"


def test_no_nan_reaches_a_plot(blown_up):
    calm = check(mup(1), *batch(), widths=WIDTHS[:3], seeds=2, steps=2)
    for found, marks in ((blown_up, True), (calm, False)):
        figure = found.plot()
        assert len(figure.axes) == 2
        for ax in figure.axes:
            for line in ax.get_lines():
                assert np.isfinite(np.asarray(line.get_ydata(), dtype=float)).all()
        words = " ".join(text.get_text() for text in figure.axes[1].texts)
        assert ("diverged" in words) == marks
    labels = " ".join(text.get_text() for text in calm.plot().axes[1].texts)
    assert "(0.00)" in labels  # the predicted exponent stands beside the measured one


def test_zero_readout_starts_at_zero_and_is_not_fitted():
    found = check(mup(1), *batch(), widths=WIDTHS[:3], seeds=2, steps=2, std=[1.0, 0.0])
    assert found.growth()[1].measured is None
    assert found.growth()[1].verdict.startswith("not measured")
    assert found.growth()[-1].measured is not None
    found.plot()


def test_same_seeds_same_numbers_and_nothing_global_changes():
    state = torch.get_rng_state()
    twice = [check(mup(1), *batch(), widths=WIDTHS[:2], seeds=[3, 5], steps=1) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(twice[0].change, twice[1].change)
    assert twice[0].exponent(0) == (None, None)  # two widths make no fit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(y=torch.ones(8)), "expected (batch, d_in) and (batch, d_out)"),
        (dict(y=torch.ones(7, 1)), "expected (batch, d_in) and (batch, d_out)"),
        (dict(widths=(64,)), "two or more, increasing"),
        (dict(widths=(128, 64)), "two or more, increasing"),
        (dict(seeds=0), "seeds = 0; expected a whole number >= 1"),
        (dict(seeds=[]), "no seeds"),
        (dict(steps=0), "steps = 0"),
        (dict(optimizer="lion"), "optimizer = 'lion'"),
        (dict(activation="swish"), "activation = 'swish'"),
        (dict(parametrization=None), "expected an ABC"),
    ],
)
def test_bad_input_is_one_line(change, message):
    x, y = batch()
    arguments = (
        dict(parametrization=ABC([0, 1], [0, 0], -1), x=x, y=y, widths=(8, 16), seeds=1, steps=1) | change
    )
    with pytest.raises(InputError) as error:
        check(**arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="step = 2; expected a whole number from 0 to 1"):
        check(mup(1), x, y, widths=(8, 16), seeds=1, steps=1).exponent(0, step=2)


def test_docstring_examples():
    results = doctest.testmod(coordcheck)
    assert results.attempted >= 3
    assert results.failed == 0


def test_a_gradient_whose_square_underflows_is_not_blown_up():
    """In float32 the square of 1e-24 is 0; Adam then divides by its epsilon alone, which must not be smaller still."""
    x, y = (part.float() for part in batch())
    found = check(
        mup(2), x, y, widths=(16, 32), seeds=2, steps=2, optimizer="adam", std=[1e-24, 1.0, 0.0], lr=0.01
    )
    assert (found.diverged_at < 0).all()
    assert found.change.max() < 1
