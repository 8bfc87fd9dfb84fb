"""The numbers that the papers print, read from one table so that no notebook repeats them."""

import csv
import functools

from tp4lib.base import paths
from tp4lib.base.errors import InputError


@functools.cache
def _table() -> tuple[dict[str, str], ...]:
    with open(paths.shared("data/paper_results.csv"), newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))


def rows(table: str) -> list[dict[str, str]]:
    """All rows of ``table`` ("table2", "table3", "pilimit"): task, model, width, metric, value, std, source."""
    found = [row for row in _table() if row["table"] == table]
    if not found:
        names = ", ".join(sorted({row["table"] for row in _table()}))
        raise InputError(f"no published table {table!r}; expected one of {names}; see data/paper_results.csv")
    return found


def published(table: str, **keys: object) -> float:
    """The one published value in ``table`` whose columns equal ``keys``.

    >>> published("table3", task="text8", model="muP", width="inf")
    43.31

    Raises:
        InputError: no row, or more than one, fits.
    """
    found = [row for row in rows(table) if all(row[key] == str(value) for key, value in keys.items())]
    if len(found) != 1:
        raise InputError(
            f"{len(found)} published rows fit {keys} in {table}; expected one; see data/paper_results.csv"
        )
    return float(found[0]["value"])
