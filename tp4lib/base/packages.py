"""The packages that this project declares: which are here, which are missing, and what to type to get them.

Read from the project's own metadata (``pyproject.toml`` in a checkout), so that no second list can drift from it. Needs
the standard library alone: it has to work where packages are missing.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec

from tp4lib.base import paths
from tp4lib.base.errors import InputError

OUTSIDE = {"learn2learn": ">=0.2.0,<0.2.1"}
"""What the notebooks need and the metadata cannot name: learn2learn is a step of its own in the Makefile."""

CORE = "core"
"""The group of the dependencies that are no extra."""

# Those whose modules have another name; of the last, another character.
_MODULES = {
    "scikit-learn": "sklearn",
    "pillow": "PIL",
    "pytest-xdist": "xdist",
    "sphinx-mathjax-offline": "sphinx-mathjax-offline",
}
_ONLY_NAMES_OTHERS = ("jupyter",)
_LINE = re.compile(r"""([\w.-]+)(?:\[[^]]*\])?\s*\(?([^;)]*)\)?\s*(?:;.*extra\s*==\s*["']([\w-]+)["'].*)?""")


@dataclass(frozen=True)
class Package:
    """One declared dependency: its name, its bounds such as ``">=2.6,<3"``, and the extra that asks for it."""

    name: str
    bounds: str
    group: str

    @property
    def version(self) -> str | None:
        """The installed version; None where it is missing or its module cannot be found."""
        return metadata.version(self.name) if _installed(self.name) else None

    @property
    def lacking(self) -> list[str]:
        """What is not installed of it: nothing, itself, or parts of a package that only names others."""
        if not _installed(self.name):
            return [self.name]
        lines = metadata.requires(self.name) if self.name in _ONLY_NAMES_OTHERS else ()
        parts = [_LINE.match(line)[1] for line in lines or () if ";" not in line]
        return [part for part in parts if not _installed(part)]

    @property
    def fits(self) -> bool:
        """Whether the installed version lies within the bounds."""
        return self.version is not None and within(self.version, self.bounds)

    @property
    def command(self) -> str:
        """What to type to install it."""
        if paths.checkout() is None:
            return f"pip install 'tp4lib[{self.group}]'" if self.group != CORE else f"pip install {self.name}"
        return {"docs": "make gallery"}.get(self.group, "make install")


def declared() -> list[Package]:
    """Every declared dependency, of the checkout's pyproject.toml or the installed package: the core's first."""
    if (root := paths.checkout()) is not None:
        project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
        lines = [(line, CORE) for line in project["dependencies"]]
        lines += [(line, extra) for extra, ask in project["optional-dependencies"].items() for line in ask]
    else:
        lines = [(line, CORE) for line in metadata.requires("tp4lib") or ()]
    found = [_package(line, group) for line, group in lines]
    found += [Package(name, bounds, "notebooks") for name, bounds in OUTSIDE.items()]
    return sorted(found, key=lambda package: package.group != CORE)


def require(*groups: str) -> None:
    """Refuse to begin what would stop in the middle for want of a package.

    Args:
        groups: ``"core"`` or names of extras.
    """
    missing = [package for package in declared() if package.group in groups and package.lacking]
    if missing:
        names = [name for package in missing for name in package.lacking]
        raise InputError(_absent(names, missing[0].command))


@contextmanager
def needed() -> Iterator[None]:
    """Imports inside end in one line where the package is missing or broken.

    >>> with needed():
    ...     import tqdm
    """
    try:
        yield
    except ImportError as error:
        line = explained(error)
        if line is None:
            raise
        raise InputError(line) from error


def explained(error: ImportError) -> str | None:
    """What to say of an import that failed; None where tp4 itself is at fault."""
    module = (error.name or _raised_in(error)).partition(".")[0]
    if module in ("", "tp4lib", "__main__"):
        return None
    if module in sys.stdlib_module_names:
        return (
            f"this Python lacks its own module {module!r} ({error}); expected a complete Python {sys.version_info[0]}."
            f"{sys.version_info[1]}; install one, with its C libraries, and run `make install`"
        )
    owner = next((each for each in declared() if module == module_of(each.name)), None)
    command = owner.command if owner else Package(module, "", "notebooks").command
    if isinstance(error, ModuleNotFoundError):
        return _absent([owner.name if owner else module], command)
    return f"{module} cannot be imported ({error}); expected one that works here; see `tp4 doctor`, or run `{command}`"


def within(version: str, bounds: str) -> bool:
    """Whether ``version`` lies within ``">=LOWEST,<END"``, either of them or both; build tags do not count.

    >>> within("2.14.1+cpu", ">=2.6,<3"), within("3.0", ">=2.6,<3"), within("2.6.0", ">=2.6")
    (True, False, True)
    """
    limits = dict(re.findall(r"(>=|<)([\w.]+)", bounds))
    here, end = _release(version), limits.get("<")
    return _release(limits.get(">=", "")) <= here and (end is None or here < _release(end))


def _package(line: str, group: str) -> Package:
    name, bounds, extra = _LINE.fullmatch(line.strip()).groups()
    # Metadata sorts the bounds, "<3,>=2.6": the lower one first reads better.
    both = sorted(filter(None, bounds.replace(" ", "").split(",")), key=lambda bound: bound[0] != ">")
    return Package(name, ",".join(both), extra or group)


def _absent(names: list[str], command: str) -> str:
    verb = "is" if len(names) == 1 else "are"
    return (
        f"{', '.join(names)} {verb} not installed; expected the packages that tp4 declares; run `{command}`"
    )


def module_of(name: str) -> str:
    """The module of a declared distribution, installed or not."""
    return _MODULES.get(name.lower(), name.replace("-", "_").lower())


def _installed(name: str) -> bool:
    try:
        metadata.distribution(name)
        return find_spec(module_of(name)) is not None
    except ImportError:
        return False
    except ValueError:  # it is loaded, and was not found in the ordinary way
        return True


def _raised_in(error: ImportError) -> str:
    """The module that raised an error which names none, such as numba's about a numpy that is too new."""
    trace, name = error.__traceback__, ""
    while trace is not None:
        name, trace = trace.tb_frame.f_globals.get("__name__", ""), trace.tb_next
    return name


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version, without trailing zeros: ``"2.6.0rc1"`` is ``(2, 6)``."""
    digits = re.match(r"v?(\d+(?:\.\d+)*)", version.strip())
    numbers = [int(part) for part in digits[1].split(".")] if digits else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
