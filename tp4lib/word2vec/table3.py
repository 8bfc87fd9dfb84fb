"""Several widths on one text: the experiment of Table 3 and Figure 1."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from tp4lib import __version__
from tp4lib.word2vec.analogies import asked_by
from tp4lib.word2vec.checkpoints import CHECKPOINT
from tp4lib.word2vec.corpus import Corpus
from tp4lib.word2vec.model import CBOW, columns_of, parse_width
from tp4lib.word2vec.training import Trained, train

KEPT = 4 << 30
"""Bytes of the largest checkpoint that is kept: beyond it training takes a GPU minutes, and two of them a disk."""


def train_widths(
    corpus: Corpus,
    widths: Iterable[int | float],
    folder: Path,
    *,
    evaluate: Callable[[torch.Tensor], Any] | None = None,
    device: str | torch.device = "auto",
    start_seed: int | None = None,
    **settings: Any,
) -> dict[int | float, Trained]:
    """Train one network per width on the same text, with the same windows and negatives.

    Each keeps its checkpoint in a folder of its own under ``folder``, named after its width and a digest of all that
    its numbers depend on: settings, text, questions, and the version of tp4. A run that was interrupted is resumed; a
    complete one is only read again.

    Args:
        start_seed: of the initialization of finite widths; then ``seed`` draws windows and negatives alone, so that
            several initializations can be compared with the one network of width infinity, all else held equal.
        folder: for checkpoints: 8 |V| x columns bytes per width, in float32; none of more than `KEPT`.
        evaluate, settings: as for `train`.
    """
    trained, dtype = {}, getattr(torch, str(settings.get("dtype", "float32")).removeprefix("torch."))
    for width in widths:
        what = [__version__, str(width), settings, corpus.vocab.digest, corpus.digest, asked_by(evaluate)]
        start = None
        if start_seed is not None and parse_width(width) != math.inf:
            what.append(start_seed)
            start = CBOW(len(corpus.vocab), width, start_seed, dtype, device)
        digest = hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:8]
        kept = 2 * len(corpus.vocab) * columns_of(len(corpus.vocab), width) * dtype.itemsize <= KEPT
        out = Path(folder) / f"width-{width}-{digest}" if kept else None
        resume = kept and (out / CHECKPOINT).is_file()
        trained[width] = train(
            corpus, width, evaluate=evaluate, device=device, start=start, out=out, resume=resume, **settings
        )
    return trained
