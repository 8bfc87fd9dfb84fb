"""One run from a text to vectors and metrics: what ``tp4 word2vec`` and ``python -m tp4lib.word2vec`` do."""

import os
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tp4lib.base import files, results
from tp4lib.base.checks import whole
from tp4lib.base.errors import InputError
from tp4lib.data import catalogue as datasets
from tp4lib.data import provenance
from tp4lib.word2vec import analogies as analogy
from tp4lib.word2vec.checkpoints import CHECKPOINT
from tp4lib.word2vec.corpus import Corpus, open_text
from tp4lib.word2vec.model import columns_of, parse_width
from tp4lib.word2vec.shards import ALONE, Shards, reduced
from tp4lib.word2vec.training import Trained, train
from tp4lib.word2vec.vectors import save_vectors

CHECKPOINTS, VECTORS = "checkpoint*.npz", "vectors.bin"
TEXTS = ("text8", "fil9")  # data sets that can be named in place of a file


def run(
    corpus: Path,
    out: Path,
    *,
    width: str,
    min_count: int,
    max_vocab: int | None,
    max_bytes: int | None,
    questions: Path | None,
    device: torch.device,
    save_vectors_: bool,
    save_dim: int | None,
    resume: bool = False,
    shards: Shards = ALONE,
    **options: Any,
) -> dict[str, Any]:
    """Train, score after each epoch, and write ``out/vectors.bin`` and ``out/metrics.json``; return the metrics.

    Until all is there, the run works in ``out/unfinished``, and the files of the run before stay as they are
    (`tp4lib.base.results`).

    Args:
        corpus: text, words between spaces; plain, .xz, .gz, .bz2 or .zip; or the name of a data set, see `TEXTS`.
        width: a positive integer, or "inf".
        min_count, max_vocab, max_bytes: see `Corpus.load`.
        questions: None for gensim's questions-words.txt; without gensim nothing is asked.
        save_vectors_: whether to write the vectors; save_dim: in so many principal coordinates (`reduced`).
        resume: go on from the unfinished run in ``out``, or from the finished one.
        shards: the ranks that share the columns; the first one writes.
        options: of `tp4lib.word2vec.training.train`; ``epochs`` is needed.

    Raises:
        InputError: whatever is wrong with files, settings or memory; also after Ctrl-C, saying how to go on; and where
            ``out`` has an unfinished run and ``resume`` is not given.
    """
    n = parse_width(width)
    asked, asked_in = _questions(questions, speak=shards.rank == 0)
    source, corpus = _text(corpus, shards)
    with open_text(corpus):  # a wrong name is told before a folder is made for it
        pass
    with ExitStack() as stack:
        files.out_dir(out)  # a bad folder before long work
        working = results.working(out, "word2vec", checkpoints=CHECKPOINTS, others=(VECTORS,), resume=resume)
        work = shards.first(lambda: stack.enter_context(working))
        folder = out / results.UNFINISHED
        data = [provenance.source(each) for each in (source, asked_in) if each is not None]
        text = Corpus.load(corpus, min_count, max_vocab, max_bytes)
        columns = columns_of(len(text.vocab), n)
        if save_dim is not None:
            most = min(columns, len(text.vocab))
            whole("save_dim", save_dim, most=most, example=min(300, most))
        score = asked and partial(analogy.evaluate, vocab=text.vocab, questions=asked, shards=shards)
        try:
            done = train(
                text, n, **options, device=device, out=folder, resume=resume, shards=shards, evaluate=score
            )
        except KeyboardInterrupt:
            kept = CHECKPOINT if shards.size == 1 else "the checkpoint of every rank"
            raise InputError(
                f"interrupted; {folder / kept} is kept; go on with the same command and --resume"
            ) from None
        limits = {"min_count": min_count, "max_vocab": max_vocab, "max_bytes": max_bytes}
        threads = options.get("threads", 1)
        metrics = {
            **_metrics(done, text),
            **limits,
            "device": str(device),
            "threads": threads,
            "ranks": shards.size,
            "corpus": corpus.name,
            **provenance.record(seed=done.settings["seed"], device=device, threads=threads),
            "data": data,
        }
        embeddings, saved = done.model.embeddings, columns
        if save_dim is not None:
            embeddings, saved = reduced(embeddings, save_dim, shards), save_dim
            metrics["saved_columns"] = save_dim
            metrics["saved_accuracy"] = asked and analogy.evaluate(embeddings, text.vocab, asked).accuracy
        if save_vectors_:
            # Reduced rows are whole on every rank, others are gathered block by block.
            whole_rows = save_dim is not None or shards.size == 1
            if not whole_rows or shards.rank == 0:
                save_vectors(
                    folder / VECTORS, text.vocab.words, embeddings, saved, ALONE if whole_rows else shards
                )
        shards.wait()  # every rank has left its last checkpoint
        if work is not None:
            work.finish(metrics)
            print(
                f"{corpus.name}, width {width}, {len(text.vocab)} words: {_told(metrics)}, "
                f"{metrics['tokens_per_second']:,.0f} tokens/s; {out / results.METRICS}"
            )
    return metrics


def _text(corpus: Path, shards: Shards) -> tuple[datasets.Found | Path, Path]:
    """What to read, and the file that holds it: the file ``corpus``, else the data set of that name."""
    if str(corpus) not in TEXTS or os.path.lexists(corpus):
        return corpus, corpus
    found = shards.first(lambda: datasets.find(str(corpus))) or datasets.find_local(str(corpus))
    if shards.rank == 0:
        print(f"tp4: --corpus {corpus}: {found.describe()}", file=sys.stderr)
    return found, found.path


def _questions(
    path: Path | None, speak: bool
) -> tuple[analogy.Questions | None, datasets.Found | Path | None]:
    """The questions to ask, and where they are from; none, and a line on stderr, where gensim's are not installed."""
    if path is not None:
        return analogy.Questions.load(path), path
    datasets.named_folder()  # a wrong setting is to be corrected, not passed over
    try:
        found = datasets.find("questions")
    except InputError as error:
        if speak:
            print(f"tp4: {error}; going on without analogy questions, see --questions", file=sys.stderr)
        return None, None
    return analogy.Questions.load(found.path), found


def _metrics(done: Trained, text: Corpus) -> dict[str, Any]:
    """What was trained, on what, and how well; without questions the accuracy is None, of 0."""
    last, seconds = done.history[-1], sum(epoch["seconds"] for epoch in done.history)
    model = done.model
    return {
        "accuracy": last.get("accuracy"),
        "accuracy_unit": "percent of answered",
        "answered": last.get("answered", 0),
        "total": last.get("total", 0),
        "tokens_per_second": done.settings["epochs"] * len(text.ids) / seconds,
        "vocab_size": len(text.vocab),
        "width": done.settings["width"],
        "columns": columns_of(len(text.vocab), model.width),
        "raw_tokens": text.raw_tokens,
        "seconds": seconds,
        "history": done.history,
        "settings": done.settings,
    }


def _told(metrics: dict[str, Any]) -> str:
    if not metrics["total"]:
        return "no questions asked"
    return analogy.told(metrics["accuracy"], metrics["answered"], metrics["total"])
