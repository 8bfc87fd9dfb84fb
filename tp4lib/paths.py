"""Where the project's own files are, in a checkout and in an installed package."""

import atexit
import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from tp4lib.errors import InputError
from tp4lib.files import out_dir

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
    """The folder for downloads and derived files: ``$TP4_CACHE``, else the first of `cache_places` that can be written.

    Where none can (a read-only installation and no home), a folder that lasts as long as this process, and a line on
    stderr says so.

    Raises:
        InputError: ``$TP4_CACHE`` cannot be written.
    """
    if chosen := os.environ.get("TP4_CACHE"):
        try:
            return out_dir(chosen)
        except InputError as error:
            reason = str(error).partition(";")[0]
            raise InputError(
                f"TP4_CACHE={chosen}: {reason}; expected a folder that can be written; choose another, or unset "
                "TP4_CACHE"
            ) from None
    for place in cache_places():
        with contextlib.suppress(InputError):
            return out_dir(place)
    return _passing_cache()


def cache_places() -> list[Path]:
    """Where cached files may lie, the preferred place first; the checkout's may hold data and be read-only."""
    if chosen := os.environ.get("TP4_CACHE"):
        return [Path(chosen)]
    root = checkout()
    places = [root / "data" / "cache"] if root else []
    with contextlib.suppress(RuntimeError):  # a user without a home: HOME is unset and no account is known
        places.append(Path.home() / ".cache" / "tp4")
    return places


def _passing_cache() -> Path:
    folder = tempfile.mkdtemp(prefix="tp4-cache-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["TP4_CACHE"] = folder  # for the processes that this one starts, too
    print(
        f"tp4: neither the installation nor the home folder can be written; cached files go to {folder} and are removed "
        "at the end; set TP4_CACHE to a folder to keep them",
        file=sys.stderr,
    )
    return Path(folder)


def runs_dir(preset: str) -> Path:
    """The folder of one run of the collection: ``$TP4_OUT`` (set by ``tp4 reproduce``), else ``runs/<preset>``."""
    if chosen := os.environ.get("TP4_OUT"):
        return Path(chosen)
    return (checkout() or Path.cwd()) / "runs" / preset
