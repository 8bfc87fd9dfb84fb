"""``tp4 word2vec``: train CBOW with negative sampling on a text, at one width or at width infinity."""

import enum
import inspect
from typing import Annotated, Any

import typer

from tp4lib.base.files import alone_in
from tp4lib.word2vec.settings import REQUIRED, RunSettings, options


def word2vec(**chosen: Any) -> None:
    """Train Word2Vec at one width or at width infinity.

    Its embeddings are scored on word analogies after each epoch. A line of text is no sentence: windows reach across
    line ends. A run works in --out/unfinished, and its files replace those of an earlier run when it is whole. On
    several GPUs: torchrun --nproc-per-node=N -m tp4lib.word2vec, with the same options.

    Example: tp4 word2vec --corpus text8 --width inf --max-vocab 5000 --out runs/w2v
    """
    from tp4lib.base import (
        device as devices,  # here, as torch takes seconds, and not when only the help is asked for
    )
    from tp4lib.word2vec.run import run

    settings = RunSettings(**{k: str(v) if isinstance(v, enum.StrEnum) else v for k, v in chosen.items()})
    with alone_in(settings.out):
        run(settings, devices.resolve(settings.device))


def _parameters() -> list[inspect.Parameter]:
    """The options, from the fields of `RunSettings`, as typer reads them."""
    parameters = []
    for name, each in options():
        kind, choices = each.metadata["kind"], each.metadata["choices"]
        if kind is bool:
            name = f"{name}/--no-{name.removeprefix('--')}" if each.default else name
        if choices:
            kind = enum.StrEnum(each.name, {choice: choice for choice in choices})
        optional = each.default is None and each.name not in REQUIRED
        annotation = Annotated[
            kind | None if optional else kind, typer.Option(name, help=each.metadata["help"])
        ]
        default = inspect.Parameter.empty if each.name in REQUIRED else each.default
        parameters.append(
            inspect.Parameter(
                each.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
            )
        )
    return parameters


word2vec.__signature__ = inspect.Signature(_parameters())
word2vec.__annotations__ = {each.name: each.annotation for each in word2vec.__signature__.parameters.values()}
