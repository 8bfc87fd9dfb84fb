"""A command's options from a settings dataclass, so that defaults, help texts and limits stand in one place."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Annotated, Any, get_type_hints

import typer

from tp4lib.base.options import base_type


def from_settings(settings: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Put an option for each field of ``settings`` in place of the decorated command's ``**options``.

    The fields come after the command's parameters without a default and before those with one.
    """
    hints = get_type_hints(settings)

    def parameter(name: str, default: Any, text: str, limits: dict[str, float]) -> inspect.Parameter:
        bounds = {}
        if base_type(hints[name]) is int:  # real numbers are checked by the settings themselves, NaN included
            bounds = {"min": limits.get("least", 1), "max": limits.get("most")}
        annotation = Annotated[hints[name], typer.Option(help=text, **bounds)]
        default = inspect.Parameter.empty if default is MISSING else default
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
               for p in inspect.signature(command).parameters.values()
               if p.kind is not inspect.Parameter.VAR_KEYWORD]  # fmt: skip
        required = [p for p in own if p.default is inspect.Parameter.empty]
        made = [
            parameter(f.name, f.default, f.metadata["help"], f.metadata["limits"]) for f in fields(settings)
        ]
        together = [*required, *made, *(p for p in own if p not in required)]
        command.__signature__ = inspect.Signature(together)
        command.__annotations__ = {p.name: p.annotation for p in together}
        return command

    return decorate
