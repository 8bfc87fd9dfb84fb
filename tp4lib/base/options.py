"""Fields of a settings dataclass that say once what an option means: type, default, help text and limits."""

import enum
from dataclasses import MISSING, fields
from typing import Any, NamedTuple, get_args, get_type_hints

from tp4lib.base import checks
from tp4lib.base.errors import InputError


class Option:
    """In ``x: Annotated[int, Option("help", least=1)] = 3``: meaning and unit, choices, and limits of `checks`."""

    def __init__(self, help: str, choices: tuple[str, ...] = (), **limits: float) -> None:
        self.help, self.choices, self.limits = help, choices, limits


class Declared(NamedTuple):
    """A field that has an `Option`: its flag, type, whether it may be None, and its default (MISSING: required)."""

    flag: str
    kind: type
    optional: bool
    default: Any
    option: Option

    @property
    def required(self) -> bool:
        return self.default is MISSING


def options_of(settings: type) -> dict[str, Declared]:
    """The fields with an `Option`, by name, required ones first."""
    found, hints = {}, get_type_hints(settings, include_extras=True)
    for field in fields(settings):
        hint, *extra = get_args(hints[field.name]) or [None]
        if not (extra and isinstance(extra[0], Option)):
            continue
        kinds = [each for each in get_args(hint) if each is not type(None)]
        flag = f"--{field.name.replace('_', '-')}"
        found[field.name] = Declared(flag, kinds[0] if kinds else hint, bool(kinds), field.default, extra[0])
    return dict(sorted(found.items(), key=lambda item: not item[1].required))


def require_valid(settings: Any) -> None:
    """Hold every field of a frozen settings dataclass to its type and limits, and convert it to that type.

    Raises:
        InputError: names the option as the command line does.
    """
    for field, (name, kind, optional, _, option) in options_of(type(settings)).items():
        value = getattr(settings, field)
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
