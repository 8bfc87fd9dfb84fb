"""One look for every figure: colour-blind-safe, told apart without colour too, labelled where the line ends."""

from collections.abc import Hashable, Iterable
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

# Okabe & Ito (2008): told apart with any colour vision; black last, for the reference (width infinity).
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7F7F7F", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = (
    "-", (0, (5, 1.5)), (0, (1, 1)), (0, (3, 1, 1, 1)),
    (0, (7, 2, 2, 2)), (0, (2, 2)), (0, (4, 1, 1, 1, 1, 1)), "-",
)  # fmt: skip
PUBLISHED = dict(color="0.35", linestyle=(0, (6, 3)), linewidth=1.0, zorder=1)


def use_style() -> None:
    """Set the style of all later figures (seaborn's "ticks" theme, readable at half size, vector text kept as text)."""
    sns.set_theme(context="notebook", style="ticks", palette=list(PALETTE))
    mpl.rcParams.update(
        {
            "figure.figsize": (7.0, 4.2),
            "figure.dpi": 90,
            "savefig.dpi": 160,
            "savefig.bbox": "tight",
            "figure.constrained_layout.use": True,
            "svg.fonttype": "none",
            "svg.hashsalt": "tp4",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": "medium",
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.grid": True,
            "axes.grid.axis": "y",
            "grid.color": "0.92",
            "lines.linewidth": 1.8,
            "lines.markersize": 5.5,
            "legend.frameon": False,
            "legend.fontsize": "small",
        }
    )


def style_for(keys: Iterable[Hashable]) -> dict[Hashable, dict[str, Any]]:
    """A colour, marker and line style for each key, in order; infinity is always black and solid.

    >>> style_for([64, math.inf])[math.inf]["color"]
    '#000000'
    """
    styles, place = {}, 0
    for key in keys:
        last = str(key) == "inf"
        index = len(PALETTE) - 1 if last else place % (len(PALETTE) - 1)
        styles[key] = dict(color=PALETTE[index], marker=MARKERS[index], linestyle=LINES[index])
        place += not last
    return styles


def published_line(ax: Axes, value: float, label: str, axis: str = "y") -> Line2D:
    """Draw a published value as a thin dashed line, labelled at its end inside the axes."""
    if axis == "y":
        line = ax.axhline(value, **PUBLISHED)
        ax.annotate(label, (1, value), xycoords=("axes fraction", "data"), xytext=(-2, 2), textcoords="offset points",
                    ha="right", va="bottom", fontsize="x-small", color=PUBLISHED["color"])  # fmt: skip
    else:
        line = ax.axvline(value, **PUBLISHED)
        ax.annotate(label, (value, 1), xycoords=("data", "axes fraction"), xytext=(2, -2), textcoords="offset points",
                    ha="left", va="top", rotation=90, fontsize="x-small", color=PUBLISHED["color"])  # fmt: skip
    return line


def band(ax: Axes, x: Any, ys: Any, axis: int = 0, label: str | None = None, **style: Any) -> Line2D:
    """Plot the mean of ``ys`` over ``axis`` (the seeds) against ``x``, in a band of one standard deviation."""
    ys = np.asarray(ys, dtype=float)
    mean, spread = ys.mean(axis), ys.std(axis)
    (line,) = ax.plot(x, mean, label=label, **style)
    if ys.shape[axis] > 1:
        ax.fill_between(x, mean - spread, mean + spread, color=line.get_color(), alpha=0.18, linewidth=0)
    return line


def label_lines(ax: Axes, gap: float = 11.0) -> None:
    """Write each labelled line's label right of the axes at the height of its end, ``gap`` points apart; no legend."""
    ax.figure.canvas.draw()  # fixes the transforms that the placement needs
    box, points = ax.get_window_extent(), 72 / ax.figure.dpi
    ends = []
    for line in ax.get_lines():
        label, xs, ys = (
            line.get_label(),
            np.asarray(line.get_xdata(), float),
            np.asarray(line.get_ydata(), float),
        )
        shown = np.isfinite(xs) & np.isfinite(ys)
        if label and not label.startswith("_") and shown.any():
            pixel = ax.transData.transform((xs[shown][-1], ys[shown][-1]))
            ends.append(((pixel[1] - box.y0) * points, line))
    ends.sort(key=lambda end: end[0])
    lowest, highest = 5.0, box.height * points
    heights = [min(max(height, lowest), highest) for height, _ in ends]
    for index in range(1, len(heights)):
        heights[index] = max(heights[index], heights[index - 1] + gap)
    if (
        heights and heights[-1] > highest
    ):  # the column sticks out at the top: push it down, as far as it must go
        heights[-1] = highest
        for index in range(len(heights) - 2, -1, -1):
            heights[index] = min(heights[index], heights[index + 1] - gap)
    for height, (_, line) in zip(heights, ends, strict=True):
        ax.annotate(
            line.get_label(), (1, 0), xycoords="axes fraction", xytext=(6, height), textcoords="offset points",
            va="center", fontsize="small", color=line.get_color(), annotation_clip=False,
        )  # fmt: skip


def close(fig: plt.Figure) -> None:
    """Close a figure, so that a notebook that draws many does not keep them all."""
    plt.close(fig)
