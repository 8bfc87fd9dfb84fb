"""``tp4 word2vec``: train CBOW with negative sampling on a text, at one width or at width infinity."""

import enum
from pathlib import Path
from typing import Annotated

import typer

from tp4lib.base.files import alone_in


class Negatives(enum.StrEnum):
    """Who shares negatives."""

    shared = "shared"
    per_position = "per-position"


class WindowGradient(enum.StrEnum):
    """What a context word receives of the error: 1/|C| of it (the true gradient), or all (gensim's)."""

    mean = "mean"
    sum = "sum"


class Dtype(enum.StrEnum):
    """Of the parameters."""

    float32 = "float32"
    float64 = "float64"
    bfloat16 = "bfloat16"


def word2vec(
    corpus: Annotated[
        Path,
        typer.Option(help="Text, plain or packed (.xz, .gz, .bz2, .zip); or text8 or fil9, which are found."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for vectors.bin, metrics.json and the checkpoint.")],
    width: Annotated[str, typer.Option(help="Hidden width, or inf for the exact limit.")] = "64",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the text.")] = 5,
    lr: Annotated[float, typer.Option(help="Learning rate; falls linearly to 1e-4 of itself.")] = 0.05,
    wd: Annotated[float, typer.Option(help="Weight decay, at each touch of a row.")] = 1e-3,
    window: Annotated[int, typer.Option(min=1, help="Largest window.")] = 8,
    negatives: Annotated[
        Negatives, typer.Option(help="Shared by a batch, or fresh ones per position (the paper's).")
    ] = Negatives.shared,
    num_negatives: Annotated[int, typer.Option(min=1, help="Negatives a position sees.")] = 25,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Positions an SGD step.")] = None,
    shared_negatives: Annotated[int | None, typer.Option(min=1, help="Negatives a batch shares.")] = None,
    subsample: Annotated[float, typer.Option(min=0, help="Subsampling threshold; 0 for none.")] = 1e-4,
    window_gradient: Annotated[
        WindowGradient, typer.Option(help="mean (true gradient) or sum (gensim's).")
    ] = WindowGradient.mean,
    min_count: Annotated[int, typer.Option(min=1, help="Leave out rarer words.")] = 5,
    max_vocab: Annotated[int | None, typer.Option(min=2, help="Keep only so many words.")] = None,
    max_bytes: Annotated[int | None, typer.Option(min=1, help="Read only so much of the text.")] = None,
    questions: Annotated[
        Path | None, typer.Option(help="Analogy questions; default questions-words.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Of the start, the windows and the negatives.")
    ] = 0,
    dtype: Annotated[
        Dtype, typer.Option(help="Of the parameters; bfloat16 is half the memory.")
    ] = Dtype.float32,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads; 1 gives the same bits each time.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    save: Annotated[bool, typer.Option("--save-vectors/--no-save-vectors", help="Write vectors.bin.")] = True,
    save_dim: Annotated[
        int | None, typer.Option(min=1, help="Save the vectors in so many principal coordinates.")
    ] = None,
) -> None:
    """Train Word2Vec at one width or at width infinity.

    Its embeddings are scored on word analogies after each epoch. A line of text is no sentence: windows reach across
    line ends. A run works in --out/unfinished, and its files replace those of an earlier run when it is whole. On
    several GPUs: torchrun --nproc-per-node=N -m tp4lib.word2vec, with the same options.

    Example: tp4 word2vec --corpus text8 --width inf --max-vocab 5000 --out runs/w2v
    """
    import torch  # here, as it takes seconds, and not when only the help is asked for

    from tp4lib.base import device as devices
    from tp4lib.word2vec.run import run

    with alone_in(out):
        run(
            corpus, out, width=width, min_count=min_count, max_vocab=max_vocab, max_bytes=max_bytes,
            questions=questions, device=devices.resolve(device), save_vectors_=save, save_dim=save_dim,
            epochs=epochs, lr=lr, wd=wd, window=window, negatives=negatives.value, num_negatives=num_negatives,
            batch_size=batch_size, shared_negatives=shared_negatives, subsample=subsample,
            window_gradient=window_gradient.value,
            seed=seed, dtype=getattr(torch, dtype.value), threads=threads, resume=resume,
        )  # fmt: skip
