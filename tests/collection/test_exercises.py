"""Checks of coded exercises: right answers pass, constants and crashes do not, and nothing stops a run."""

import doctest

import numpy as np
import pytest
import torch

from tp4lib.base.errors import InputError
from tp4lib.collection import exercises


def said(capsys, answer, truth=lambda x: 2 * x, draw=lambda rng: (rng.normal(size=3),), **options):
    assert exercises.check("exercise 1", answer, draw, truth, **options) is None
    text = capsys.readouterr().out
    assert text.count("\n") == 1
    return text


def test_right_answers_pass_whatever_they_return(capsys):
    for answer in (lambda x: x + x, lambda x: list(2 * x), lambda x: torch.tensor(2 * x)):
        assert said(capsys, answer) == "exercise 1: right, on 4 random inputs\n"


def unanswered(x):
    raise NotImplementedError("your code here")


def spoils(x):
    x *= 2
    return 2 * x


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (unanswered, "not answered yet"),
        (lambda x: np.ones(3), "expected"),
        (lambda x: 2 * x + 1e-3, "yours is"),
        (lambda x: x * float("nan"), "yours is nan"),
        (lambda x: 2 * x[:2], "expected shape (3,), yours has (2,)"),
        (lambda x: None, "returns nothing"),
        (lambda x: "two", "ValueError"),
        (lambda x: x.nothing, "AttributeError"),
        (spoils, "expected"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_nothing_is_raised(capsys, answer, words):
    text = said(capsys, answer)
    assert words in text
    assert "right, on" not in text


def test_inputs_are_fresh_and_cannot_be_spoilt(capsys):
    seen = []

    def draw(rng):
        seen.append(rng.normal(size=3))
        return (seen[-1],)

    said(capsys, spoils, draw=draw)
    said(capsys, lambda x: 2 * x, draw=draw)
    assert len({x.tobytes() for x in seen}) == 8


def test_an_exercise_that_a_constant_would_pass_is_refused():
    with pytest.raises(InputError, match="the same for every input"):
        exercises.check("exercise 1", lambda x: 4, lambda rng: (rng.normal(),), lambda x: 4)


def test_a_tolerance_is_relative_to_the_largest_entry(capsys):
    assert "right, on" in said(capsys, lambda x: 2.05 * x, tolerance=0.03)
    assert "not right" in said(capsys, lambda x: 2.05 * x, tolerance=0.02)


def test_what_happened_is_folded_and_escaped():
    fold = exercises.happened("the loss is  0.3 < 0.4\nat width 64")
    assert "<details>" in fold._repr_html_()
    assert "0.3 &lt; 0.4 at width 64" in fold._repr_html_()
    assert repr(fold) == "[What happened] the loss is 0.3 < 0.4 at width 64"
    assert exercises.Saw("- one\n <\n- two\n")._repr_html_() == "<ul><li>one &lt;</li><li>two</li></ul>"


def test_a_difference_counts_from_two_standard_errors():
    one = np.array([1.0, 1.1, 0.9, 1.05])
    assert "no difference" in exercises.differ("a against b", one, one + 0.05)
    assert exercises.differ("a against b", one, one + 1) == "a against b: −1.00 ± 0.06"


def test_examples():
    assert doctest.testmod(exercises).failed == 0
