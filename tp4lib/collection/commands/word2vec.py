"""``tp4 word2vec``: train CBOW with negative sampling on a text, at one width or at width infinity."""

import enum
from typing import Any

from tp4lib.base.files import alone_in
from tp4lib.collection.options import from_settings
from tp4lib.word2vec.settings import RunSettings


@from_settings(RunSettings)
def word2vec(**chosen: Any) -> None:
    """Train Word2Vec at one width or at width infinity.

    Its embeddings are scored on word analogies after each epoch. A line of text is no sentence: windows reach across
    line ends. A run works in --out/unfinished, and its files replace those of an earlier run when it is whole. On
    several GPUs: torchrun --nproc-per-node=N -m tp4lib.word2vec, with the same options.

    Example: tp4 word2vec --corpus text8 --width inf --max-vocab 5000 --out runs/w2v
    """
    # Here, as torch takes seconds, and not when only the help is asked for.
    from tp4lib.base import device as devices
    from tp4lib.word2vec.run import run

    settings = RunSettings(**{k: str(v) if isinstance(v, enum.StrEnum) else v for k, v in chosen.items()})
    with alone_in(settings.out):
        run(settings, devices.resolve(settings.device))
