"""Figures inside notebooks: sharp, small, in their true colours, with words for those who do not see them."""

import base64
import io
import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from tp4lib.base.errors import InputError
from tp4lib.collection import plotting, report


@pytest.fixture
def picture(tmp_path, monkeypatch):
    monkeypatch.setenv("TP4_OUT", str(tmp_path))
    with plt.rc_context():
        plotting.use_style()
        fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3))
        left.imshow(np.random.default_rng(0).random((80, 80)), cmap="viridis")  # hundreds of colours
        right.plot([0, 1], [0, 1], color=plotting.PALETTE[1], linewidth=1)  # and one that few pixels have
        made = report.Report("00_test", "ci").show(fig, "two", caption="A < B", alt='A "map" and a line')
    return made, tmp_path / "00_test"


def test_thin_lines_keep_their_colour_beside_a_picture_of_many(picture):
    made, _ = picture
    image = np.array(Image.open(io.BytesIO(made.png)).convert("RGB")).astype(int)
    right = image[:, image.shape[1] * 3 // 5 :]
    want = (np.array(to_rgb(plotting.PALETTE[1])) * 255).round()
    assert np.abs(right - want).max(-1).min() <= 12
    grid = round(0.92 * 255)  # the grid is grey, not tinted
    assert np.abs(right - grid).max(-1).min() <= 3


def test_the_page_shows_it_at_its_size_with_alt_text_and_caption(picture):
    made, folder = picture
    page = made._repr_html_()
    (tag,) = re.findall(r"<img[^>]*>", page)
    assert 'alt="A &quot;map&quot; and a line"' in tag
    data = base64.b64decode(re.search(r"base64,([^\"]*)", tag)[1])
    assert data == made.png
    shown = int(re.search(r'width="(\d+)"', tag)[1])
    assert Image.open(io.BytesIO(data)).width == pytest.approx(1.5 * shown, abs=2)
    assert 560 <= shown <= 700  # 8 inches at 80 pixels, less margins
    assert "A &lt; B" in page
    assert (folder / "two.svg").read_text().startswith("<?xml")
    assert (folder / "two.png").read_bytes().startswith(b"\x89PNG")


def test_numbers_travel_as_data_at_full_precision_beside_the_table(tmp_path, monkeypatch):
    from IPython.core.interactiveshell import InteractiveShell

    monkeypatch.setenv("TP4_OUT", str(tmp_path))
    made = report.Report("00_test", "ci")
    made.metric("slope", 1 / 3, theory=0.5)
    made.metric("accuracy", 2 / 3, published=0.7, unit="%")
    shown, _ = InteractiveShell.instance().display_formatter.format(made.table())
    want = {
        "slope": {"value": 1 / 3, "theory": 0.5},
        "accuracy": {"value": 2 / 3, "published": 0.7, "unit": "%"},
    }
    assert shown[report.MIME] == {"metrics": want}
    assert json.loads(made.save().read_text())["metrics"] == want
    page = shown["text/html"]
    assert "<th>published</th><th>theory</th>" in page
    assert "0.3333" in page
    assert '<td class="number" data-head="theory">0.5</td>' in page
    assert "slope: 0.3333  (published ) (theory 0.5)" in shown["text/plain"]
    with pytest.raises(InputError, match="theory of metric 'slope' is nan"):
        made.metric("slope", 1.0, theory=float("nan"))


def test_a_figure_carries_its_caption_and_alt_text_as_data(picture):
    made, _ = picture
    told = {"figure": {"name": "two", "caption": "A < B", "alt": 'A "map" and a line'}}
    assert made._repr_mimebundle_(include=None, exclude=None) == {report.MIME: told}
