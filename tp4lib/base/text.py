"""Text files as a user names them: opened, unpacked on the way, and refused in one line where they cannot be read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tp4lib.base import archives
from tp4lib.base.errors import InputError


@contextmanager
def open_text(path: str | Path) -> Iterator[archives.Stream]:
    """Open a file for reading bytes, unpacking .xz, .gz, .bz2 and .zip (its one member) on the way.

    Raises:
        InputError: no such file, a folder, unreadable, or an archive that is damaged (also while it is read).
    """
    path = Path(path)
    require_file(path, "a text file (plain, .xz, .gz, .bz2, .zip)", "--corpus")
    try:
        with archives.unpacked(path) as file:
            yield file
    except archives.Damaged as error:
        raise InputError(
            f"cannot read {path}: {error}; expected a readable {path.suffix or 'text'} file; check --corpus"
        ) from None


def require_file(path: str | Path, expected: str, option: str) -> None:
    """Refuse what is no regular file, and say what it is: to open a pipe would be to wait for its writer."""
    if (what := archives.what_is(path)) != "a file":
        told = "does not exist" if what == "not there" else f"is {what}"
        raise InputError(f"{path} {told}; expected {expected}; check {option}")
