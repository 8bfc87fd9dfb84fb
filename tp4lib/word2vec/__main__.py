"""``python -m tp4lib.word2vec``: `tp4 word2vec` on the bare core, and on several devices.

    torchrun --nproc-per-node=8 -m tp4lib.word2vec --corpus fil9.xz --width inf --min-count 10 --out runs/fil9

Every rank holds some of the columns (see `tp4lib.word2vec.shards`). Needs torch, numpy and tqdm alone.
"""

import argparse
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import torch

from tp4lib.base import device as devices
from tp4lib.base import environment
from tp4lib.base.errors import InputError, fail
from tp4lib.base.files import alone_in
from tp4lib.collection import cli
from tp4lib.word2vec.blocks import NEGATIVES
from tp4lib.word2vec.model import GRADIENTS
from tp4lib.word2vec.run import run
from tp4lib.word2vec.shards import ALONE, Shards

TEXT = "words between spaces or line ends, which windows reach across; plain, .xz, .gz, .bz2 or .zip"


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run; bad input ends in one line on stderr and exit code 2."""
    cli.open_streams()
    with cli.guarded():
        environment.check()
        _run(**vars(_parser().parse_args(arguments)))


def _run(*, device: str, dtype: str, no_save_vectors: bool, out: Path, **options) -> None:
    shards = ALONE
    try:
        where = devices.resolve(device)
        if where.type == "cuda" and "LOCAL_RANK" in os.environ:
            where = devices.resolve(f"cuda:{environment.whole_number('LOCAL_RANK', 0)}")
            torch.cuda.set_device(where)
        shards = Shards.join(where)
        if shards.rank > 0:
            os.environ["TP4_PROGRESS"] = "0"
        with ExitStack() as stack:
            shards.first(lambda: stack.enter_context(alone_in(out)))
            run(
                out=out,
                save_vectors_=not no_save_vectors,
                dtype=getattr(torch, dtype),
                device=where,
                shards=shards,
                **options,
            )
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
    parser.add_argument("--corpus", type=Path, required=True, help=f"text: {TEXT}")
    parser.add_argument("--out", type=Path, required=True, help="folder for vectors, metrics and checkpoints")
    parser.add_argument("--width", default="64", help="hidden width, or inf for the exact limit")
    parser.add_argument("--epochs", type=int, default=5, help="passes over the text")
    parser.add_argument("--lr", type=float, default=0.05, help="learning rate; falls linearly")
    parser.add_argument("--wd", type=float, default=1e-3, help="weight decay, at each touch of a row")
    parser.add_argument("--window", type=int, default=8, help="largest window")
    parser.add_argument("--negatives", choices=NEGATIVES, default="shared")
    parser.add_argument("--num-negatives", type=int, default=25, help="negatives a position sees")
    parser.add_argument("--batch-size", type=int, help="positions an SGD step")
    parser.add_argument("--shared-negatives", type=int, help="negatives a batch shares")
    parser.add_argument("--subsample", type=float, default=1e-4, help="threshold; 0 for none")
    parser.add_argument("--window-gradient", choices=GRADIENTS, default="mean", help="sum is gensim's")
    parser.add_argument("--min-count", type=int, default=5, help="leave out rarer words")
    parser.add_argument("--max-vocab", type=int, help="keep only so many words")
    parser.add_argument("--max-bytes", type=int, help="read only so much of the text")
    parser.add_argument("--questions", type=Path, help="analogy questions; gensim's if left out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=("float32", "float64", "bfloat16"), default="float32")
    parser.add_argument(
        "--device", default="auto", help="auto, cpu or cuda; by torchrun each rank takes its own"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of a single rank")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument("--no-save-vectors", action="store_true", help="write no vectors.bin")
    parser.add_argument("--save-dim", type=int, help="save so many principal coordinates")
    return parser


if __name__ == "__main__":
    main()
