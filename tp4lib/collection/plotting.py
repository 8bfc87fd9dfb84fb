"""One look for every figure: colour-blind-safe, told apart without colour too, labelled where the line ends."""

import tomllib
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.style
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import offset_copy

from tp4lib.base import paths
from tp4lib.base.errors import InputError

# Okabe & Ito (2008): told apart with any colour vision; black last, for the reference (width infinity).
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7F7F7F", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = (
    "-", (0, (5, 1.5)), (0, (1, 1)), (0, (3, 1, 1, 1)),
    (0, (7, 2, 2, 2)), (0, (2, 2)), (0, (4, 1, 1, 1, 1, 1)), "-",
)  # fmt: skip
# One colour a concept, the same in every figure; black is width infinity. Names may go on: "muP, Adam" is muP's.
CONCEPTS = {
    "muP": 0, "NTP": 1, "NTK": 1, "MFP": 2, "GP": 3, "NNGP": 3, "π": 4, "SP": 5, "inf": 7,
}  # fmt: skip
WIDTHS = mpl.colormaps["viridis_r"]
"""Widths are ordered, and so are their colours: light and narrow to dark and wide, by log2 n, from 2^4 to 2^14."""
PUBLISHED = dict(color="0.35", linestyle=(0, (6, 3)), linewidth=1.0, zorder=1)


def use_style() -> None:
    """Set the style of all later figures: seaborn's "ticks" theme, and on it ``figures.mplstyle``."""
    sns.set_theme(context="notebook", style="ticks", palette=list(PALETTE))
    mpl.style.use("tp4lib.collection.figures")


def style_for(keys: Iterable[Hashable]) -> dict[Hashable, dict[str, Any]]:
    """A colour, marker and line style for each key, in order; infinity is always black and solid.

    A key of `CONCEPTS`, also with words after it, has that concept's colour. Whole numbers from 8 are widths and get
    colours of `WIDTHS`. Other keys take what is left of the palette.

    >>> style_for([64, math.inf])[math.inf]["color"]
    '#000000'
    >>> style_for(["GP"])["GP"]["marker"] == style_for(["muP", "GP"])["GP"]["marker"]
    True
    >>> style_for(["SP", "muP"])["muP"]["color"], style_for(["muP, Adam"])["muP, Adam"]["color"]
    ('#0072B2', '#0072B2')
    """
    keys = list(keys)
    words = {key: str(key).replace("-", " ").split(",")[0].split(" ")[0] for key in keys}
    named = {key: CONCEPTS[word] for key, word in words.items() if word in CONCEPTS}
    free = [index for index in range(len(PALETTE) - 1) if index not in named.values()] or [0]
    others = [key for key in keys if key not in named]
    widths = bool(others) and all(isinstance(key, int) and key >= 8 for key in others)
    styles, place = {}, 0
    for position, key in enumerate(keys):
        index = named.get(key, free[place % len(free)])
        place += key not in named
        # Two keys of one concept differ in marker and line.
        shape = position % 7 if list(named.values()).count(index) > 1 or (widths and index != 7) else index
        colour = width_colour(key) if widths and key not in named else PALETTE[index]
        styles[key] = dict(color=colour, marker=MARKERS[shape], linestyle=LINES[shape])
    return styles


def width_colour(n: int) -> str:
    """The colour of width ``n``, by log2 n: light where narrow, dark where wide.

    >>> width_colour(2**14) == width_colour(2**15), width_colour(64) == width_colour(128)
    (True, False)
    """
    place = (np.log2(max(n, 1)) - 4) / 10
    return to_hex(WIDTHS(0.12 + 0.88 * float(np.clip(place, 0, 1))))


def ink(colour: Any) -> str:
    """The colour darkened until words in it can be read on white (WCAG contrast of 4.5 or more).

    >>> ink("#000000"), ink("#E69F00")
    ('#000000', '#9d6c00')
    """
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    brightness = float(linear @ (0.2126, 0.7152, 0.0722))
    darker = linear * min(1.0, (1.05 / 4.6 - 0.05) / max(brightness, 1e-9))
    return to_hex(np.where(darker <= 0.0031308, 12.92 * darker, 1.055 * darker ** (1 / 2.4) - 0.055))


def number(value: float, digits: int = 2, sign: bool = False) -> str:
    """A number as a label shows it: rounded, with a true minus, and never "-0".

    >>> number(-0.506), number(0.004, sign=True), number(-0.001)
    ('−0.51', '0.00', '0.00')
    """
    rounded = round(float(value), digits) + 0.0
    return f"{rounded:{'+' if sign and rounded else ''}.{digits}f}".replace("-", "−")


def log_axis(ax: Axes, axis: str = "y", at: Sequence[float] | None = None) -> None:
    """Make an axis logarithmic, with plain numerals: at the values ``at``, or at 1, 2, 5 (1 alone over many decades).

    Call it after the data are drawn and the limits set: how dense the ticks are depends on both.
    """
    ax.set(**{f"{axis}scale": "log"})
    low, high = sorted(ax.get_ylim() if axis == "y" else ax.get_xlim())
    span = np.log10(high / low)
    ticks = ax.yaxis if axis == "y" else ax.xaxis
    if at is not None:
        ticks.set_major_locator(FixedLocator(list(at)))
    else:
        subs = (1,) if span > 3 else (1, 2, 5) if span > 0.8 else (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)
        ticks.set_major_locator(LogLocator(subs=subs, numticks=20))
    ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ticks.set_minor_locator(NullLocator())


def published_line(
    ax: Axes, value: float, label: str, axis: str = "y", end: str = "right", side: str = "above"
) -> Line2D:
    """Draw a published value as a thin dashed line, labelled at its end inside the axes.

    Args:
        end: for a level line, the end that the label stands at, "right" or "left": where no data are.
        side: for a level line, whether the label stands "above" or "below" it.
    """
    words = dict(fontsize="x-small", color=PUBLISHED["color"], path_effects=[halo()], zorder=5)
    if axis == "y":
        line, right, above = ax.axhline(value, **PUBLISHED), end == "right", side == "above"
        ax.annotate(label, (int(right), value), xycoords=("axes fraction", "data"),
                    xytext=(-2 if right else 4, 2 if above else -2), textcoords="offset points",
                    ha="right" if right else "left", va="bottom" if above else "top", **words)  # fmt: skip
    else:
        line = ax.axvline(value, **PUBLISHED)
        ax.annotate(label, (value, 1), xycoords=("data", "axes fraction"), xytext=(2, -2), textcoords="offset points",
                    ha="left", va="top", rotation=90, **words)  # fmt: skip
    return line


def halo(width: float = 2.5) -> withStroke:
    """A white rim for words that cross lines; an entry of ``path_effects``."""
    return withStroke(linewidth=width, foreground="white")


def band(ax: Axes, x: Any, ys: Any, axis: int = 0, label: str | None = None, **style: Any) -> Line2D:
    """Plot the mean of ``ys`` over ``axis`` (the seeds) against ``x``, in a band of one standard deviation."""
    ys = np.asarray(ys, dtype=float)
    mean, spread = ys.mean(axis), ys.std(axis)
    (line,) = ax.plot(x, mean, label=label, **style)
    if ys.shape[axis] > 1:
        ax.fill_between(x, mean - spread, mean + spread, color=line.get_color(), alpha=0.18, linewidth=0)
    return line


def label_lines(ax: Axes, gap: float = 11.0) -> None:
    """Write each labelled line's label right of the axes at the height of its end, ``gap`` points apart; no legend.

    Nothing is drawn inside the axes that could be taken for data: a label that had to move up or down is tied to the
    height of its line by a thin grey rule outside of them, and a line that ends early is labelled at its end.
    """
    ax.figure.canvas.draw()  # fixes the transforms that the placement needs
    box, points = ax.get_window_extent(), 72 / ax.figure.dpi
    ends = []
    for line in ax.get_lines():
        label = line.get_label()
        xs, ys = (np.asarray(data, float) for data in line.get_data())
        shown = np.isfinite(xs) & np.isfinite(ys)
        if label and not label.startswith("_") and shown.any():
            end = (xs[shown][-1], ys[shown][-1])
            pixel = line.get_transform().transform(end)
            left = (box.x1 - pixel[0]) * points
            if left > 30:
                ax.annotate(label, end, (6, 0), xycoords=line.get_transform(), textcoords="offset points",
                            va="center", fontsize="small", color=ink(line.get_color()), path_effects=[halo()],
                            zorder=6, annotation_clip=False)  # fmt: skip
            else:
                ends.append(((pixel[1] - box.y0) * points, line))
    ends.sort(key=lambda end: end[0])
    lowest, highest = 5.0, box.height * points
    heights = [min(max(height, lowest), highest) for height, _ in ends]
    for index in range(1, len(heights)):
        heights[index] = max(heights[index], heights[index - 1] + gap)
    if heights and heights[-1] > highest:  # the column sticks out at the top: push it down
        heights[-1] = highest
        for index in range(len(heights) - 2, -1, -1):
            heights[index] = min(heights[index], heights[index + 1] - gap)
    moved = [abs(height - own) > 0.45 * gap for height, (own, _) in zip(heights, ends)]
    indent = 16 if any(moved) else 6  # the rules need room
    for height, (own, line), far in zip(heights, ends, moved, strict=True):
        place = offset_copy(ax.transAxes, ax.figure, x=indent, y=height, units="points")
        ax.annotate(
            line.get_label(), (1, 0), xytext=(1, 0), textcoords=place, va="center", fontsize="small",
            color=ink(line.get_color()), annotation_clip=False,
        )  # fmt: skip
        if far:
            start = offset_copy(ax.transAxes, ax.figure, x=2, y=own, units="points")
            stop = offset_copy(ax.transAxes, ax.figure, x=indent - 2, y=height, units="points")
            ax.annotate("", (1, 0), (1, 0), xycoords=stop, textcoords=start, annotation_clip=False,
                        arrowprops=dict(arrowstyle="-", color="0.6", linewidth=0.7, shrinkA=0, shrinkB=0))  # fmt: skip


def label_points(
    ax: Axes, points: Any, labels: Sequence[str], colours: Sequence[Any], others: Any = ()
) -> None:
    """Write a label beside each point, at the side where it covers fewest points and labels.

    Args:
        points: (k, 2), in data coordinates, to be labelled.
        others: (m, 2), more points that labels should not cover.
    """
    ax.figure.canvas.draw()
    scale = 72 / ax.figure.dpi
    spots = ax.transData.transform(np.asarray(points, float)) * scale
    crowd = [*spots, *(ax.transData.transform(np.asarray(others, float)) * scale if len(others) else ())]
    box, taken = ax.get_window_extent(), []
    for (x, y), label, colour in zip(spots, labels, colours, strict=True):
        width, height = 5.2 * len(label), 9.0  # of x-small words, about
        best = None
        for dx, dy in ((5, 0), (-5 - width, 0), (-width / 2, 8), (-width / 2, -8), (4, 7), (4, -7),
                       (-4 - width, 7), (-4 - width, -7)):  # fmt: skip
            left, low = x + dx, y + dy - height / 2
            right, high = left + width, low + height
            covers = sum(left - 3 < p < right + 3 and low - 3 < q < high + 3 for p, q in crowd)
            clash = sum(
                left < room[2] and right > room[0] and low < room[3] and high > room[1] for room in taken
            )
            outside = left < box.x0 * scale or right > box.x1 * scale
            cost = (covers + 3 * clash + 2 * outside, abs(dy))
            if best is None or cost < best[0]:
                best = (cost, dx, dy, (left, low, right, high))
        _, dx, dy, room = best
        taken.append(room)
        ax.annotate(label, ax.transData.inverted().transform((x / scale, y / scale)), (dx, dy),
                    textcoords="offset points", va="center", fontsize="x-small", color=ink(colour),
                    path_effects=[halo(2)], zorder=6)  # fmt: skip


class Captions:
    """The captions and alt texts of a notebook's figures, from ``notebooks/captions/NAME.toml``: prose, not code.

    Called with a figure's name and the numbers that its words mention, it gives the last three arguments of
    `Report.show`: name, caption and alt text.
    """

    def __init__(self, notebook: str) -> None:
        path = paths.shared(f"notebooks/captions/{notebook}.toml")
        if not path.is_file():
            raise InputError(f"no captions of {notebook!r}; expected the file {path}; write it")
        self.words = tomllib.loads(path.read_text("utf-8"))

    def __call__(self, figure: str, **numbers: Any) -> tuple[str, str, str]:
        if figure not in self.words:
            raise InputError(f"no caption of {figure!r}; expected one of {', '.join(self.words)}; add it")
        words = self.words[figure]
        return figure, *(" ".join(words[key].format(**numbers).split()) for key in ("caption", "alt"))
