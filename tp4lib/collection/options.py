"""A command's options from a settings dataclass, so that defaults, help texts and limits stand in one place."""

import enum
import inspect
from collections.abc import Callable
from typing import Annotated

import typer

from tp4lib.base.options import options_of

Command = Callable[..., None]


def from_settings(settings: type) -> Callable[[Command], Command]:
    """Put an option for each field of ``settings`` in place of the decorated command's ``**options``.

    They come after the command's parameters without a default and before those with one; those that have to be given
    first. Whole numbers with declared limits are held to them here, all others by the settings, NaN included.
    """
    made = []
    for name, each in options_of(settings).items():
        flag, kind, limits = each.flag, each.kind, each.option.limits
        bounds = {"min": limits.get("least"), "max": limits.get("most")} if kind is int else {}
        if each.option.choices:
            kind = enum.StrEnum(name, {choice: choice for choice in each.option.choices})
        if kind is bool and each.default:
            flag = f"{flag}/--no-{flag.removeprefix('--')}"
        kind = kind | None if each.optional else kind
        annotation = Annotated[kind, typer.Option(flag, help=each.option.help, **bounds)]
        default = inspect.Parameter.empty if each.required else each.default
        made.append(_keyword(name, default=default, annotation=annotation))

    def decorate(command: Command) -> Command:
        own = [_keyword(p.name, default=p.default, annotation=p.annotation)
               for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]  # fmt: skip
        required = [p for p in own if p.default is p.empty]
        together = [*required, *made, *own[len(required) :]]
        command.__signature__ = inspect.Signature(together)
        command.__annotations__ = {p.name: p.annotation for p in together}
        return command

    return decorate


def _keyword(name: str, **rest) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, **rest)
