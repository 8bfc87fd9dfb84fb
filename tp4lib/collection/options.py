"""A command's options from a settings dataclass, so that defaults, help texts and limits stand in one place."""

import inspect
from collections.abc import Callable
from typing import Annotated

import typer

from tp4lib.base.options import declared

Command = Callable[..., None]


def from_settings(settings: type) -> Callable[[Command], Command]:
    """Put an option for each field of ``settings`` in place of the decorated command's ``**options``.

    They come after the command's parameters without a default and before those with one. Real numbers are checked by
    the settings themselves, NaN included.
    """
    made = []
    for name, (kind, optional, option) in declared(settings).items():
        bounds = (
            {"min": option.limits.get("least", 1), "max": option.limits.get("most")} if kind is int else {}
        )
        annotation = Annotated[kind | None if optional else kind, typer.Option(help=option.help, **bounds)]
        made.append(_keyword(name, default=getattr(settings, name), annotation=annotation))

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
