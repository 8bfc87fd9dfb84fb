"""The power of the width with which a size grows, fitted in log-log, with the standard error that seeds leave."""

import numpy as np


def power_of_width(widths: np.ndarray, sizes: np.ndarray) -> tuple[float | None, float | None]:
    """(power, standard error from leaving one seed out at a time), by least squares on mean squares over seeds.

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
    logs, squares = np.log(np.asarray(widths)[kept]), sizes[kept] ** 2

    def slope(columns: np.ndarray) -> float:
        return float(np.polyfit(logs, 0.5 * np.log(columns.mean(1)), 1)[0])

    seeds = squares.shape[1]
    if seeds < 2:
        return slope(squares), None
    jackknife = np.array([slope(np.delete(squares, seed, axis=1)) for seed in range(seeds)])
    return slope(squares), float(np.sqrt((seeds - 1) * jackknife.var()))


def shown(power: float | None, error: float | None = None) -> str:
    """As tables show it: signed, with two digits, and its standard error if there is one; "-" for None."""
    return "-" if power is None else f"{power + 0.0:+.2f}" + ("" if error is None else f" ± {error:.2f}")
