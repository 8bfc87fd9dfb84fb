"""The landing page: eight pictures of the paper, a map of what needs what, and the ways through."""

import re

import pytest

from tests.scripts import script
from tp4lib.base import paths

DOCS = paths.checkout() / "docs"


@pytest.fixture(scope="module")
def site():
    """The modules `wall` and `ways`, and the committed notebooks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS))
        collection = script("collection", "docs")
        yield script("wall", "docs"), script("ways", "docs"), collection.load()


def test_eight_large_pictures_with_a_sentence_each_lead_to_their_notebooks(site):
    wall, _, notebooks = site
    cards = wall.parts(notebooks)["pictures"].split(":::{grid-item-card}")[1:]
    assert len(cards) == len(wall.WORDS["pictures"]) == 8
    for place, card in zip(wall.WORDS["pictures"], cards, strict=True):
        assert f":link: notebooks/{place.split('/')[0]}\n" in card
        (claim,) = re.findall(r"^\*\*(.+)\*\*$", card, re.MULTILINE)
        assert claim == wall.WORDS["figures"][place]["claim"], "a sentence of its own, not the caption"
        assert ":columns: 12\n" in card


def test_a_figure_of_many_panels_has_a_row_of_its_own(site):
    wall, _, notebooks = site
    page = wall.parts(notebooks)["wall"]
    wide = [wall.wide(figure) for book in notebooks for figure in book.figures]
    assert page.count(":class-item: wide") == page.count(":columns: 12\n") == sum(wide)
    assert page.count(":class-item: narrow") == len(wide) - sum(wide) > 0


def test_the_map_has_every_notebook_below_what_it_needs(site):
    wall, ways, notebooks = site
    needed = ways.needs(notebooks)
    assert set(needed) == {book.name[:2] for book in notebooks}
    assert needed["01"] == ["00"]
    assert needed["05"] == ["04"]
    rows = ways.levels(needed)
    place = {number: depth for depth, row in enumerate(rows) for number in row}
    assert sorted(place) == sorted(needed)
    assert all(place[before] < place[number] for number in needed for before in needed[number])
    assert max(map(len, rows)) * ways.BOX < ways.WIDTH, "boxes do not overlap on a phone"
    page = ways.write(notebooks, wall.WORDS["ways"])
    for book in notebooks:
        assert page.count(f'<a href="notebooks/{book.name}.html">') == 1
    assert page.count(":::{grid-item-card}") == 3


def test_the_ways_go_forward_and_through_notebooks_that_exist(site):
    wall, _, notebooks = site
    numbers = {book.name[:2] for book in notebooks}
    ways = {way["name"]: way["notebooks"] for way in wall.WORDS["ways"]}
    assert list(ways) == ["A lecture", "Practice", "Theory"]
    assert ways["Practice"] == ["00", "02", "08", "09"]
    assert ways["Theory"] == ["00", "01", "03", "07", "10", "11"]
    for way in ways.values():
        assert way == sorted(way)
        assert numbers.issuperset(way)
