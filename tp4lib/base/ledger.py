"""Numbers that take long to compute, each computed once: a JSON file that outlives an interrupted run."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tp4lib.base.errors import InputError
from tp4lib.base.files import write_json


class Ledger:
    """Remembers the number of each key, as long as the settings are the same; other settings begin a new ledger.

    Args:
        path: of the file; its folder is made if need be.
        settings: all that the numbers depend on, JSON-able.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "losses.json"
    >>> Ledger(path, {"steps": 3}).get("width 64", lambda: 0.5)
    0.5
    >>> Ledger(path, {"steps": 3}).get("width 64", lambda: 1 / 0)
    0.5
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path, self.settings = path, json.loads(json.dumps(dict(settings)))
        path.parent.mkdir(parents=True, exist_ok=True)
        self.numbers: dict[str, float | None] = {}
        try:
            found = json.loads(path.read_text("utf-8"))
            if found["settings"] == self.settings:
                self.numbers = dict(found["numbers"])
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{path} is no ledger; expected one that this run wrote; remove it to begin anew"
            ) from None

    def get(self, key: str, compute: Callable[[], float]) -> float:
        """The number of the key, computed and written down if it is not there; infinity is a run that diverged."""
        if key not in self.numbers:
            value = float(compute())
            if math.isnan(value):
                raise InputError(
                    f"{key} is not a number; expected a number, or infinity for a run that diverged"
                )
            self.numbers[key] = None if math.isinf(value) else value  # JSON knows no infinity
            write_json(self.path, {"settings": self.settings, "numbers": self.numbers})
        found = self.numbers[key]
        return math.inf if found is None else found
