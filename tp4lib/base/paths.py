"""Where the project's own files are, in a checkout and in an installed package, and where results and caches go."""

import contextlib
import os
import sys
import tempfile
from pathlib import Path

from tp4lib.base.errors import InputError
from tp4lib.base.files import out_dir

_PACKAGE = Path(__file__).resolve().parent.parent  # tp4lib


def checkout() -> Path | None:
    """The root of the repository this package runs from, or None when it was installed without one."""
    root = _PACKAGE.parent
    return root if (root / "pyproject.toml").is_file() and (root / "notebooks").is_dir() else None


def shared(name: str) -> Path:
    """The project file ``name``, such as ``"data/us_places.csv"`` or ``"notebooks"``."""
    root = checkout()
    return (root if root else _PACKAGE / "_share") / name


def cache_dir() -> Path:
    """The folder for downloads and derived files; it is made if need be.

    ``$TP4_CACHE``; else the first of `cache_places` that can be written; else (a read-only installation and no home) a
    folder of this user's below the system's temporary one, and a line on stderr says so.

    Raises:
        InputError: ``$TP4_CACHE``, or all of them, cannot be written.
    """
    for place in cache_places():
        with contextlib.suppress(InputError):
            return out_dir(place)
    if chosen := os.environ.get("TP4_CACHE"):
        raise InputError(
            f"TP4_CACHE={chosen} cannot be written; expected a folder that can; choose another, or unset TP4_CACHE"
        )
    return _temporary_cache()


def cache_places() -> list[Path]:
    """Where cached files may lie, the preferred place first; data may lie in a checkout that cannot be written."""
    if chosen := os.environ.get("TP4_CACHE"):
        return [Path(chosen).absolute()]
    root = checkout()
    places = [root / "data" / "cache"] if root else []
    with contextlib.suppress(RuntimeError):  # no $HOME, and the system does not know this user
        places.append(Path.home().absolute() / ".cache" / "tp4")
    return places


def runs_dir(preset: str) -> Path:
    """The folder of one run of the collection, absolute; it need not exist.

    ``$TP4_OUT``; else ``runs/<preset>`` of the checkout if it can be written, else of the working directory.
    """
    if chosen := os.environ.get("TP4_OUT"):
        return Path(chosen).absolute()
    root = checkout()
    return (root if root and _can_be_made(root / "runs" / preset) else Path.cwd()) / "runs" / preset


def _can_be_made(folder: Path) -> bool:
    """Whether ``folder`` can be written, or made in the nearest of its parents that exists."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return os.access(there, os.W_OK | os.X_OK)


def ensure_home() -> None:
    """Give a user without a home (no ``$HOME``, no account) a temporary one: libraries cannot be imported without."""
    try:
        Path.home()
    except RuntimeError:
        with contextlib.suppress(OSError):
            os.environ["HOME"] = str(_temporary())


def _temporary_cache() -> Path:
    try:
        folder = out_dir(_temporary())
    except (OSError, InputError):
        raise InputError(
            f"no folder for cached files: {', '.join(map(str, cache_places()))} and {tempfile.gettempdir()} cannot be "
            "written; expected one that can; try TP4_CACHE=/some/folder"
        ) from None
    os.environ["TP4_CACHE"] = str(folder)  # said once, and for the processes that this one starts, too
    print(
        f"tp4: neither the installation nor the home folder can be written; cached files go to {folder}; "
        "set TP4_CACHE to another folder to keep them longer",
        file=sys.stderr,
    )
    return folder


def _temporary() -> Path:
    """A folder below the system's temporary one that lasts longer than this process and is this user's alone."""
    if not hasattr(os, "getuid"):
        return Path(tempfile.mkdtemp(prefix="tp4-"))
    folder = Path(tempfile.gettempdir()) / f"tp4-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    # Compiled functions are read from here: nobody else may have put them there.
    mine = not folder.is_symlink() and folder.stat().st_uid == os.getuid()
    return folder if mine else Path(tempfile.mkdtemp(prefix="tp4-"))
