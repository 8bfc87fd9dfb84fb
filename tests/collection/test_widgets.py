"""Sliders: each position draws one figure, and none of it happens in a run without a reader."""

import contextlib
import json
import os
import subprocess
import sys
import time

import matplotlib.pyplot as plt
import nbformat
import pytest

from tp4lib.collection import widgets

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
    monkeypatch.delenv("TP4_ASKED", raising=False)
    monkeypatch.setenv("TP4_OUT", "mine")  # where a class that shares an installation has its results
    assert widgets.live()
    monkeypatch.setenv("TP4_ASKED", "{}")
    assert not widgets.live()


def test_in_a_kernel_the_sliders_come_and_under_the_runner_they_do_not(monkeypatch, tmp_path):
    nbclient = pytest.importorskip("nbclient")
    code = "from tp4lib.collection import widgets\n"
    code += "widgets.explore(lambda width: print('drawn', width), width=[64, 512])"
    monkeypatch.delenv("TP4_ASKED", raising=False)
    monkeypatch.setenv("TP4_OUT", str(tmp_path))
    for asked, mime, words in (
        (None, "application/vnd.jupyter.widget-view+json", "drawn 64"),
        ("{}", None, "In a live session"),
    ):
        if asked:
            monkeypatch.setenv("TP4_ASKED", asked)
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
        done = nbclient.NotebookClient(book, kernel_name="python3", timeout=120).execute()
        outputs = done.cells[0].outputs
        assert any(mime in output.get("data", {}) for output in outputs) == bool(mime)
        # What the sliders draw is part of the widget's state; what is printed without them is plain output.
        assert words in str(done.metadata.get("widgets", "")) + str(outputs)


LIVE = """
import matplotlib.pyplot as plt
from tp4lib.collection import widgets

def draw(width):
    plt.figure(figsize=(3, 2))
    plt.plot(range(width))

widgets.explore(draw, width=[4, 8, 16])
"""


@contextlib.contextmanager
def jupyter_lab(folder):
    """JupyterLab on a free port of this machine, without a password, with settings of its own: its address."""
    places = {f"JUPYTER_{what}_DIR": str(folder / what.lower()) for what in ("RUNTIME", "CONFIG", "DATA")}
    line = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0"),
        *("--IdentityProvider.token=", f"--ServerApp.root_dir={folder}", "--LabApp.news_url="),
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    environment = {k: v for k, v in os.environ.items() if k not in ("TP4_OUT", "MPLBACKEND")} | places
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(line, env=environment, stdout=log, stderr=log) as server,
    ):
        try:
            files = wait(lambda: [json.loads(p.read_text()) for p in folder.glob("runtime/jpserver-*.json")])
            yield files[0]["url"]
        finally:
            server.terminate()


def wait(found, seconds: float = 120):
    """What ``found()`` returns, once it is something; the page may change under its hands."""
    from selenium.common.exceptions import WebDriverException

    until = time.monotonic() + seconds
    while True:
        with contextlib.suppress(WebDriverException, ValueError):  # ValueError: a file half-written
            if result := found():
                return result
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.2)


def test_a_reader_moves_a_slider_in_jupyter_lab(browser, tmp_path):
    pytest.importorskip("jupyterlab")
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    from tests import browsing

    cells = [nbformat.v4.new_code_cell(LIVE)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(
        nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), tmp_path / "live.ipynb"
    )

    def seen(selector):
        return [
            element for element in browser.find_elements("css selector", selector) if element.is_displayed()
        ]

    def pictures():
        return [image.get_attribute("src") for image in seen(".jp-OutputArea img")]

    def run():
        """Shift-Enter in the first cell, where it has not run: Jupyter forgets it until the kernel is connected."""
        cell = seen(".jp-CodeCell .cm-content")
        if cell and not seen(".jp-OutputArea-output"):
            cell[0].click()
            ActionChains(browser).key_down(Keys.SHIFT).send_keys(Keys.ENTER).key_up(Keys.SHIFT).perform()
            with contextlib.suppress(AssertionError):
                wait(lambda: seen(".jp-OutputArea-output"), seconds=10)

    def move(first):
        """An arrow key on the slider, once: what is drawn at its second place."""
        at = seen(".widget-readout")[0].text
        if at == "4":
            seen(".noUi-handle")[0].send_keys(Keys.ARROW_RIGHT)
        return pictures() if at == "8" and pictures() != first else None

    with jupyter_lab(tmp_path) as address:
        browsing.resize(browser, "desktop")
        browser.get(f"{address}lab/tree/live.ipynb?reset")
        try:
            wait(lambda: run() or seen(".noUi-handle"))
            first = wait(pictures)
            second = wait(lambda: move(first))
            assert len(first) == len(second) == 1
        finally:
            browser.get("about:blank")
