"""The sizes a notebook can be run at, and which data each takes."""

import os
from typing import Any

from tp4lib.data.catalogue import EMBEDDED

PRESETS = ("ci", "class", "laptop", "paper")
SHIPPED = ("ci", "class")
"""Presets on data that come with the packages, so that they depend on nothing outside the environment."""

_own: list[str | None] = []


def sizes_of(notebook: dict[str, Any]) -> list[str]:
    """The presets that a notebook has sizes for: keys of a dict in its code; none where it has no such thing."""
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [name for name in PRESETS if any(f'"{name}": ' in source for source in code)]


def choose_data(preset: str) -> None:
    """In a live session: let ``$TP4_DATA`` be what `tp4 reproduce` makes it, and its own value again at other presets.

    A folder given as ``data_dir`` is looked at before either.
    """
    if preset in SHIPPED and not _own:
        _own.append(os.environ.get("TP4_DATA"))
        os.environ["TP4_DATA"] = EMBEDDED
    elif preset not in SHIPPED and _own:
        before = _own.pop()
        if before is None:
            os.environ.pop("TP4_DATA", None)
        else:
            os.environ["TP4_DATA"] = before
