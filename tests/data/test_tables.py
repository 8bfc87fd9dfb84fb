"""The two tables that ship: complete, consistent, and what the notebooks read from them."""

import csv

import pytest

from tp4lib.base import paths
from tp4lib.data import published as paper


@pytest.fixture(scope="module")
def places():
    with open(paths.shared("data/us_places.csv"), newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_published_values_of_table_3():
    for width, value in {"64": 33.35, "256": 41.58, "1024": 42.56, "inf": 43.31}.items():
        assert paper.published("table3", task="text8", model="muP", width=width) == value
    assert paper.published("table3", task="text8", model="GP") == 0
    assert paper.published("table3", task="text8", model="NTK") == 0
    assert paper.published("table3", task="fil9", model="muP", width="inf") == 56.45


def test_published_values_of_table_2():
    for width, value in {"2": 55.34, "8192": 66.41, "inf": 66.42}.items():
        assert paper.published("table2", model="muP", width=width) == value
    (row,) = [row for row in paper.rows("table2") if row["model"] == "muP" and row["width"] == "inf"]
    assert row["std"] == "0.19"
    assert paper.published("table2", model="NTK relu") == 47.82
    assert paper.published("table2", model="GP relu") == 47.60
    assert paper.published("table2", model="GP/NTK linear") == 41.68


@pytest.mark.parametrize("table", ["table2", "table3", "pilimit"])
def test_published_rows_are_well_formed(table):
    seen = set()
    for row in paper.rows(table):
        key = (row["task"], row["model"], row["width"])
        assert key not in seen
        seen.add(key)
        assert row["width"] == "inf" or int(row["width"]) > 0
        assert 0 <= float(row["value"]) <= 100
        assert row["source"].startswith(("TP4 Table", "Yang, Santacroce & Hu 2022, Table"))
        # A value with fewer digits than its neighbours says so.
        assert ("about" in row["source"]) == (len(row["value"].partition(".")[2]) == 1)


def test_wider_is_better_in_every_published_series():
    for table in ("table2", "table3", "pilimit"):
        series = {}
        for row in paper.rows(table):
            if row["model"] == "muP":
                series.setdefault(row["task"], []).append((float(row["width"]), float(row["value"])))
        for points in series.values():
            values = [value for _, value in sorted(points)]
            assert values == sorted(values)


def test_places_are_single_words_of_the_text8_alphabet(places):
    for place in places:
        assert place["word"].isascii()
        assert place["word"].isalpha()
        assert place["word"].islower()
        assert place["source"]
    words = [place["word"] for place in places]
    assert len(set(words)) == len(words)
    assert "washington" not in words  # both a city and a state


def test_states_are_all_those_with_one_word_names(places):
    states = [place for place in places if place["kind"] == "state"]
    # Eleven of the fifty have two words (New Hampshire ... West Virginia: ten) or are ambiguous (Washington).
    assert len(states) == 50 - 10 - 1
    assert all(place["state"] == place["word"] for place in states)


def test_cities_are_ranked_by_population_and_lie_in_a_state(places):
    cities = [place for place in places if place["kind"] == "city"]
    assert len(cities) == 35
    for kind in ("city", "state"):
        of_kind = [place for place in places if place["kind"] == kind]
        ranks = [int(place["rank"]) for place in of_kind]
        people = [int(place["population"]) for place in of_kind]
        assert ranks == sorted(set(ranks))
        assert people == sorted(people, reverse=True)
        assert {place["year"] for place in of_kind} == {"2020"}
        assert max(ranks) <= 50
    biggest = {place["word"]: int(place["population"]) for place in places if place["kind"] == "state"}
    for city in cities:
        assert int(city["population"]) < biggest.get(city["state"], 40_000_000)
