r"""The power of the width with which a size grows, by least squares in log-log, and its standard error.

    log s(n) = const + power * log n,      s(n) root mean square over networks of width n

`power_of_width` is for the same seeds at every width, `fitted_power` for independent networks, as many as there are.
"""

import math
from collections.abc import Mapping

import numpy as np

from tp4lib.base.errors import InputError


def power_of_width(widths: np.ndarray, sizes: np.ndarray) -> tuple[float | None, float | None]:
    """(power, standard error from leaving one seed out at a time).

    Args:
        widths: (W,). sizes: (W, S), one column a seed; widths at which one of them is not finite are left out.

    Returns:
        (None, None) if fewer than three widths are left, or a size is exactly 0; no error for one seed.

    >>> power, error = power_of_width(np.array([1, 2, 4]), np.array([[1.0], [2.0], [4.0]]))
    >>> round(power, 12), error
    (1.0, None)
    """
    kept = np.isfinite(sizes).all(1)
    if kept.sum() < 3 or (sizes[kept] <= 0).any():
        return None, None
    weights, squares = _weights(np.asarray(widths)[kept]), sizes[kept] ** 2
    power, seeds = float(weights @ np.log(squares.mean(1)) / 2), squares.shape[1]
    if seeds < 2:
        return power, None
    without = np.stack([np.delete(squares, seed, axis=1).mean(1) for seed in range(seeds)], axis=1)
    jackknife = weights @ np.log(without) / 2
    return power, float(np.sqrt((seeds - 1) * jackknife.var()))


def fitted_power(squares: Mapping[int, object]) -> tuple[float, float]:
    """(power, standard error from the spread of the networks of each width).

    Args:
        squares: for each width n, the (networks,) mean squares of single networks, two or more of them.

    Raises:
        InputError: fewer than two widths, or a width with fewer than two networks.

    >>> slope, error = fitted_power({64: np.array([4.0, 4.0]), 256: np.array([1.0, 1.0])})
    >>> f"{slope:.2f} +- {error:.2f}"
    '-0.50 +- 0.00'
    """
    if len(squares) < 2 or any(len(s) < 2 for s in squares.values()):
        counts = {n: len(s) for n, s in squares.items()}
        raise InputError(
            f"networks by width: {counts}; expected two or more widths with two or more networks each; "
            "train more networks"
        )
    found = [np.asarray(s.cpu() if hasattr(s, "cpu") else s, dtype=float) for s in squares.values()]
    weights, means = _weights(np.array(list(squares))), np.array([s.mean() for s in found])
    # log of a mean moves by (relative error of the mean), and the root halves it
    errors = np.array([s.std(ddof=1) / math.sqrt(len(s)) for s in found]) / (2 * means)
    return float(weights @ np.log(means) / 2), float(np.sqrt((weights * errors) @ (weights * errors)))


def shown(power: float | None, error: float | None = None) -> str:
    """As tables show it: signed, with two digits, and its standard error if there is one; "-" for None.

    >>> shown(-0.5, 0.01), shown(None)
    ('-0.50 ± 0.01', '-')
    """
    return "-" if power is None else f"{power + 0.0:+.2f}" + ("" if error is None else f" ± {error:.2f}")


def _weights(widths: np.ndarray) -> np.ndarray:
    """(W,) such that weights @ y is the least-squares slope of y against log width."""
    x = np.log(widths) - np.log(widths).mean()
    return x / (x @ x)
