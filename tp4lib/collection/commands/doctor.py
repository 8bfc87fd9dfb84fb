"""``tp4 doctor``: what is here, and what each preset would need."""

import glob
import os
import platform
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator

# Torch, and what imports it, is imported where a GPU may be: the doctor has to work where it is missing, and at once.
from tp4lib import __version__
from tp4lib.base import environment, memory, packages, paths
from tp4lib.base.errors import InputError
from tp4lib.collection.needs import PAPER_PEAKS, duration, needs
from tp4lib.collection.presets import PRESETS

_TOOLS = {
    "compiler": ("cc", "gcc", "clang"),
    "browser": ("chromium", "chromium-browser", "google-chrome", "firefox"),
    "make": ("make",),
    "git": ("git",),
}


def doctor() -> None:
    """Show what is here and what each preset needs.

    Versions of every declared package, device, memory, disk, tools, settings, data sets (and whether they are the
    official ones), then time, memory and disk of each preset, as measured, and whether it fits here. What cannot be
    found out is said, too.
    """
    for section in (_tp4, _packages, _machine, _tools, _settings, _data, _presets):
        head = section.__name__[1:]
        for line in _told(section):
            print(textwrap.fill(line, 80, initial_indent=f"{head:<10}", subsequent_indent=" " * 12))
            head = ""


def _told(section: Callable[[], Iterator[str]]) -> Iterator[str]:
    """Its lines; a doctor does not fall ill: where one section fails, the others are still of use."""
    try:
        yield from section()
    except Exception as error:
        line = packages.explained(error) if isinstance(error, ImportError) else None
        why = line or (str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}")
        yield f"not found out ({why})"


def _tp4() -> Iterator[str]:
    try:
        from tp4lib.data import provenance

        here = provenance.commit()
    except ImportError:
        here = {}
    where = f", commit {here['commit'][:9]}{' with changes' if here['dirty'] else ''}" if here else ""
    yield f"{__version__}{where}; Python {platform.python_version()}, {platform.system()} {platform.machine()}"


def _packages() -> Iterator[str]:
    """One line for each group of declared packages: versions, what is missing, what is outside of its bounds."""
    declared = packages.declared()
    for group in dict.fromkeys(package.group for package in declared):
        ours = [package for package in declared if package.group == group]
        there = [f"{package.name} {package.version}" for package in ours if package.version]
        missing = [name for package in ours for name in package.lacking]
        outside = [
            f"{package.name} {package.version} (expected {package.bounds})"
            for package in ours
            if package.version and not package.fits
        ]
        parts = [", ".join(there)] if there else []
        parts += [f"outside the tested versions: {', '.join(outside)}"] if outside else []
        parts += [f"missing: {', '.join(missing)}"] if missing else []
        parts += [f"run `{ours[0].command}`"] if missing or outside else []
        yield f"{group}: {'; '.join(parts)}"


def _settings() -> Iterator[str]:
    """The environment variables of tp4's that are set: what is read, what is wrong, what has no effect."""
    given = [f"{name}={os.environ[name]}" for name in environment.VARIABLES if os.environ.get(name)]
    yield ", ".join(given) if given else f"none of {', '.join(environment.VARIABLES)} is set"
    for name in environment.unknown():
        yield f"{name} means nothing to tp4; expected one of {', '.join(environment.VARIABLES)}"
    environment.check()


def _machine() -> Iterator[str]:
    yield f"disk: {_bytes(_disk_free())} free where results go ({paths.runs_dir('')})"
    yield (
        f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores, "
        f"{_bytes(memory.available())} of memory available"
    )
    name, free = _gpu() or ("none", 0)
    yield (
        f"GPU: {name}, {_bytes(free)} free; --device auto is cuda"
        if free
        else f"GPU: {name}; --device auto is cpu"
    )


def _gpu() -> tuple[str, int] | None:
    """Name and free bytes of what --device auto takes; None where that is the CPU."""
    if sys.platform == "darwin" or (
        sys.platform == "linux"
        and not any(glob.glob(f"/dev/{kind}") for kind in ("nvidia[0-9]*", "nvhost-gpu", "dxg", "kfd"))
    ):
        return None
    import torch

    from tp4lib.base import device

    chosen = device.resolve("auto")
    if chosen.type == "cpu":
        return None
    return torch.cuda.get_device_name(chosen), device.available_memory(chosen)


def _tools() -> Iterator[str]:
    found = {tool: next(filter(shutil.which, names), None) for tool, names in _TOOLS.items()}
    yield ", ".join(f"{tool}: {name or 'none found'}" for tool, name in found.items())


def _data() -> Iterator[str]:
    from tp4lib.data import catalogue as datasets

    for name in datasets.DATASETS:
        found = datasets.find_local(name)
        yield f"{found.describe()}; official digest: {datasets.verify(found)}"


def _presets() -> Iterator[str]:
    there, disk = memory.available(), _disk_free()
    for preset in PRESETS:
        need = needs(preset)
        if need is None:
            yield f"{preset}: not measured{_full_size() if preset == 'paper' else ''}"
            continue
        asked = {"memory": (need.memory, there), "disk": (need.disk, disk)}
        lacks = [what for what, (needed, free) in asked.items() if needed > free]
        yield (
            f"{preset}: {duration(need.seconds)}, {_bytes(need.memory)} of memory, {_bytes(need.disk)} of disk "
            f"(measured: {need.measured}); {'too little ' + ' and '.join(lacks) if lacks else 'fits'} here"
        )


def _full_size() -> str:
    """What is known beforehand of preset paper, and whether it fits."""
    gpu = _gpu()
    there = gpu[1] if gpu else memory.available()
    peaks = ", ".join(f"{name} {_bytes(size)}" for name, size in PAPER_PEAKS.items())
    too_large = [name for name, size in PAPER_PEAKS.items() if size > there]
    verdict = f"too large here: {', '.join(too_large)}" if too_large else "they fit here"
    return f"; by formula the largest hold {peaks} on {'cuda' if gpu else 'cpu'}; {verdict}"


def _disk_free() -> int:
    folder = paths.runs_dir("")
    return shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free


def _bytes(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**29 else f"{count / 2**20:.0f} MiB"
