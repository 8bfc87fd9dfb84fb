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
from tp4lib.base.text import open_text
from tp4lib.data import catalogue as datasets
from tp4lib.data import provenance
from tp4lib.word2vec import analogies as analogy
from tp4lib.word2vec.checkpoints import CHECKPOINT
from tp4lib.word2vec.corpus import Corpus
from tp4lib.word2vec.model import columns_of, parse_width
from tp4lib.word2vec.settings import RunSettings
from tp4lib.word2vec.shards import ALONE, Shards, reduced
from tp4lib.word2vec.training import Trained, train
from tp4lib.word2vec.vectors import save_vectors

CHECKPOINTS, VECTORS = "checkpoint*.npz", "vectors.bin"
TEXTS = ("text8", "fil9")  # data sets that can be named in place of a file


def run(settings: RunSettings, device: torch.device, shards: Shards = ALONE) -> dict[str, Any]:
    """Train, score after each epoch, and write ``out/vectors.bin`` and ``out/metrics.json``; return the metrics.

    Until all is there, the run works in ``out/unfinished``, and the files of the run before stay as they are
    (`tp4lib.base.results`).

    Args:
        device: the one that ``settings.device`` names, or this rank's.
        shards: the ranks that share the columns; the first one writes.

    Raises:
        InputError: whatever is wrong with files, settings or memory; also after Ctrl-C, saying how to go on; and where
            ``out`` has an unfinished run and ``resume`` is not given.
    """
    n, out, cores = parse_width(settings.width), settings.out, settings.threads or torch.get_num_threads()
    asked, asked_in = _questions(settings.questions, speak=shards.rank == 0)
    source, path = _text(settings.corpus, shards)
    with open_text(path):  # a wrong name is told before a folder is made for it
        pass
    with ExitStack() as stack:
        files.out_dir(out)  # a bad folder before long work
        working = results.working(
            out, "word2vec", checkpoints=CHECKPOINTS, others=(VECTORS,), resume=settings.resume
        )
        work = shards.first(lambda: stack.enter_context(working))
        folder = out / results.UNFINISHED
        data = [provenance.source(each) for each in (source, asked_in) if each is not None]
        text = Corpus.load(path, settings.min_count, settings.max_vocab, settings.max_bytes)
        if settings.save_dim is not None:
            most = min(columns_of(len(text.vocab), n), len(text.vocab))
            whole("save_dim", settings.save_dim, most=most, example=min(300, most))
        score = asked and partial(analogy.evaluate, vocab=text.vocab, questions=asked, shards=shards)
        try:
            done = train(
                text, n, **(settings.training | {"device": device}), out=folder, resume=settings.resume,
                shards=shards, evaluate=score,
            )  # fmt: skip
        except KeyboardInterrupt:
            kept = CHECKPOINT if shards.size == 1 else "the checkpoint of every rank"
            raise InputError(
                f"interrupted; {folder / kept} is kept; go on with the same command and --resume"
            ) from None
        metrics = {
            **_metrics(done, text),
            **{name: getattr(settings, name) for name in ("min_count", "max_vocab", "max_bytes")},
            "threads": cores,
            "device": str(device),
            "ranks": shards.size,
            "corpus": path.name,
            **provenance.record(seed=done.settings["seed"], device=device, threads=cores),
            "data": data,
        }
        metrics |= _save(done, text, settings, asked, folder, shards)
        shards.wait()  # every rank has left its last checkpoint
        if work is not None:
            work.finish(metrics)
            name = f"{path.name}, width {settings.width}, {len(text.vocab)} words"
            speed = f"{metrics['tokens_per_second']:,.0f} tokens/s"
            print(f"{name}: {_told(metrics)}, {speed}; {out / results.METRICS}")
    return metrics


def _save(
    done: Trained,
    text: Corpus,
    settings: RunSettings,
    asked: analogy.Questions | None,
    folder: Path,
    shards: Shards,
) -> dict[str, Any]:
    """Write the vectors, where they are wanted; what the metrics say of vectors that were reduced."""
    embeddings, columns, told = done.model.embeddings, columns_of(len(text.vocab), done.model.width), {}
    if settings.save_dim is not None:
        embeddings, columns = reduced(embeddings, settings.save_dim, shards), settings.save_dim
        told["saved_columns"] = columns
        told["saved_accuracy"] = asked and analogy.evaluate(embeddings, text.vocab, asked).accuracy
    # Reduced rows are whole on every rank, others are gathered block by block.
    whole_rows = settings.save_dim is not None or shards.size == 1
    if settings.save_vectors and (shards.rank == 0 or not whole_rows):
        holders = ALONE if whole_rows else shards
        save_vectors(folder / VECTORS, text.vocab.words, embeddings, columns, holders)
    return told


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
