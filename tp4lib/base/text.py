"""Text files as a user names them: opened, unpacked on the way, and refused in one line where they cannot be read."""

import os
import stat
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
    """Refuse what is no regular file, and say what it is: to open a pipe would be to wait for its writer.

    Raises:
        InputError: it is something else, or not there.
    """
    try:
        mode = os.stat(path).st_mode
    except PermissionError as error:
        what = f"cannot be read ({error.strerror})"
    except (OSError, ValueError):  # also a name that no file could have
        what = "is a link to a file that does not exist" if os.path.islink(path) else "does not exist"
    else:
        if stat.S_ISREG(mode):
            return
        kinds = {
            stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
            stat.S_IFBLK: "a device",
        }  # fmt: skip
        what = f"is {kinds.get(stat.S_IFMT(mode), 'no regular file')}"
    raise InputError(f"{path} {what}; expected {expected}; check {option}")
