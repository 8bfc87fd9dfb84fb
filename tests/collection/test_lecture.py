"""The lecture: its minutes add up, its slides are those of the code, and what it hands out can be made."""

import re
import shlex
import xml.etree.ElementTree as ET

import pytest

from tests.scripts import script
from tp4lib.base import paths
from tp4lib.collection import cli, teach

DOCS = paths.checkout() / "docs"
PAGE = (DOCS / "lecture.md").read_text("utf-8")
SLIDES = DOCS / "_static" / "lecture"
lecture = script("lecture", "docs")


def test_the_plan_takes_45_minutes():
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (\d|–) \|", PAGE, re.MULTILINE)
    clock = 0
    for start, minutes, _ in rows:
        assert int(start) == clock
        clock += int(minutes)
    assert clock == 45
    assert [slide for *_, slide in rows if slide != "–"] == [str(number) for number in range(1, 9)]
    assert re.findall(r"^### (\d+) · ", PAGE, re.MULTILINE) == [start for start, *_ in rows]


def test_slides_are_those_of_the_code_at_16_to_9_and_small():
    assert sorted(path.stem for path in SLIDES.glob("*.svg")) == list(lecture.ALL)
    for name in lecture.ALL:
        path = SLIDES / f"{name}.svg"
        page = path.read_text("utf-8")
        assert f"<dc:description>{lecture.digest()}</dc:description>" in page, "run `python docs/lecture.py`"
        _, _, width, height = map(float, ET.fromstring(page).attrib["viewBox"].split())
        assert width / height == pytest.approx(16 / 9)
        assert len(page) < 120_000
        assert page.count("<text") == 0, "letters are outlines: they look the same on every machine"
        assert f"(_static/lecture/{path.name})" in PAGE


def test_a_slide_is_drawn_again(tmp_path):
    lecture.draw(tmp_path, ["2-exponents", "4-dichotomy"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2-exponents.svg", "4-dichotomy.svg"]


def test_the_slides_turn_by_keyboard_and_finger(browser):
    page = (SLIDES / "slides.html").read_text("utf-8")
    assert re.findall(r'<img src="([^"]+)\.svg" alt="[^"]{20,}"', page) == list(lecture.ALL)
    browser.get((SLIDES / "slides.html").as_uri())

    def now():
        return browser.execute_script("return document.querySelector('img.now').src").rpartition("/")[2]

    def key(name):
        browser.execute_script(f"dispatchEvent(new KeyboardEvent('keydown', {{key: '{name}'}}))")

    assert now() == "1-question.svg"
    key("ArrowRight")
    key(" ")
    assert now() == "3-step.svg"
    key("ArrowLeft")
    assert now() == "2-exponents.svg"
    browser.execute_script("dispatchEvent(new MouseEvent('click', {clientX: innerWidth - 5}))")
    assert now() == "3-step.svg"
    for _ in range(9):
        key("PageDown")
    assert now() == "8-rules.svg"
    browser.get((SLIDES / "slides.html").as_uri() + "#4")
    assert now() == "4-dichotomy.svg"


def test_what_is_handed_out_can_be_made(tmp_path, monkeypatch):
    (line,) = re.findall(r"^tp4 (teach .*)$", PAGE, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        cli.main(shlex.split(line))
    assert end.value.code == 0
    made = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.ipynb"))
    assert len(made) == 6
    assert sum(name.startswith(f"handout/{teach.FOLDER}/") for name in made) == 3
    for number in ("00", "01", "03"):
        assert any(name.startswith(f"handout/{number}_") for name in made)
