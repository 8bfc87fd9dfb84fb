"""Exercises in code that check themselves, and what a notebook says after a prediction and at its end.

A check draws fresh inputs each time it runs, so that no constant passes it, and prints one line: a cell that fails
would stop "run all" for everybody who has skipped the exercise.
"""

import copy
import html
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tp4lib.base.errors import InputError

UNANSWERED = "not answered yet"


def check(
    label: str,
    answer: Callable[..., Any],
    draw: Callable[[np.random.Generator], tuple],
    truth: Callable[..., Any],
    *,
    trials: int = 4,
    tolerance: float = 1e-6,
) -> None:
    """Compare ``answer(*inputs)`` with ``truth(*inputs)`` on ``trials`` fresh inputs, and print one line.

    Args:
        label: such as ``"exercise 4"``; the line begins with it.
        answer: the student's function; whatever it raises is reported in the line.
        draw: makes the arguments of one trial from a random generator.
        truth: gives the right result: another way to compute it, or a property (then ``answer`` measures it).
        tolerance: largest difference, relative to the largest entry of the right result.

    Raises:
        InputError: the right result was the same at every trial, so that a constant would pass.

    >>> check("exercise 1", lambda x: x + x, lambda rng: (rng.normal(),), lambda x: 2 * x)
    exercise 1: right, on 4 random inputs
    """
    rng = np.random.default_rng()
    cases = [draw(rng) for _ in range(trials)]
    rights = [_array(truth(*copy.deepcopy(case))) for case in cases]
    if all(right.shape == rights[0].shape and np.allclose(right, rights[0]) for right in rights):
        raise InputError(
            f"{label}: the right result is the same for every input; expected inputs that tell a constant; "
            "let draw vary more"
        )
    for trial, (case, right) in enumerate(zip(cases, rights, strict=True), 1):
        if wrong := _wrong(answer, case, right, tolerance):
            print(f"{label}: {wrong if wrong == UNANSWERED else f'not right yet; input {trial}: {wrong}'}")
            return
    print(f"{label}: right, on {trials} random inputs")


def happened(text: str) -> "Fold":
    """What came out after a prediction, folded until the reader asks for it; ``text`` has the run's own numbers."""
    return Fold("What happened", text)


class Fold:
    """A line that unfolds to a paragraph, in a live notebook and on the page."""

    def __init__(self, title: str, text: str) -> None:
        self.title, self.text = title, " ".join(text.split())

    def _repr_html_(self) -> str:
        return (
            f"<details><summary><strong>{html.escape(self.title)}</strong></summary>"
            f"<p>{html.escape(self.text)}</p></details>"
        )

    def __repr__(self) -> str:
        return f"[{self.title}] {self.text}"


class Saw:
    """The list below "What you saw", its numbers filled in from the run: ``text`` has lines that begin with "- "."""

    def __init__(self, text: str) -> None:
        self.lines = [" ".join(line.split()) for line in ("\n" + text).split("\n- ")[1:]]

    def _repr_html_(self) -> str:
        return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in self.lines) + "</ul>"

    def __repr__(self) -> str:
        return "\n".join(f"- {line}" for line in self.lines)


def differ(name: str, one: Any, other: Any, unit: str = "") -> str:
    """Compare the means of two samples (seeds) in words; under two standard errors it is no difference.

    The error is shown to one digit, the difference to the same decimal place.

    >>> differ("muP against SP", [1.0, 1.1, 0.9], [1.05, 0.95, 1.1])
    'muP against SP: no difference seen (−0.03 ± 0.07)'
    """
    one, other = np.asarray(one, float), np.asarray(other, float)
    gap = one.mean() - other.mean()
    error = np.sqrt(sum(sample.var(ddof=1) / len(sample) for sample in (one, other)))
    leading = error if error > 0 else gap
    places = max(0, -math.floor(math.log10(abs(leading)))) if leading else 0
    numbers = f"{gap:+.{places}f} ± {float(f'{error:.1g}'):.{places}f}".replace("-", "−")
    shown = f"{numbers} {unit}" if unit else numbers
    return f"{name}: {'no difference seen (' + shown + ')' if abs(gap) < 2 * error else shown}"


def _wrong(answer: Callable[..., Any], case: tuple, right: np.ndarray, tolerance: float) -> str | None:
    """What is wrong with an answer at one input, in words."""
    try:
        given = answer(*copy.deepcopy(case))
        found = None if given is None else _array(given)
    except NotImplementedError:
        return UNANSWERED
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
    if found is None:
        return "the function returns nothing"
    if found.shape != right.shape:
        return f"expected shape {right.shape}, yours has {found.shape}"
    off = np.abs(found - right).max()
    if not off <= tolerance * max(1e-12, np.abs(right).max()):  # also where it is no number
        return f"expected {_short(right)}, yours is {_short(found)}"
    return None


def _array(value: Any) -> np.ndarray:
    """Numbers, tensors, and lists or tuples of them, as one array of float64."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    elif isinstance(value, (list, tuple)):
        parts = [_array(part) for part in value]
        return np.concatenate([part.ravel() for part in parts]) if parts else np.zeros(0)
    return np.asarray(value, dtype=float)


def _short(array: np.ndarray) -> str:
    flat = array.ravel()
    return ", ".join(f"{value:.4g}" for value in flat[:3]) + (", ..." if flat.size > 3 else "")
