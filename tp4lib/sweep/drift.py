"""The best learning rate of a sweep, and how far it drifts with the width, with standard errors over seeds."""

import numpy as np

from tp4lib.base.errors import InputError


def vertex(x: np.ndarray, y: np.ndarray, best: int) -> float | None:
    """Where the parabola through y[best] and its two neighbours has its minimum; None if there is no such parabola."""
    around = slice(best - 1, best + 2)
    if not (0 < best < len(x) - 1 and np.isfinite(y[around]).all()):
        return None
    # Relative to the best one, so that the fit is well conditioned.
    square, linear, _ = np.polyfit(x[around] - x[best], y[around], 2)
    return x[best] - linear / (2 * square) if square > 0 else None


def optimum(octaves: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """(S,) base-2 logarithm of the best rate for each seed, by a parabola through the lowest point and its neighbours.

    Args:
        octaves: (R,) base-2 logarithms of the rates, ascending. losses: (R, S), infinite where a run diverged; an
            InputError where a minimum is not bracketed.

    >>> optimum(np.array([-2.0, -1.0, 0.0]), np.array([[1.0], [0.0], [1.0]])).tolist()
    [-1.0]
    """
    found = []
    for column in np.asarray(losses, dtype=float).T:
        best = int(np.argmin(column))
        if (minimum := vertex(octaves, column, best)) is None:
            raise InputError(
                f"the lowest loss is at 2^{octaves[best]:g}, the end of what was tried or of what converges; expected "
                "a minimum with an inside; add rates there, or train for more steps"
            )
        found.append(minimum)
    return np.array(found)


def drift_per_doubling(widths: np.ndarray, best: np.ndarray) -> tuple[float, float]:
    """Slope of the best rate (octaves) against the width (doublings), and its standard error over seeds.

    Args:
        widths: (W,). best: (W, S), base-2 logarithms of the best rates, one column a seed.

    >>> drift_per_doubling(np.array([64, 128, 256]), np.array([[0.0, 1.0], [-1.0, 0.0], [-2.0, -1.0]]))
    (-1.0, 0.0)
    """
    slopes = np.polyfit(np.log2(widths), best, 1)[0]
    error = slopes.std(ddof=1) / np.sqrt(len(slopes)) if len(slopes) > 1 else float("nan")
    return round(float(slopes.mean()), 12), round(float(error), 12)
