"""Fields of a settings dataclass that say once what an option means: type, default, help text and limits."""

import enum
from typing import Any, get_args, get_type_hints

from tp4lib.base import checks
from tp4lib.base.errors import InputError


class Option:
    """In ``x: Annotated[int, Option("help", least=1)] = 3``: meaning and unit, and limits of `tp4lib.base.checks`."""

    def __init__(self, help: str, **limits: float) -> None:
        self.help, self.limits = help, limits


def declared(settings: type) -> dict[str, tuple[Any, bool, Option]]:
    """Of every field: its type, whether it may be None, and its `Option`."""
    found = {}
    for name, hint in get_type_hints(settings, include_extras=True).items():
        kind, option = get_args(hint)
        kinds = [each for each in get_args(kind) if each is not type(None)]
        found[name] = (kinds[0] if kinds else kind, bool(kinds), option)
    return found


def require_valid(settings: Any) -> None:
    """Hold every field of a frozen settings dataclass to its type and limits, and convert it to that type.

    Raises:
        InputError: names the option as the command line does.
    """
    for field, (kind, optional, option) in declared(type(settings)).items():
        name, value = f"--{field.replace('_', '-')}", getattr(settings, field)
        if value is None and optional:
            continue
        if kind is int:
            value = checks.whole(name, value, **option.limits)
        elif kind is float:
            value = checks.real(name, value, **option.limits)
        elif issubclass(kind, enum.StrEnum):
            if value not in list(kind):
                raise InputError(
                    f"{name} {value}; expected one of {', '.join(kind)}; try {name} {next(iter(kind))}"
                )
            value = kind(value)
        object.__setattr__(settings, field, value)
