"""Three studies of Word2Vec at every width, on a text small enough for a laptop.

    python benchmarks/word2vec_studies.py wiki8.xz rank     # which r directions does infinity need?
    python benchmarks/word2vec_studies.py wiki8.xz rate     # does the best learning rate move with the width?
    python benchmarks/word2vec_studies.py wiki8.xz storage  # what do 16 bits a parameter cost?

*rank*: training never leaves the span of the start, so that a start of r columns is the rank-r pi-limit. Three starts
of the same cost: r random directions (what a network of width r is), r orthonormal ones of the same mean square, and
the r leading directions of the trained limit (which has to be trained first: how well could a basis be chosen?).
Beside them, the spectrum of the limit's embeddings less their start.

*rate*: the loss after training against the learning rate, at several widths, in muP and in the standard parametrization
(embeddings of variance 1, readout 0, one rate for both).

*storage*: width infinity with parameters in float32 and in bfloat16, rounded stochastically.

What is already in ``benchmarks/results/word2vec_studies.json`` is not done again.
"""

import argparse
import json
import math
import shlex
import sys
from pathlib import Path

import torch

from tp4lib.base.errors import InputError
from tp4lib.base.files import out_dir, write_json
from tp4lib.data import catalogue as datasets
from tp4lib.word2vec import CBOW, Corpus
from tp4lib.word2vec import analogies as analogy
from tp4lib.word2vec.training import train

RESULT = Path(__file__).resolve().parent / "results" / "word2vec_studies.json"
TEXT = dict(max_bytes=15_000_000, max_vocab=3000)
TRAINING = dict(epochs=3, lr=0.05, seed=0)
RANKS = (16, 64, 256, 1024, 3000)
RATES = (0.003, 0.0125, 0.05, 0.2, 0.8)
WIDTHS = {"muP": (64, 256, 1024, math.inf), "SP": (64, 256, 1024)}


class Kept:
    """The rows of the result file, written after each run."""

    def __init__(self, study: str) -> None:
        self.study = study
        self.all = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
        self.rows = self.all.setdefault(study, [])

    def has(self, **key) -> bool:
        return any(all(row.get(k) == v for k, v in key.items()) for row in self.rows)

    def add(self, row: dict) -> None:
        self.rows.append(row)
        self.all |= {
            "command": shlex.join(["python", "benchmarks/word2vec_studies.py", *sys.argv[1:]]),
            "text": TEXT,
            "training": TRAINING,
        }
        write_json(out_dir(RESULT.parent) / RESULT.name, self.all)
        print(row, flush=True)


def scored(corpus: Corpus, asked, start: CBOW, **settings):
    """Train from a start: the model, and its last loss and accuracy."""
    done = train(
        corpus, start.width, start=start, **(TRAINING | settings), device="cpu",
        evaluate=lambda embeddings: analogy.evaluate(embeddings, corpus.vocab, asked),
    )  # fmt: skip
    last = done.history[-1]
    return done.model, {key: last[key] for key in ("loss", "accuracy", "answered")}


def rank_study(corpus: Corpus, asked) -> None:
    kept, words = Kept("rank"), len(corpus.vocab)
    limit, row = scored(corpus, asked, CBOW(words, "inf"))
    moved = torch.linalg.svdvals((limit.embeddings - torch.eye(words)).double())
    energy = moved.square().cumsum(0) / moved.square().sum()
    if not kept.has(start="infinity"):
        shares = {str(r): energy[min(r, words) - 1].item() for r in RANKS}
        kept.add({"start": "infinity", "rank": words, **row, "share_of_movement_in_leading": shares})
    directions = torch.linalg.svd(limit.embeddings)[2]  # right singular vectors, as rows
    basis = torch.linalg.qr(torch.randn(words, words, generator=torch.Generator().manual_seed(0)))[0]
    for rank in (r for r in RANKS if r < words):
        starts = {
            "random": lambda r: CBOW(words, r, seed=0).embeddings,
            "orthonormal": lambda r: basis[:, :r] * math.sqrt(words / r),
            "leading": lambda r: directions[:r].T.contiguous(),
        }
        for name, start in starts.items():
            if not kept.has(start=name, rank=rank):
                model, row = scored(corpus, asked, CBOW.from_start(start(rank)))
                # The function, on single words as context, beside the limit's.
                ours, theirs = (m.embeddings[:500] @ m.readout.T for m in (model, limit))
                row["deviation_of_scores"] = ((ours - theirs).norm() / theirs.norm()).item()
                kept.add({"start": name, "rank": rank, **row})


def rate_study(corpus: Corpus, asked) -> None:
    kept, words = Kept("rate"), len(corpus.vocab)
    for name, widths in WIDTHS.items():
        for width in widths:
            for rate in RATES:
                label = "inf" if width == math.inf else width
                if kept.has(parametrization=name, width=label, rate=rate):
                    continue
                start = CBOW(words, width, seed=0)
                if name == "SP":
                    start = CBOW.from_start(start.embeddings * math.sqrt(width))
                try:
                    _, row = scored(corpus, asked, start, lr=rate)
                except InputError:  # diverged
                    row = {"loss": None, "accuracy": None, "answered": None}
                kept.add({"parametrization": name, "width": label, "rate": rate, **row})


def storage_study(corpus: Corpus, asked) -> None:
    kept, words = Kept("storage"), len(corpus.vocab)
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        if not kept.has(storage=name):
            _, row = scored(corpus, asked, CBOW(words, "inf", dtype=dtype), dtype=dtype, engine="torch")
            kept.add({"storage": name, **row})


STUDIES = {"rank": rank_study, "rate": rate_study, "storage": storage_study}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("studies", nargs="*", help=f"{', '.join(STUDIES)}; all by default")
    args = parser.parse_args()
    if unknown := set(args.studies) - set(STUDIES):
        parser.error(f"unknown study {', '.join(unknown)}; expected {', '.join(STUDIES)}")
    corpus = Corpus.load(args.corpus, **TEXT)
    asked = analogy.Questions.load(datasets.find("questions").path)
    for study in args.studies or STUDIES:
        STUDIES[study](corpus, asked)


if __name__ == "__main__":
    main()
