"""Sliders: each position draws one figure, and none of it happens in a run without a reader."""

import matplotlib.pyplot as plt
import nbformat
import pytest

from tp4lib import widgets

ipywidgets = pytest.importorskip("ipywidgets")


@pytest.fixture
def seen(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: None)
    return []


def test_a_slider_draws_at_once_and_anew_when_it_moves(seen):
    def draw(azimuth=-122, elevation=7):
        plt.figure()
        seen.append((azimuth, elevation))

    shown = widgets.sliders(draw, azimuth=(-180, 180, 4), elevation=(-20, 90, 2))
    azimuth, elevation = shown.children[:2]
    assert isinstance(azimuth, ipywidgets.IntSlider)
    assert (azimuth.min, azimuth.max, azimuth.step, azimuth.value) == (-180, 180, 4, -122)
    azimuth.value = 40
    elevation.value = 30
    assert seen == [(-122, 7), (40, 7), (40, 30)]
    assert not plt.get_fignums()  # figures do not pile up


def test_numbers_slide_names_drop_down_fractions_are_kept(seen):
    def draw(width, x="s", s=1.0):
        seen.append((width, x, s))

    shown = widgets.sliders(draw, width=[64, 128, 512], x=["s", "u"], s=(0, 2, 0.125))
    width, x, s = shown.children[:3]
    assert isinstance(width, ipywidgets.SelectionSlider)
    assert isinstance(x, ipywidgets.Dropdown)
    assert isinstance(s, ipywidgets.FloatSlider)
    width.value, x.value, s.value = 512, "u", 0.5
    assert seen[-1] == (512, "u", 0.5)


def test_without_a_reader_one_line_and_no_drawing(capsys, monkeypatch):
    def draw(width):
        raise AssertionError("nobody is there to see it")

    assert not widgets.live()  # pytest is no kernel
    widgets.explore(draw, width=[64, 512])
    said = capsys.readouterr().out
    assert "sliders for width" in said
    assert len(said.splitlines()) == 1


def test_live_means_a_kernel_that_no_runner_started(monkeypatch):
    import IPython

    class Shell:
        kernel = object()

    monkeypatch.setattr(IPython, "get_ipython", Shell)
    monkeypatch.delenv("TP4_OUT", raising=False)
    assert widgets.live()
    monkeypatch.setenv("TP4_OUT", "runs/ci")
    assert not widgets.live()


def test_in_a_kernel_the_sliders_come_and_under_the_runner_they_do_not(monkeypatch, tmp_path):
    nbclient = pytest.importorskip("nbclient")
    code = "from tp4lib import widgets\nwidgets.explore(lambda width: print('drawn', width), width=[64, 512])"
    monkeypatch.delenv("TP4_OUT", raising=False)
    for out, mime, words in (
        (None, "application/vnd.jupyter.widget-view+json", "drawn 64"),
        (str(tmp_path), None, "In a live session"),
    ):
        if out:
            monkeypatch.setenv("TP4_OUT", out)
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
        done = nbclient.NotebookClient(book, kernel_name="python3", timeout=120).execute()
        outputs = done.cells[0].outputs
        assert any(mime in output.get("data", {}) for output in outputs) == bool(mime)
        # What the sliders draw is part of the widget's state; what is printed without them is plain output.
        assert words in str(done.metadata.get("widgets", "")) + str(outputs)
