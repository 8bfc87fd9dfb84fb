"""One check for one concept: sizes, counts and numbers that a caller passes in.

Every function returns the value in its plain Python type, or raises an `InputError` of one line that says what was
wrong, what was expected and what to type instead. All of ``tp4lib`` uses these, so that the same mistake gets the same
answer everywhere.
"""

import math
from numbers import Integral, Real
from typing import Any

from tp4lib.base.errors import InputError


def whole(name: str, value: Any, least: int = 1, most: int | None = None, example: int | None = None) -> int:
    """``value`` as an int in ``least..most``; booleans and floats such as 2.5 or 2.0 are refused.

    Args:
        name: of the argument, as the caller types it.
        example: what to suggest; default ``least`` or 64 for a size.

    >>> whole("rank", 3)
    3
    >>> whole("rank", 2.5)
    Traceback (most recent call last):
    ...
    tp4lib.base.errors.InputError: rank = 2.5; expected a whole number >= 1; try rank=64
    """
    good = isinstance(value, Integral) and not isinstance(value, bool)
    if not (good and least <= value <= (math.inf if most is None else most)):
        limits = f">= {least}" if most is None else f"from {least} to {most}"
        suggestion = example if example is not None else min(max(least, 64), most or math.inf)
        raise InputError(
            f"{name} = {_shown(value)}; expected a whole number {limits}; try {name}={suggestion}"
        )
    return int(value)


def real(
    name: str,
    value: Any,
    least: float = -math.inf,
    most: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    example: float = 1.0,
) -> float:
    """``value`` as a finite float, ``least <= value <= most``, ``above < value < below``; NaN and booleans are refused.

    Args:
        name: of the argument, as the caller types it.
        above, below: bounds that are themselves excluded, as 0 is for a learning rate and 1 for momentum.
        example: what to suggest.

    >>> real("sigma", 0.5, least=0)
    0.5
    >>> real("lr", float("nan"), above=0, example=0.1)
    Traceback (most recent call last):
    ...
    tp4lib.base.errors.InputError: lr = nan; expected a finite number > 0; try lr=0.1
    """
    good = isinstance(value, Real) and not isinstance(value, bool)
    number = _float(value) if good else math.nan
    if not (math.isfinite(number) and least <= number <= most and above < number < below):
        limits = [f"> {above:g}"] * (above > -math.inf) + [f">= {least:g}"] * (least > -math.inf)
        limits += [f"<= {most:g}"] * (most < math.inf) + [f"< {below:g}"] * (below < math.inf)
        expected = " ".join(["a finite number", " and ".join(limits)]).strip()
        raise InputError(f"{name} = {_shown(value)}; expected {expected}; try {name}={example:g}")
    return number


def _float(value: Real) -> float:
    try:
        return float(value)
    except OverflowError:  # an int or a fraction beyond what a float holds
        return math.inf


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 40 else text[:37] + "..."


def seed(value: Any, name: str = "seed") -> int:
    """``value`` as a seed of every generator that is used here: a whole number from 0 to 2^63 - 1.

    >>> seed(-1)
    Traceback (most recent call last):
    ...
    tp4lib.base.errors.InputError: seed = -1; expected a whole number from 0 to 9223372036854775807; try seed=0
    """
    return whole(name, value, least=0, most=2**63 - 1, example=0)


def floating(name: str, value: Any) -> Any:
    """``value``, a floating type of torch or None (the default type); Python's ``float`` and ``int`` are refused.

    >>> floating("dtype", int)
    Traceback (most recent call last):
    ...
    tp4lib.base.errors.InputError: dtype = <class 'int'>; expected a floating type of torch; try dtype=torch.float32
    """
    import torch  # only here: the command line checks its numbers before it takes the time to import torch

    if value is not None and not (isinstance(value, torch.dtype) and value.is_floating_point):
        raise InputError(
            f"{name} = {_shown(value)}; expected a floating type of torch; try {name}=torch.float32"
        )
    return value
