"""One run from a text to vectors and metrics: what ``tp4 word2vec`` and ``python -m tp4lib.word2vec`` do."""

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
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
from tp4lib.word2vec.model import CBOW, columns_of, parse_width
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
        InputError: also after Ctrl-C, saying how to go on.
    """
    n, out, cores = parse_width(settings.width), settings.out, settings.threads or torch.get_num_threads()
    asked, asked_in = _questions(settings.questions, speak=shards.rank == 0)
    source, path = _text(settings.corpus, shards)
    with open_text(path):  # a wrong name is reported before a folder is made for it
        pass
    with ExitStack() as stack:
        files.out_dir(out)  # a bad folder before long work
        names = dict(checkpoints=CHECKPOINTS, others=(VECTORS,))
        working = results.working(out, "word2vec", **names, resume=settings.resume)
        work = shards.first(lambda: stack.enter_context(working))
        folder = out / results.UNFINISHED
        data = [provenance.source(each) for each in (source, asked_in) if each is not None]
        text = Corpus.load(path, **settings.reading)
        if settings.save_dim is not None:
            most = min(columns_of(len(text.vocab), n), len(text.vocab))
            whole("save_dim", settings.save_dim, most=most, example=min(300, most))
        _rehearse(settings, asked, device, folder, shards)
        if settings.save_vectors:
            columns = settings.save_dim or columns_of(len(text.vocab), n)
            files.require_disk(4 * len(text.vocab) * columns, folder, VECTORS, "try --save-dim 300")
        done, score = _train(settings, text, asked, device, folder, shards)
        metrics = {
            **_metrics(done, text),
            **settings.reading,
            "threads": cores,
            "device": str(device),
            "ranks": shards.size,
            "corpus": path.name,
            **provenance.record(seed=done.settings["seed"], device=device, threads=cores),
            "data": data,
            "sections": {each.name: vars(each) for each in score.sections} if score else {},
        }
        metrics |= _save(done, text, settings, asked, folder / VECTORS)
        shards.wait()  # every rank has left its last checkpoint
        if work is not None:
            work.finish(metrics)
            print(*_said(metrics, text, out), sep="\n")
    return metrics


def _train(
    settings: RunSettings,
    text: Corpus,
    asked: analogy.Questions | None,
    device: torch.device,
    folder: Path,
    shards: Shards,
) -> tuple[Trained, analogy.Accuracy | None]:
    """The trained network and its last score."""
    scores: list[analogy.Accuracy] = []
    score = asked and partial(_score, scores, vocab=text.vocab, questions=asked, shards=shards)
    try:
        done = train(
            text, settings.width, **(settings.training | {"device": device}), shards=shards, evaluate=score,
            out=folder if settings.checkpoints else None, resume=settings.resume,
        )  # fmt: skip
    except KeyboardInterrupt:
        kept = CHECKPOINT if shards.size == 1 else "the checkpoint of every rank"
        go_on = f"{folder / kept} is kept; go on with the same command and --resume"
        if not settings.checkpoints:
            go_on = "there is no checkpoint; start again"
        raise InputError(f"interrupted; {go_on}") from None
    if score and not scores:  # the run had come to its last score before it was resumed
        score(done.model.embeddings)
    return done, scores[-1] if scores else None


def _rehearse(
    settings: RunSettings, asked: analogy.Questions | None, device: torch.device, folder: Path, shards: Shards
) -> None:
    """Score and save a few vectors, so that what fails at the end of a run on this machine fails before its start."""
    few = Corpus.from_words([f"word{i}" for i in range(max(3, shards.size))])
    model = CBOW(len(few.vocab), "inf", dtype=getattr(torch, settings.dtype), device=device, shards=shards)
    if asked is not None:
        analogy.evaluate(model.embeddings, vocab=few.vocab, questions=asked, shards=shards)
    small = replace(settings, save_dim=None if settings.save_dim is None else 1)
    rehearsal = folder / "rehearsal.bin"
    try:
        _save(Trained(model, [], {}), few, small, asked, rehearsal)
    finally:
        if shards.rank == 0:
            rehearsal.unlink(missing_ok=True)


def _save(
    done: Trained, text: Corpus, settings: RunSettings, asked: analogy.Questions | None, vectors: Path
) -> dict[str, Any]:
    """Write the vectors, if they are wanted; returns the metrics of vectors that were reduced."""
    model, words, dim = done.model, text.vocab.words, settings.save_dim
    if dim is None:
        if settings.save_vectors:
            save_vectors(vectors, words, model.embeddings, columns_of(len(words), model.width), model.shards)
        return {}
    few = reduced(model.embeddings, dim, model.shards)  # whole rows, on every rank
    if settings.save_vectors and model.shards.rank == 0:
        save_vectors(vectors, words, few)
    accuracy = asked and analogy.evaluate(few, text.vocab, asked).accuracy
    return {"saved_columns": dim, "saved_accuracy": accuracy}


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
    return {
        "accuracy": last.get("accuracy"),
        "accuracy_unit": "percent of answered",
        "answered": last.get("answered", 0),
        "total": last.get("total", 0),
        "tokens_per_second": done.settings["epochs"] * len(text.ids) / seconds,
        "vocab_size": len(text.vocab),
        "width": done.settings["width"],
        "columns": columns_of(len(text.vocab), done.model.width),
        "raw_tokens": text.raw_tokens,
        "seconds": seconds,
        "history": done.history,
        "settings": done.settings,
    }


def _score(scores: list[analogy.Accuracy], embeddings: torch.Tensor, **asked: Any) -> analogy.Accuracy:
    """`analogy.evaluate`, remembered."""
    scores.append(analogy.evaluate(embeddings, **asked))
    return scores[-1]


def _said(metrics: dict[str, Any], text: Corpus, out: Path) -> Iterator[str]:
    """The lines of the final report: accuracy, analogies by category, the vectors and how to load them."""
    asked = "no questions asked"
    if metrics["total"]:
        asked = analogy.told(metrics["accuracy"], metrics["answered"], metrics["total"])
    yield (
        f"{metrics['corpus']}, width {metrics['width']}, {len(text.vocab)} words: {asked}, "
        f"{metrics['tokens_per_second']:,.0f} tokens/s; {out / results.METRICS}"
    )
    told = [f"{name} {each['correct']}/{each['answered']}" for name, each in metrics["sections"].items()
            if each["answered"]]  # fmt: skip
    if told:
        yield f"analogies by category: {', '.join(told)}"
    if (vectors := out / VECTORS).exists():
        yield f"vectors: {vectors}; to load them, in Python:"
        yield "    from gensim.models import KeyedVectors"
        yield f"    vectors = KeyedVectors.load_word2vec_format({str(vectors)!r}, binary=True)"
        word = text.vocab.words[min(100, len(text.vocab) - 1)]
        yield f"nearest words: {shlex.join(['tp4', 'neighbours', str(out), word])}"
