"""Why gensim's analogies differ from the paper's: its differences, undone one after another, on the same text.

    python benchmarks/word2vec_gensim.py wiki8.xz --out benchmarks/results/word2vec_gensim.json

Runs go from the default of ``tp4 word2vec`` to gensim itself; each changes one thing of the one before. The last two
are what ``tp4 word2vec`` offers to those who want gensim's gradient: its default, and fewer draws. Every run that is
finished is written down; started again, the rest is done. Ours take one thread, so that they repeat to the bit.
"""

import argparse
import json
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from tp4lib.base.errors import InputError, fail
from tp4lib.base.files import write_json
from tp4lib.data import catalogue as datasets
from tp4lib.word2vec import CBOW, Corpus
from tp4lib.word2vec import analogies as analogy
from tp4lib.word2vec.training import train

SENTENCE = 10_000  # words; gensim takes no longer ones
PER_POSITION = dict(negatives="per-position")
RUNS = {
    "tp4": {},
    "per-position negatives": PER_POSITION,
    "whole error to each context word": PER_POSITION | dict(window_gradient="sum"),
    "no weight decay": PER_POSITION | dict(window_gradient="sum", wd=0.0),
    "small start": PER_POSITION | dict(window_gradient="sum", wd=0.0, start=True),
    "gensim": None,
    "tp4 --window-gradient sum": dict(window_gradient="sum"),
    "tp4 --window-gradient sum --shared-negatives 64": dict(window_gradient="sum", shared_negatives=64),
}


def small_start(words: int, width: int, seed: int) -> CBOW:
    """gensim's start: embeddings uniform in +-1/(2n) in place of +-sqrt(3/n)."""
    draw = np.random.default_rng(seed).random((words, width), dtype=np.float32)
    return CBOW.from_start(torch.from_numpy((draw - 0.5) / width))


def ours(corpus: Corpus, width: int, options: dict, epochs: int, seed: int, score) -> dict:
    options = dict(options)
    if options.pop("start", False):
        options["start"] = small_start(len(corpus.vocab), width, seed)
    done = train(corpus, width, epochs=epochs, seed=seed, device="cpu", evaluate=score, **options)
    last = done.history[-1]
    curve = [epoch["accuracy"] for epoch in done.history]
    return dict(accuracy=last["accuracy"], answered=last["answered"], by_epoch=curve, loss=last["loss"])


def gensim(corpus: Corpus, width: int, workers: int, epochs: int, seed: int, score) -> dict:
    """gensim's CBOW with the paper's window, negatives, subsampling and rate, scored by our analogies."""
    from gensim.models import Word2Vec

    words = np.array(corpus.vocab.words, dtype=object)[np.asarray(corpus.ids)]
    sentences = [words[i : i + SENTENCE].tolist() for i in range(0, len(words), SENTENCE)]
    del words
    model = Word2Vec(
        sentences, vector_size=width, window=8, negative=25, sample=1e-4, cbow_mean=1, sg=0, alpha=0.05, min_count=1,
        workers=workers, epochs=epochs, seed=seed,
    )  # fmt: skip
    result = score(torch.from_numpy(model.wv[corpus.vocab.words]))
    return dict(accuracy=result.accuracy, answered=result.answered)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="of gensim")
    parser.add_argument("--max-bytes", type=int, default=None)
    parser.add_argument("--out", type=Path, required=True, help="the numbers, after each run")
    arguments = parser.parse_args()
    try:
        measure(arguments)
    except InputError as error:
        fail(str(error))


def measure(arguments: argparse.Namespace) -> None:
    corpus = Corpus.load(arguments.corpus, max_bytes=arguments.max_bytes)
    asked = analogy.Questions.load(datasets.find("questions").path)
    common = dict(epochs=arguments.epochs, seed=arguments.seed)
    about = dict(
        corpus=corpus.digest[:16], vocab_size=len(corpus.vocab), gensim=metadata.version("gensim"), **common
    )
    runs = []
    if arguments.out.exists():
        kept = json.loads(arguments.out.read_text())
        if {key: kept.get(key) for key in about} != about:
            raise InputError(
                f"{arguments.out} holds runs of other settings; expected {about}; give another --out"
            )
        runs = kept["runs"]

    def score(embeddings):
        return analogy.evaluate(embeddings, corpus.vocab, asked)

    for width in arguments.widths:
        for change, options in RUNS.items():
            if any(run["width"] == width and run["change"] == change for run in runs):
                continue
            started = time.perf_counter()
            if options is None:
                row = gensim(corpus, width, arguments.workers, **common, score=score)
            else:
                row = ours(corpus, width, options, **common, score=score)
            row = dict(width=width, change=change, seconds=time.perf_counter() - started, **row)
            runs.append(row)
            write_json(arguments.out, {**about, "runs": runs})
            print(
                f"width {width}, {change}: {row['accuracy']:.2f} % of {row['answered']:,} in {row['seconds']:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
