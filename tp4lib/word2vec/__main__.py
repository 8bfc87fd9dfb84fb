"""``python -m tp4lib.word2vec``: `tp4 word2vec` on the bare core, and on several devices.

    torchrun --nproc-per-node=8 -m tp4lib.word2vec --corpus fil9.xz --width inf --min-count 10 --out runs/fil9

Every rank holds some of the columns (see `tp4lib.word2vec.shards`). Needs torch, numpy and tqdm alone.
"""

import argparse
import os
import sys
from argparse import BooleanOptionalAction
from contextlib import ExitStack
from dataclasses import MISSING
from typing import Any, NoReturn

import torch

from tp4lib.base import device as devices
from tp4lib.base import environment
from tp4lib.base.errors import InputError, fail
from tp4lib.base.files import alone_in
from tp4lib.base.options import options_of
from tp4lib.collection import cli
from tp4lib.word2vec.run import run
from tp4lib.word2vec.settings import RunSettings
from tp4lib.word2vec.shards import ALONE, Shards


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run; bad input ends in one line on stderr and exit code 2."""
    cli.open_streams()
    with cli.guarded():
        environment.check()
        _run(RunSettings(**vars(_parser().parse_args(arguments))))


def _run(settings: RunSettings) -> None:
    shards = ALONE
    try:
        where = devices.resolve(settings.device)
        if where.type == "cuda" and "LOCAL_RANK" in os.environ:
            where = devices.resolve(f"cuda:{environment.whole_number('LOCAL_RANK', 0)}")
            torch.cuda.set_device(where)
        shards = Shards.join(where)
        if shards.rank > 0:
            os.environ["TP4_PROGRESS"] = "0"
        with ExitStack() as stack:
            shards.first(lambda: stack.enter_context(alone_in(settings.out)))
            run(settings, where, shards)
    except InputError:
        if shards.rank > 0:  # the first rank says why
            sys.exit(2)
        raise
    finally:
        shards.leave()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        fail(f"{message}; see `{self.prog} --help`")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m tp4lib.word2vec",
        description="Train Word2Vec at one width or at infinity, on one device or by torchrun on several.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    for flag, kind, _, default, option in options_of(RunSettings).values():
        required = default is MISSING
        told: dict[str, Any] = {"default": None if required else default, "help": option.help}
        if kind is bool:  # --resume; --save-vectors and --no-save-vectors
            parser.add_argument(flag, action=BooleanOptionalAction if default else "store_true", **told)
        else:
            parser.add_argument(flag, type=kind, required=required, choices=option.choices or None, **told)
    return parser


if __name__ == "__main__":
    main()
