"""The cities and states of Figure 1 that a vocabulary contains."""

import csv
from dataclasses import dataclass

from tp4lib.base import paths
from tp4lib.word2vec.corpus import Vocabulary


@dataclass(frozen=True)
class Place:
    """A US city or state."""

    word: str  # its name, one lower-case word
    kind: str  # "city" or "state"
    state: str  # the state it lies in, or is
    rank: int  # by population among all US cities or all states (2020 census)
    id: int  # its place in the vocabulary


def us_places(vocab: Vocabulary) -> list[Place]:
    """The places of ``data/us_places.csv`` that ``vocab`` holds, cities before states, each by population.

    The table has the one-word names among the 50 largest US cities and all the states with one-word names, without
    "washington", which is both.

    >>> [place.kind for place in us_places(Vocabulary(["texas", "the", "boston"], [3, 2, 1]))]
    ['city', 'state']
    """
    with open(paths.shared("data/us_places.csv"), newline="", encoding="utf-8") as file:
        return [
            Place(row["word"], row["kind"], row["state"], int(row["rank"]), vocab.index[row["word"]])
            for row in csv.DictReader(file)
            if row["word"] in vocab.index
        ]
