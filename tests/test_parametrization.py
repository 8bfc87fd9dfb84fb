"""The classification against Table 1, and against a derivation of its own: sizes followed through training by hand."""

import copy
import doctest
import itertools
import pickle
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tp4lib import parametrization
from tp4lib.base.errors import InputError
from tp4lib.parametrization import ABC, mean_field, mup, ntp, standard

HALF, NEVER = Fraction(1, 2), Fraction(-(10**6))


def regime_by_bookkeeping(a: list[Fraction], b: list[Fraction], c: Fraction, steps: int = 3) -> str:
    """The regime, found by following powers of n through a few SGD steps of a homogeneous network.

    Nothing of the theorem is used: only that a sum over n independent terms grows like n^(1/2) and one over n
    correlated terms like n, how SGD's update is built, and that sizes of sums are sizes of the largest term.
    """
    last = len(a) - 1  # index of the readout
    w0 = [-(a_l + b_l) for a_l, b_l in zip(a, b, strict=True)]  # size of an entry of W^l_0
    x = Fraction(0)  # the input, a fixed number of coordinates of size 1
    for k in range(last):
        x = x + w0[k] + (HALF if k else 0)
        if x != 0:
            return "unstable"  # features vanish or explode at the start
    if w0[last] + HALF > 0:
        return "unstable"  # logits explode at the start

    dw = [NEVER] * (last + 1)  # size of an entry of W^l_t - W^l_0
    dx_l = [NEVER] * last  # size of h^{l+1}_t - h^{l+1}_0
    f_moved = NEVER
    for _ in range(steps):
        # Backward. All features have size 1 (else we have returned). The readout's start is kept apart from its update,
        # because the features correlate with it.
        back = max(w0[last], dw[last])
        grad = [NEVER] * last
        for k in reversed(range(last)):
            grad[k] = back
            if k:
                back = max(
                    back + w0[k] + HALF, back + dw[k] + 1
                )  # W_0^T dh: independent; dW^T dh: correlated
        # Update of W = n^-a w by a rate eta n^-c: n^(-2a - c) dh x^T.
        for k in range(last):
            dw[k] = max(dw[k], -2 * a[k] - c + grad[k])
        dw[last] = max(dw[last], -2 * a[last] - c)
        # Forward.
        carried = NEVER  # change of x^{l-1}
        along_readout = NEVER  # coefficient of W^{L+1}_0 in the change of x^L, to first order
        for k in range(last):
            own = dw[k] + (1 if k else 0)
            carried = max(own, carried + w0[k] + HALF, carried + dw[k] + 1)
            along_readout = max(along_readout, -2 * a[k] - c + (1 if k else 0))
            dx_l[k] = carried
            if carried > 0:
                return "unstable"
        f_moved = max(
            f_moved,
            dw[last] + 1,  # x^L with itself: correlated
            carried + w0[last] + HALF,  # W_0 with a change independent of it
            along_readout + 2 * w0[last] + 1,  # W_0 with the part of the change along W_0
        )
        if f_moved > 0:
            return "unstable"
    if f_moved < 0:
        return "trivial"
    return "feature learning" if max(dx_l) == 0 else "kernel"


TABLE_1 = [
    # name, parametrization, a, b, c, r, regime
    ("SP", standard(3), (0, 0, 0, 0), (0, 0.5, 0.5, 0.5), 0, -1, "unstable"),
    ("SP 1/n", standard(3, lr_exponent=1), (0, 0, 0, 0), (0, 0.5, 0.5, 0.5), 1, 0.5, "kernel"),
    ("NTP", ntp(3), (0, 0.5, 0.5, 0.5), (0, 0, 0, 0), 0, 0.5, "kernel"),
    ("MFP", mean_field(), (0, 1), (0, 0), -1, 0, "feature learning"),
    ("muP", mup(3), (-0.5, 0, 0, 0.5), (0.5, 0.5, 0.5, 0.5), 0, 0, "feature learning"),
]


@pytest.mark.parametrize(
    ("name", "p", "a", "b", "c", "r", "regime"), TABLE_1, ids=[row[0] for row in TABLE_1]
)
def test_table_1(name, p, a, b, c, r, regime):
    assert (p.a, p.b, p.c, p.r, p.regime) == (a, b, c, r, regime)
    assert p.is_stable == (regime != "unstable")
    assert p.learns_features == (regime == "feature learning")
    assert p.is_kernel == (regime == "kernel")
    assert p.is_nontrivial == (p.learns_features or p.is_kernel)


eighths = st.integers(-12, 16).map(lambda k: Fraction(k, 8))


@st.composite
def exponents(draw):
    """Random members; most of them right at the start, so that the rest of the theorem decides."""
    depth = draw(st.integers(1, 4))
    a = [draw(eighths) for _ in range(depth + 1)]
    b = [(HALF if k else 0) - a[k] for k in range(depth)]
    b.append(draw(st.integers(3, 12).map(lambda k: Fraction(k, 8))) - a[-1])
    if draw(st.integers(0, 9)) == 0:
        b[draw(st.integers(0, depth))] += draw(eighths)
    c = draw(st.sampled_from([1 - 2 * a[-1], draw(eighths)]))
    return a, b, c


@settings(max_examples=1500, deadline=None, derandomize=True)
@given(exponents())
def test_random_members_against_bookkeeping(abc):
    assert ABC(*abc).regime == regime_by_bookkeeping(*abc)


def test_every_regime_on_a_grid_against_bookkeeping():
    quarters = [Fraction(k, 4) for k in range(-2, 5)]
    seen = Counter()
    for a_1, a_2, a_3, readout, c in itertools.product(quarters, quarters, quarters, quarters, quarters):
        a, b = [a_1, a_2, a_3], [-a_1, HALF - a_2, readout - a_3]
        if a_1 != 0 and c != 0:
            continue  # the symmetry's other copies
        regime = ABC(a, b, c).regime
        assert regime == regime_by_bookkeeping(a, b, c)
        seen[regime] += 1
    assert min(seen[regime] for regime in ("unstable", "trivial", "kernel", "feature learning")) > 20, seen


@settings(max_examples=200, deadline=None, derandomize=True)
@given(exponents(), eighths)
def test_shift_changes_no_verdict_and_comes_back(abc, t):
    p = ABC(*abc)
    moved = p.shift(t)
    assert (moved.regime, moved.r) == (p.regime, p.r)
    assert (moved.initial_exponents, moved.change_exponents) == (p.initial_exponents, p.change_exponents)
    assert moved.shift(-t) == p
    assert p.same_orbit(moved)
    assert (moved == p) == (t == 0)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(exponents())
def test_dichotomy_and_predicted_growth(abc):
    p = ABC(*abc)
    assert p.learns_features + p.is_kernel == p.is_nontrivial
    if p.is_stable:
        assert set(p.initial_exponents[:-1]) == {0.0}
        assert p.initial_exponents[-1] <= 0
        assert p.change_exponents[-2] == -p.r <= 0
        assert (p.change_exponents[-1] == 0) == p.is_nontrivial


def test_mean_field_and_mup_are_one_orbit_and_others_are_not():
    assert mean_field().shift(-0.5) == mup(1)
    assert mean_field().same_orbit(mup(1))
    assert standard(2, lr_exponent=1).same_orbit(ntp(2)) is False  # same r, other functions: layer 1 differs
    assert ntp(2).same_orbit(mup(2)) is False
    assert mup(1).same_orbit(mup(2)) is False


def test_only_mup_moves_every_layer():
    for p in (standard(3, lr_exponent=1), ntp(3)):
        assert max(p.change_exponents[:-1]) < 0
    assert set(mup(3).change_exponents) == {0.0}


def test_first_step_differs_only_where_the_readout_starts_smaller_than_its_update():
    for p in (ntp(2), mup(2), mean_field(), standard(2, lr_exponent=1)):
        assert p.first_step_exponents == p.change_exponents
    small_start = ABC([-0.5, 0, 0.5], [0.5, 0.5, 0.75], 0)  # muP with a readout of size n^{-5/4}
    assert small_start.learns_features
    assert small_start.first_step_exponents == (-0.25, -0.25, 0)
    assert small_start.change_exponents == (0, 0, 0)


def test_adam_exponents_are_those_of_tensor_programs_v():
    # Table 9 of Tensor Programs V (the form with a_1 = -1/2): 1/sqrt(fan-out), 1/fan-in, 1/sqrt(fan-in).
    assert mup(3).adam_exponents == (0.5, 1, 1, 0.5)
    # Table 3, the form without multipliers but for the output's 1/fan-in (a_1 = 0, a_out = 1): 1, 1/fan-in, 1.
    shifted = mup(3).shift(0.5)
    assert shifted.a == (0, 0.5, 0.5, 1)
    assert shifted.adam_exponents == (0, 0.5, 0.5, 0)
    assert standard(3).adam_exponents == (0, 0, 0, 0)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(*[st.floats(-2, 2) for _ in range(3)], st.floats(1, 3))
def test_equalities_survive_floating_point(a_1, a_2, a_3, s):
    """b computed from a in floats, as anybody would: the equalities of stability hold all the same."""
    p = ABC([a_1, a_2, a_3], [-a_1, 0.5 - a_2, s - a_3], c=1 - 2 * a_3)
    names = {condition.statement: condition.holds for condition in p.stability_conditions}
    assert names["a_1 + b_1"]
    assert names["a_2 + b_2"]
    assert names["2 a_3 + c"]
    assert p.is_stable == p.is_nontrivial
    assert p.same_orbit(p.shift(a_1 / 3))


def test_equality_hash_repr_copy():
    float_dust = ABC([0.1 + 0.2, 0.5], [-0.3, 0.5], 0)
    exact = ABC([0.3, 0.5], [-(0.1 + 0.2), Fraction(1, 2)], 0, name="with a name")
    assert float_dust == exact
    assert hash(float_dust) == hash(exact)
    assert float_dust.stability_conditions[0].holds
    assert len({mup(2), mup(2), ntp(2)}) == 2
    assert eval(repr(mup(2))) == mup(2)
    assert repr(ntp(2)) == "ABC(a=[0, 1/2, 1/2], b=[0, 0, 0], c=0, name='NTP')"
    assert copy.deepcopy(mup(2)) == pickle.loads(pickle.dumps(mup(2))) == mup(2)
    with pytest.raises(AttributeError):
        mup(2).c = 1.0


def test_explain_names_what_fails_by_how_much_and_where_it_stands():
    text = standard(2).explain()
    assert text.startswith("SP (L = 2): unstable")
    failed = [line for line in text.splitlines() if "FAIL" in line]
    assert len(failed) == 3
    assert "r >= 0 (is -1, off by -1" in failed[0]
    assert "2 a_3 + c >= 1 (is 0, off by -1" in failed[1]
    assert all("section 3, Stability Characterization" in line for line in failed)
    assert "2011.14522" in text
    assert "kernel regime; hidden features move like n^-1/2" in ntp(2).explain()
    assert "features learned" in mean_field().explain()
    trivial = ABC([0, 0.5, 0.6], [0, 0, 0.5], 0)
    assert [condition.margin for condition in trivial.nontriviality_conditions] == pytest.approx([0.2, 1.2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ABC([0, 1], [0], 0), "a has 2 exponents and b has 1"),
        (lambda: ABC([0], [0], 0), "L >= 1 hidden layers"),
        (lambda: ABC([], [], 0), "L >= 1 hidden layers"),
        (lambda: ABC(1.0, [0, 0], 0), "expected a list"),
        (lambda: ABC("01", [0, 0], 0), "expected a list"),
        (lambda: ABC([0, float("nan")], [0, 0], 0), "a_2 = nan"),
        (lambda: ABC([0, "x"], [0, 0], 0), "a_2 = 'x'"),
        (lambda: ABC([0, 1], [0, 0], float("inf")), "c = inf"),
        (lambda: mup(0), "L = 0"),
        (lambda: ntp(1.5), "L = 1.5"),
        (lambda: standard(-1), "L = -1"),
        (lambda: standard(2, lr_exponent=None), "lr_exponent = None"),
        (lambda: mup(2).shift(float("nan")), "t = nan"),
    ],
)
def test_bad_input_is_one_line(make, message):
    with pytest.raises(InputError) as error:
        make()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_docstring_examples():
    results = doctest.testmod(parametrization)
    assert results.attempted >= 10
    assert results.failed == 0
