"""One refusal for one mistake, whichever function it is passed to."""

import math
from fractions import Fraction

import numpy as np
import pytest

from tp4lib.base import checks
from tp4lib.base.errors import InputError


@pytest.mark.parametrize("good", [1, 64, np.int64(3)])
def test_whole_numbers_pass_as_int(good):
    assert type(checks.whole("width", good)) is int


@pytest.mark.parametrize("bad", [0, -1, 2.5, 2.0, True, None, "64", math.nan, math.inf, 10**40 * -1])
def test_everything_else_is_one_line_with_a_suggestion(bad):
    with pytest.raises(InputError, match=r"^width = .*; expected a whole number >= 1; try width=64$"):
        checks.whole("width", bad)


def test_limits_of_whole_numbers():
    assert checks.whole("seed", 0, least=0) == 0
    assert checks.whole("depth", 8, most=8) == 8
    with pytest.raises(InputError, match="from 1 to 8; try depth=8"):
        checks.whole("depth", 9, most=8)


@pytest.mark.parametrize("good", [0, 0.5, np.float32(2), Fraction(1, 3)])
def test_real_numbers_pass_as_float(good):
    assert type(checks.real("sigma", good, least=0)) is float


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0, True, None, "1", 1j, 10**400])
def test_real_numbers_are_finite_and_in_range(bad):
    with pytest.raises(InputError, match=r"^sigma = .*; expected a finite number >= 0; try sigma=1$"):
        checks.real("sigma", bad, least=0)


def test_an_excluded_bound():
    with pytest.raises(InputError, match="> 0; try lr="):
        checks.real("lr", 0.0, above=0, example=0.1)
