"""The numbers that a figure shows, read back from its axes: lines, points, bars, bands, images.

Needs numpy alone: what an artist of matplotlib is, is told by what it can do.
"""

import csv
import io
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import numpy as np

Column = tuple[str, np.ndarray]


def as_csv(fig: Any) -> str:
    """A table of a figure's data, one or more columns for each thing drawn, under "panel / series: axis label".

    Columns end where their data end. What is drawn without a label is called by its kind and place, such as "line 2".
    Numbers are those given to matplotlib, on whatever scale its axes have; a place relative to the axes, such as the
    ends of ``axhline``, is left out. Not told: words, arrows, and surfaces in three dimensions.
    """
    panels = [(ax, list(_drawn(ax))) for ax in fig.axes if ax.get_label() != "<colorbar>"]
    shown = [(ax, series) for ax, series in panels if series]
    columns: list[Column] = []
    for number, (ax, series) in enumerate(shown, 1):
        title = ax.get_title("left") or ax.get_title() or f"panel {number}"
        head = f"{title} / " if len(shown) > 1 else ""
        for name, parts in series:
            columns += [
                (f"{head}{name}: {label}".replace("\n", " "), np.ravel(values)) for label, values in parts
            ]
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(head for head, _ in columns)
    rows.writerows(zip_longest(*(map(_number, values) for _, values in columns), fillvalue=""))
    return table.getvalue()


def _drawn(ax: Any) -> Iterator[tuple[str, list[Column]]]:
    """Name and columns of everything that is drawn in these axes."""
    x, y = ax.get_xlabel() or "x", ax.get_ylabel() or "y"
    z = (ax.get_zlabel() or "z") if ax.name == "3d" else "value"
    bars = [each for each in ax.containers if hasattr(each, "orientation")]
    # Points with error bars are several artists, whose label only their container has.
    of_container = {id(part): _name(each) for each in ax.containers for part in each.get_children()}
    for number, line in enumerate(ax.lines, 1):
        name = _name(line) or of_container.get(id(line)) or f"line {number}"
        if ax.name == "3d":
            yield name, list(zip((x, y, z), line.get_data_3d()))
            continue
        in_data = line.get_transform().contains_branch_seperately(ax.transData)
        parts = [(x, line.get_xdata()), (y, line.get_ydata())]
        if any(in_data):
            yield name, [part for part, told in zip(parts, in_data) if told]
    for number, collection in enumerate(ax.collections, 1):
        if parts := _of_collection(ax, collection, (x, y, z)):
            name = of_container.get(id(collection))
            yield _name(collection) or (f"{name} (error bars)" if name else f"collection {number}"), parts
    for number, container in enumerate(bars, 1):
        edges = np.array([(*bar.get_xy(), bar.get_width(), bar.get_height()) for bar in container.patches])
        told = ((f"{x}, left end", "y, lower end", "width", "height") if container.orientation != "horizontal"
                else ("x, left end", f"{y}, lower end", "width", "height"))  # fmt: skip
        yield _name(container) or _name(container.patches[0]) or f"bars {number}", list(zip(told, edges.T))
    others = [patch for patch in ax.patches if not any(patch in each.patches for each in bars)]
    for number, patch in enumerate(others, 1):
        if patch.get_transform().contains_branch(ax.transData):
            corners = patch.get_patch_transform().transform(patch.get_path().vertices)
            yield _name(patch) or f"shape {number}", list(zip((x, y), corners.T))
    for number, image in enumerate(ax.images, 1):
        yield _name(image) or f"picture {number}", _of_image(image, x, y)


def _of_collection(ax: Any, collection: Any, labels: tuple[str, str, str]) -> list[Column]:
    """Points with their values, if they have any; the middles of a mesh; else the corners of paths and polygons."""
    if ax.name == "3d":
        return list(zip(labels, getattr(collection, "_offsets3d", ())))
    values = collection.get_array()
    if hasattr(collection, "get_coordinates"):
        corners = collection.get_coordinates()
        if values.size == corners[1:, 1:, 0].size:
            corners = (corners[1:, 1:] + corners[:-1, :-1]) / 2
        return list(zip(labels, (corners[..., 0], corners[..., 1], values)))
    if collection.get_offset_transform().contains_branch(ax.transData):
        parts = list(zip(labels, np.ma.filled(collection.get_offsets().astype(float), np.nan).T))
        return [*parts, (labels[2], values)] if values is not None else parts
    if not collection.get_transform().contains_branch(ax.transData):
        return []
    corners = [path.vertices for path in collection.get_paths() if len(path.vertices)]
    return list(zip(labels, np.concatenate(corners).T)) if corners else []


def _of_image(image: Any, x: str, y: str) -> list[Column]:
    """The middle of each pixel and its value, or its colours."""
    pixels = np.ma.filled(np.ma.asarray(image.get_array(), dtype=float), np.nan)
    left, right, low, high = image.get_extent()
    if image.origin == "upper":
        low, high = high, low
    rows, columns = ((np.arange(n) + 0.5) / n for n in pixels.shape[:2])
    across, up = np.meshgrid(left + columns * (right - left), low + rows * (high - low))
    names = ("value",) if pixels.ndim == 2 else ("red", "green", "blue", "alpha")
    return [(x, across), (y, up), *zip(names, pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1))]


def _name(artist: Any) -> str:
    """Its label; empty where matplotlib made one up."""
    label = str(artist.get_label() or "")
    return "" if label.startswith("_") else label


def _number(value: Any) -> Any:
    """With as many digits as tell it from its neighbours in its own precision; empty where there is none."""
    text = str(value)
    return "" if text in ("nan", "--") else text.removesuffix(".0")
