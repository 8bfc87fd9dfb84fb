"""The sizes a notebook can be run at, and which data each takes."""

import os
from collections.abc import Mapping
from typing import Any

from tp4lib.base.errors import InputError
from tp4lib.data.catalogue import EMBEDDED

PRESETS = ("ci", "class", "laptop", "paper")
SHIPPED = ("ci", "class")
"""Presets on data that come with the packages, so that they depend on nothing outside the environment."""

_own: list[str | None] = []


def sizes_of(notebook: dict[str, Any]) -> list[str]:
    """The presets that a notebook has sizes for: keys of a dict in its code; none where it has no such thing."""
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [name for name in PRESETS if any(f'"{name}": ' in source for source in code)]


def require_sizes(notebooks: Mapping[str, dict[str, Any]], preset: str) -> None:
    """Refuse a preset that there is not, or that one of the notebooks has no sizes for, although it has for others."""
    known = {name: sizes_of(notebook) for name, notebook in notebooks.items()}
    lacking = {name: sizes for name, sizes in known.items() if sizes and preset not in sizes}
    if lacking or preset not in PRESETS:
        possible = [each for each in PRESETS if all(each in sizes for sizes in lacking.values())]
        where = f" in {', '.join(lacking)}" if lacking else ""
        raise InputError(
            f"no sizes for preset {preset!r}{where}; expected one of {', '.join(possible)}; choose another --preset"
        )


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
