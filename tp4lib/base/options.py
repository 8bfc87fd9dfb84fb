"""Fields of a settings dataclass that say once what an option means: default, help text and limits."""

import enum
from dataclasses import fields
from typing import Any, get_args, get_type_hints

from tp4lib.base import checks
from tp4lib.base.errors import InputError


def option(help: str, **limits: float) -> dict[str, Any]:
    """Metadata of a dataclass field: ``help`` names its meaning and unit, ``limits`` are those of `tp4lib.base.checks`.

    Limits: ``least`` and ``most`` (included), ``above`` and ``below`` (excluded), and an ``example`` to suggest.
    """
    return {"help": help, "limits": limits}


def base_type(hint: Any) -> Any:
    """The type of a field without its ``| None``."""
    return next((kind for kind in get_args(hint) if kind is not type(None)), hint)


def check(settings: Any) -> None:
    """Hold every field of a frozen settings dataclass to its type and limits, and convert it to that type.

    Raises:
        InputError: names the option as the command line does.
    """
    hints = get_type_hints(type(settings))
    for each in fields(settings):
        value, kind = getattr(settings, each.name), base_type(hints[each.name])
        if value is None and kind is not hints[each.name]:
            continue
        name, limits = f"--{each.name.replace('_', '-')}", each.metadata.get("limits", {})
        if kind is int:
            value = checks.whole(name, value, **limits)
        elif kind is float:
            value = checks.real(name, value, **limits)
        elif issubclass(kind, enum.StrEnum):
            if value not in list(kind):
                raise InputError(
                    f"{name} {value}; expected one of {', '.join(kind)}; try {name} {next(iter(kind))}"
                )
            value = kind(value)
        object.__setattr__(settings, each.name, value)
