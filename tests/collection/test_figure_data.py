"""What a figure shows can be read back from its table."""

import csv
import io
import json

import matplotlib.pyplot as plt
import numpy as np
import pytest

from tp4lib.collection import gallery, plotting, report
from tp4lib.collection.figure_data import as_csv


def table(fig) -> dict[str, list[str]]:
    """Columns by heading, without the empty cells at their ends."""
    head, *rows = csv.reader(io.StringIO(as_csv(fig)))
    assert len(set(head)) == len(head)
    columns = {name: [row[place] for row in rows] for place, name in enumerate(head)}
    for column in columns.values():
        while column and column[-1] == "":
            column.pop()
    return columns


@pytest.fixture
def ax():
    fig, ax = plt.subplots()
    ax.set(xlabel="width n", ylabel="loss,\nmean")
    yield ax
    plt.close(fig)


def numbers(column):
    return [float(value) for value in column]


def test_lines_by_their_labels_with_all_digits(ax):
    third = 1 / 3
    ax.plot([64, 128], [third, np.nan], label="muP")
    ax.plot([1], [np.float32(0.1)])
    ax.axhline(0.5, label="published")
    ax.set(xscale="log")
    assert table(ax.figure) == {
        "muP: width n": ["64", "128"], "muP: loss, mean": ["0.3333333333333333"],
        "line 2: width n": ["1"], "line 2: loss, mean": ["0.1"], "published: loss, mean": ["0.5", "0.5"],
    }  # fmt: skip


def test_points_bands_bars_and_steps(ax):
    ax.scatter([1, 2], [3, 4], c=[0.25, 0.75], label="cities")
    plotting.band(ax, [1, 2], np.array([[1.0, 2.0], [3.0, 4.0]]), label="mean")
    ax.errorbar([1, 2], [5, 6], yerr=[1, 2], label="seeds")
    ax.hist([0, 0, 1], bins=2, label="counts")
    found = table(ax.figure)
    assert [found[f"cities: {axis}"] for axis in ("width n", "loss, mean", "value")] == [
        ["1", "2"], ["3", "4"], ["0.25", "0.75"],
    ]  # fmt: skip
    assert numbers(found["mean: loss, mean"]) == [2, 3]
    (edge,) = [name for name in found if name.startswith("collection") and name.endswith("mean")]
    assert {1.0, 2.0, 3.0, 4.0} == set(numbers(found[edge])), "the band's edges: one standard deviation of 1"
    assert numbers(found["seeds: loss, mean"]) == [5, 6]
    assert numbers(found["seeds (error bars): loss, mean"]) == [4, 6, 4, 8]
    assert numbers(found["counts: height"]) == [2, 1]
    assert numbers(found["counts: width n, left end"]) == [0, 0.5]


@pytest.mark.parametrize("origin", ["upper", "lower"])
def test_pictures_and_meshes(ax, origin):
    """A pixel's place is where it is seen; a colour bar is no data."""
    shown = ax.imshow([[1, 2], [3, 4]], origin=origin, extent=(0, 2, 0, 2))
    ax.figure.colorbar(shown)
    found = table(ax.figure)
    assert set(found) == {"picture 1: width n", "picture 1: loss, mean", "picture 1: value"}
    place = {value: float(y) for value, y in zip(found["picture 1: value"], found["picture 1: loss, mean"])}
    assert place == ({"1": 1.5, "2": 1.5, "3": 0.5, "4": 0.5} if origin == "upper" else
                     {"1": 0.5, "2": 0.5, "3": 1.5, "4": 1.5})  # fmt: skip
    ax.clear()
    ax.pcolormesh([0, 2, 4], [0, 1], [[7, 8]])
    assert list(table(ax.figure).values()) == [["1", "3"], ["0.5", "0.5"], ["7", "8"]]
    ax.clear()
    ax.imshow(np.full((1, 2, 3), 0.5))
    assert table(ax.figure)["picture 1: blue"] == ["0.5", "0.5"]


def test_panels_are_told_apart_and_three_axes_are_three_columns():
    fig = plt.figure()
    left, right = fig.add_subplot(1, 2, 1), fig.add_subplot(1, 2, 2, projection="3d")
    left.set_title("SP")
    left.plot([1], [2])
    right.plot([1], [2], [3], label="path")
    right.scatter([4], [5], [6])
    found = table(fig)
    plt.close(fig)
    assert found["SP / line 1: y"] == ["2"]
    assert [found[f"panel 2 / path: {axis}"] for axis in "xyz"] == [["1"], ["2"], ["3"]]
    assert [found[f"panel 2 / collection 1: {axis}"] for axis in "xyz"] == [["4"], ["5"], ["6"]]


def page_of(figure):
    """The page of a run of one notebook with this figure."""
    report = {"preset": "ci", "seed": 0, "data": [], "metrics": {}, "figures": [figure]}
    run = {"ok": True, "seconds": 1.0}
    rest = {"unfinished": {}, "mixed": {}, "preset": "ci", "environment": {"command": "tp4"}}
    return gallery.index_page({"notebooks": {"00_test": report}, "runs": {"00_test": run}, **rest})


def test_a_report_leaves_four_files_of_a_figure_and_the_page_leads_to_them(tmp_path, monkeypatch):
    monkeypatch.setenv("TP4_OUT", str(tmp_path))
    contents = []
    for _ in range(2):
        made = report.Report("00_test", "ci")
        with plt.rc_context():
            plotting.use_style()
            fig, ax = plt.subplots()
            ax.plot([1, 2], [3, 4], label="ours")
            made.show(fig, "one", caption="A line", alt="A line that rises")
        files = {path.name: path.read_bytes() for path in (tmp_path / "00_test").glob("one.*")}
        contents.append(files)
    assert sorted(contents[0]) == ["one.csv", "one.pdf", "one.png", "one.svg"]
    assert contents[0] == contents[1], "the same figure is the same bytes"
    assert contents[0]["one.csv"].decode().splitlines() == ["ours: x,ours: y", "1,3", "2,4"]
    (figure,) = json.loads(made.save().read_text())["figures"]
    page = page_of(figure)
    assert all(f'href="00_test/one.{kind}"' in page for kind in ("png", "pdf", "csv"))
    assert "one.csv" not in page_of({**figure, "files": []}), "results of an earlier version"
