"""The look of figures: readable words, styles told apart without colour, labels that keep clear of each other."""

import doctest
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from tp4lib.collection import plotting


@pytest.fixture(autouse=True)
def figure():
    with plt.rc_context():
        plotting.use_style()
        fig, ax = plt.subplots(figsize=(7, 4))
        yield fig, ax
        plt.close("all")


def contrast(colour):
    """WCAG 2 contrast of a colour with white."""
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 1.05 / (0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2] + 0.05)


@pytest.mark.parametrize("colour", plotting.PALETTE)
def test_words_can_be_read_in_every_colour_of_the_palette(colour):
    assert contrast(plotting.ink(colour)) >= 4.5
    if contrast(colour) >= 4.6:
        assert plotting.ink(colour) == colour.lower()


def test_styles_differ_without_colour():
    styles = plotting.style_for([*range(7), math.inf])
    looks = {(str(style["marker"]), str(style["linestyle"])) for style in styles.values()}
    assert len(looks) == 8


def test_number_has_a_true_minus_and_no_negative_zero():
    assert plotting.number(-0.0049) == "0.00"
    assert plotting.number(-1, 0) == "−1"
    assert plotting.number(0.126, 1, sign=True) == "+0.1"
    assert plotting.number(-0.2, sign=True) == "−0.20"


def boxes(fig, texts):
    fig.canvas.draw()
    return [text.get_window_extent() for text in texts if text.get_text()]


def test_labels_of_lines_that_end_together_do_not_overlap(figure):
    fig, ax = figure
    for k, (key, style) in enumerate(plotting.style_for(range(6)).items()):
        ax.plot([0, 1, 2], [3, 2, 1 + 0.001 * k], label=f"line {key}", **style)
    ax.plot([0, 0.4], [3, 1], label="ends early")
    plotting.label_lines(ax)
    found = boxes(fig, ax.texts)
    assert len(found) == 7
    for i, one in enumerate(found):
        assert not any(one.overlaps(other) for other in found[:i])
    # The early line is labelled at its end; rules stay outside, where they are no data.
    early = next(text for text in ax.texts if text.get_text() == "ends early").get_window_extent()
    end = ax.transData.transform((0.4, 1))
    assert early.x0 == pytest.approx(end[0], abs=20)
    assert early.y0 < end[1] < early.y1
    rules = [text.arrow_patch.get_window_extent() for text in ax.texts if not text.get_text()]
    assert rules
    assert all(rule.x0 > ax.get_window_extent().x1 for rule in rules)


def test_level_lines_are_labelled_too(figure):
    _, ax = figure
    ax.plot([64, 512], [0.5, 0.1], label="measured")
    ax.axhline(0.3, label="limit")
    plotting.log_axis(ax, "x", at=[64, 512])
    plotting.label_lines(ax)
    assert {text.get_text() for text in ax.texts} >= {"measured", "limit"}


@pytest.mark.parametrize("span", [(0.2, 0.5), (0.01, 0.5), (1e-6, 10)])
def test_log_axes_have_a_few_plain_numerals(figure, span):
    fig, ax = figure
    ax.plot([64, 4096], span)
    plotting.log_axis(ax, "x", at=[64, 512, 4096])
    plotting.log_axis(ax)
    fig.canvas.draw()
    low, high = ax.get_ylim()
    shown = [float(tick.get_text()) for tick in ax.get_yticklabels() if low <= tick.get_position()[1] <= high]
    assert 3 <= len(shown) <= 12
    assert all(low <= value <= high for value in shown)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["64", "512", "4096"]


def test_labels_of_points_keep_off_each_other_and_inside(figure):
    fig, ax = figure
    rng = np.random.default_rng(0)
    crowd = rng.normal(size=(40, 2))
    ax.plot(*crowd.T, "o")
    words = [f"place{k}" for k in range(8)]
    plotting.label_points(ax, crowd[:8], words, [plotting.PALETTE[0]] * 8, others=crowd)
    found = boxes(fig, ax.texts)
    clashes = sum(one.overlaps(other) for i, one in enumerate(found) for other in found[:i])
    assert clashes == 0
    frame = ax.get_window_extent()
    assert all(frame.x0 - 5 < box.x0 and box.x1 < frame.x1 + 5 for box in found)


def test_a_published_line_can_be_labelled_at_either_end(figure):
    fig, ax = figure
    ax.plot([0, 1], [0, 1])
    plotting.published_line(ax, 0.5, "right, above")
    plotting.published_line(ax, 0.5, "left, below", end="left", side="below")
    right, left = boxes(fig, ax.texts)
    middle = ax.transData.transform((0.5, 0.5))
    assert right.x0 > middle[0] > left.x1
    assert right.y0 > middle[1] > left.y1


def test_examples():
    assert doctest.testmod(plotting, extraglobs={"math": math, **vars(plotting)}).failed == 0
