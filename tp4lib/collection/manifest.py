"""Which files of a folder this program wrote. Only those may it replace or remove; all others are somebody else's."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tp4lib.base.errors import InputError
from tp4lib.base.files import atomic_path, digest, json_bytes, write_json

FILE = ".tp4-written.json"
"""The manifest's own file in a folder: each file name with the SHA-256 of what was written there."""


class Manifest:
    """The files of ``folder`` that this program wrote and nobody has changed since.

    A digest is noted *before* its file takes its place, beside the digest of the file that is there, so that a process
    that is killed between the two leaves a file that is still known.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """The files that are here and ours."""
        return [name for name in sorted(self._noted()) if self.is_ours(name)]

    def is_ours(self, name: str) -> bool:
        """Whether the file holds, byte for byte, what this program wrote."""
        path = self.folder / name
        return path.is_file() and not path.is_symlink() and digest(path) in self._noted().get(name, ())

    def require(self, names: Iterable[str]) -> None:
        """Refuse to write ``names`` where something that is not ours has one of them."""
        for name in names:
            path = self.folder / name
            if os.path.lexists(path) and not self.is_ours(name):
                raise InputError(
                    f"{path} was not written by tp4, or was changed since; expected a name that is free; "
                    "move it away, or choose another --out"
                )

    def note(self, digests: Mapping[str, str]) -> None:
        """Remember that the files named will hold, or hold, these bytes."""
        noted = self._noted()
        for name, new in digests.items():
            present = [digest(self.folder / name)] if self.is_ours(name) else []
            noted[name] = sorted({*present, new})
        write_json(self.folder / FILE, noted)

    @contextmanager
    def atomic_path(self, name: str) -> Iterator[Path]:
        """`tp4lib.base.files.atomic_path` for a file of this folder, noted.

        Raises:
            InputError: somebody else's file has this name, or the folder cannot be written.
        """
        self.require([name])
        with atomic_path(self.folder / name) as part:
            yield part
            self.note({name: digest(part)})

    def write_json(self, name: str, value: Any) -> None:
        """Write ``value`` as JSON, as `tp4lib.base.files.write_json` does, noted."""
        with self.atomic_path(name) as part:
            part.write_bytes(json_bytes(value))

    def remove(self, name: str) -> None:
        """Remove a file if it is ours."""
        if self.is_ours(name):
            (self.folder / name).unlink()

    def _noted(self) -> dict[str, list[str]]:
        noted = read_json(self.folder / FILE)
        fits = isinstance(noted, dict) and all(isinstance(each, list) for each in noted.values())
        return noted if fits else {}


def read_json(path: Path) -> Any:
    """The value in a JSON file; None where there is none or it is no JSON."""
    try:
        return json.loads(path.read_text("utf-8")) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return None
