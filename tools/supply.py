"""What this project is built from: the lowest versions it allows, a lock of a tested set, and the licences.

python tools/supply.py lowest      constraints for pip: every direct dependency at its lower bound
python tools/supply.py lock        writes requirements.lock: this environment, exactly
python tools/supply.py licences    writes docs/licences.md: of every package in this environment
"""

import re
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # `lowest` runs before anything is installed

from tp4lib.base import packages  # noqa: E402

LOCK = ROOT / "requirements.lock"
LICENCES = ROOT / "docs" / "licences.md"
_OWN = {"tp4lib"}


def direct() -> dict[str, str]:
    """Direct dependencies of the core and of every extra, with their bounds, as ``{"torch": ">=2.6,<3"}``."""
    return {package.name: package.bounds for package in packages.declared()}


def lowest() -> str:
    """A pip constraint for the lower bound of each."""
    bounds = {name: re.search(r">=([\w.]+)", both).group(1) for name, both in direct().items()}
    return "".join(f"{name}=={version}\n" for name, version in bounds.items())


def installed() -> dict[str, metadata.Distribution]:
    """This environment, by normalized name, without the project itself."""
    found = {_name(each.metadata["Name"]): each for each in metadata.distributions()}
    return dict(sorted((name, each) for name, each in found.items() if name not in _OWN))


def lock() -> str:
    """``name==version`` of every package here; no address, no path, no local build tag."""
    python = ".".join(map(str, sys.version_info[:2]))
    head = f"# The set that was tested on Python {python}: make install LOCK=1\n"
    return head + "".join(f"{name}=={each.version.split('+')[0]}\n" for name, each in installed().items())


def licences() -> str:
    """A table of name, version and licence; direct dependencies first."""
    ours = {_name(name) for name in direct()}
    rows = [
        (name not in ours, f"| {each.metadata['Name']} | {each.version.split('+')[0]} | {licence(each)} |")
        for name, each in installed().items()
    ]
    head = "| package | version | licence |\n|---|---|---|\n"
    parts = ("\n".join(row for indirect, row in rows if indirect is which) for which in (False, True))
    mine, theirs = parts
    return (
        "# Licences of what tp4 is built from\n\n"
        "As each package's own metadata tells them; written by `python tools/supply.py licences`. tp4 itself is MIT, "
        "ships none of these\npackages and copies nothing out of them.\n\n"
        f"## Direct dependencies\n\n{head}{mine}\n\n## What they bring along\n\n{head}{theirs}\n"
    )


def licence(package: metadata.Distribution) -> str:
    """One line, from the newest kind of metadata to the oldest."""
    meta = package.metadata
    if expression := meta.get("License-Expression"):
        return expression
    trove = [
        line.rpartition(" :: ")[2]
        for line in meta.get_all("Classifier") or ()
        if line.startswith("License ::") and line.count("::") > 1
    ]
    if trove:
        return ", ".join(trove)
    stated = (meta.get("License") or "").strip().splitlines()
    return stated[0][:80] if stated else "not stated in its metadata"


def _name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["lowest"]:
            print(lowest(), end="")
        case ["lock"]:
            LOCK.write_text(lock(), encoding="utf-8")
        case ["licences"]:
            LICENCES.write_text(licences(), encoding="utf-8")
        case _:
            sys.exit(__doc__)
