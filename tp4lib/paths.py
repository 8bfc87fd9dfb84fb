"""Where the project's own files are, in a checkout and in an installed package."""

import os
from pathlib import Path

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
    """The folder for downloads and derived files: ``$TP4_CACHE``, else ``data/cache`` of the checkout."""
    if chosen := os.environ.get("TP4_CACHE"):
        path = Path(chosen)
    elif root := checkout():
        path = root / "data" / "cache"
    else:
        path = Path.home() / ".cache" / "tp4"
    path.mkdir(parents=True, exist_ok=True)
    return path


def runs_dir(preset: str) -> Path:
    """The folder of one run of the collection: ``$TP4_OUT`` (set by ``tp4 reproduce``), else ``runs/<preset>``."""
    if chosen := os.environ.get("TP4_OUT"):
        return Path(chosen)
    return (checkout() or Path.cwd()) / "runs" / preset
