"""The figures of coordinate checks: the one core module that needs matplotlib, imported when something is plotted."""

import math
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tp4lib.collection.plotting import label_lines, log_axis, number, style_for


def two_panels(found: Any, step: int | None) -> Figure:
    """See `tp4lib.coordcheck.CoordCheck.plot`."""
    step = found.steps if step is None else step
    fig, axes = plt.subplots(1, 2, figsize=(10.5, 4.0))
    title = f"{found.parametrization.name}: measured power of the width (predicted: in brackets, dashed)"
    fig.suptitle(title, x=0.01, ha="left")
    _panel(found, axes[0], 0, "size at initialization, |h$_0$|")
    title = f"change after {step} step{'s' * (step > 1)}, |h$_{{{step}}}$ − h$_0$|"
    _panel(found, axes[1], step, title)
    for ax in axes:  # last: labels are placed where the finished layout has put the lines
        label_lines(ax)
    return fig


def _panel(found: Any, ax: Axes, step: int, title: str) -> None:
    sizes, widths, predicted = found.sizes(step), np.array(found.widths), found.predicted(step)
    kept = np.isfinite(sizes).all((1, 2))
    for layer, (name, style) in enumerate(style_for(found.layers).items()):
        y = sizes[kept, :, layer]
        measured, _ = found.exponent(layer, step)
        if y.size == 0 or (y <= 0).any():  # not for a logarithmic axis: an output that is 0 at first
            continue
        label = "–" if measured is None else number(measured, sign=True)
        middle, logs = np.sqrt((y**2).mean(1)), np.log(y)
        label = f"{name}: {label} ({number(predicted[layer], sign=True)})"
        ax.plot(widths[kept], middle, label=label, **style)
        low, high = np.exp(logs.mean(1) - logs.std(1)), np.exp(logs.mean(1) + logs.std(1))
        ax.fill_between(widths[kept], low, high, color=style["color"], alpha=0.18, linewidth=0)
        guide = (widths / np.exp(np.log(widths[kept]).mean())) ** predicted[layer]
        line = dict(color=style["color"], lw=0.9, ls="--", alpha=0.7)
        ax.plot(widths, np.exp(np.log(middle).mean()) * guide, **line)
    ax.set(xscale="log", yscale="log", xlabel="width n", title=title)
    for width, steps in zip(widths[~kept], found.diverged_at[~kept], strict=True):
        first = steps[steps >= 0].min()
        ax.plot(width, 0.9, "x", color="black", transform=ax.get_xaxis_transform(), clip_on=False)
        ax.annotate(f"diverged\nat step {first}", (width, 0.86), xycoords=ax.get_xaxis_transform(),
                    ha="center", va="top", fontsize="x-small")  # fmt: skip
    ax.set_xlim(widths[0] / 1.3, widths[-1] * 1.3)  # room for the words beside the outermost widths
    log_axis(ax, "x", at=found.widths)
    if not kept.any():
        ax.set_yticks([])
        return
    low, high = ax.get_ylim()
    if high < 10 * low:  # less than a decade would magnify seed noise into a slope
        centre = math.sqrt(low * high)
        ax.set_ylim(centre / 10**0.75, centre * 10**0.75)
    log_axis(ax)


def one_panel(found: Any, ax: Axes | None) -> Figure:
    """See `tp4lib.coordcheck.ModuleCheck.plot`."""
    ax = ax or plt.subplots(figsize=(7.5, 4.4))[1]
    faults = sorted(
        (n for n in found.powers if found.verdict(n).isupper()), key=lambda n: -abs(found.powers[n])
    )[:6]
    styles = style_for(faults)
    for name in sorted(found.powers, key=lambda n: n in faults):
        sizes = found.change[name]
        kept = np.isfinite(sizes).all(1)
        label = f"{name or '(the model)'}: {number(found.powers[name], sign=True)}"
        style = styles.get(name, dict(color="0.72", linewidth=1.0, zorder=1))
        middle = np.sqrt((sizes[kept] ** 2).mean(1))
        ax.plot(np.array(found.widths)[kept], middle, label=label if name in faults else None, **style)
    ax.set(xlabel="width", ylabel="change of the output", title=found.label)
    log_axis(ax, "x", at=found.widths)
    log_axis(ax)
    label_lines(ax)
    return ax.figure
