"""Where the project's own files are, in a checkout and in an installed package, and where results and caches go."""

import os
import tempfile
from pathlib import Path

from tp4lib.errors import InputError

_PACKAGE = Path(__file__).resolve().parent


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

    ``$TP4_CACHE``; else the first that can be written of ``data/cache`` of the checkout, ``~/.cache/tp4``, and a
    folder of this user's below the system's temporary one.

    Raises:
        InputError: there is none that can be written.
    """
    if chosen := os.environ.get("TP4_CACHE"):
        places = [Path(chosen).absolute()]
    else:
        root = checkout()
        places = [root / "data" / "cache"] if root else []
        places += [Path.home() / ".cache" / "tp4"] if _has_home() else []
        places += [_temporary()]
    for place in places:
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(place, os.W_OK | os.X_OK) and (place != _temporary() or _is_mine(place)):
            return place
    raise InputError(
        f"no folder for the cache: {', '.join(map(str, places))} cannot be written; expected a writable folder; "
        "try TP4_CACHE=/some/folder"
    )


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


def _has_home() -> bool:
    try:
        return Path.home().is_absolute()
    except RuntimeError:  # no $HOME, and the system does not know this user
        return False


def _temporary() -> Path:
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir()) / f"tp4-cache-{user}"


def _is_mine(folder: Path) -> bool:
    """Nobody else may put files where we would read them."""
    return not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()
