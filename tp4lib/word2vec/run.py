"""One run from a text to vectors and metrics: what ``tp4 word2vec`` and ``python -m tp4lib.word2vec`` do."""

import math
from pathlib import Path
from typing import Any

import torch

from tp4lib import datasets, files, provenance
from tp4lib.errors import InputError
from tp4lib.word2vec import analogy
from tp4lib.word2vec.cbow import columns_of, parse_width
from tp4lib.word2vec.checkpoints import CHECKPOINT
from tp4lib.word2vec.corpus import Corpus, open_text
from tp4lib.word2vec.shards import ALONE, Shards, reduced
from tp4lib.word2vec.train import train
from tp4lib.word2vec.vectors import save_vectors


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
    shards: Shards = ALONE,
    **options: Any,
) -> dict[str, Any]:
    """Train, score after each epoch, and write ``out/vectors.bin`` and ``out/metrics.json``; return the metrics.

    Args:
        corpus: text, words between spaces; plain, .xz, .gz, .bz2 or .zip.
        width: a positive integer, or "inf".
        min_count, max_vocab, max_bytes: see `Corpus.load`.
        questions: None for gensim's questions-words.txt.
        save_vectors_: whether to write the vectors; save_dim: in so many principal coordinates (`reduced`).
        shards: the ranks that share the columns; the first one writes.
        options: of `tp4lib.word2vec.train.train`; ``epochs`` is needed.

    Raises:
        InputError: whatever is wrong with files, settings or memory; also after Ctrl-C, saying how to go on.
    """
    n = parse_width(width)
    asked_in = questions or datasets.find("questions")
    asked = analogy.Questions.load(questions or asked_in.path)
    with open_text(
        corpus
    ):  # a wrong name is told before a folder is made for it, a bad folder before long work
        files.out_dir(out)
    text = Corpus.load(corpus, min_count, max_vocab, max_bytes)
    columns = columns_of(len(text.vocab), n)
    if save_dim is not None and not 1 <= save_dim <= min(columns, len(text.vocab)):
        raise InputError(
            f"--save-dim {save_dim} of {columns} columns; expected 1 to {min(columns, len(text.vocab))}; try "
            f"--save-dim {min(300, columns, len(text.vocab))}"
        )
    try:
        done = train(
            text,
            n,
            **options,
            device=device,
            out=out,
            shards=shards,
            evaluate=lambda embeddings: analogy.evaluate(embeddings, text.vocab, asked, shards),
        )
    except KeyboardInterrupt:
        kept = CHECKPOINT if shards.size == 1 else "the checkpoint of every rank"
        raise InputError(
            f"interrupted; {out / kept} is kept; go on with the same command and --resume"
        ) from None
    last, seconds = done.history[-1], sum(epoch["seconds"] for epoch in done.history)
    metrics = {
        "accuracy": last["accuracy"],
        "accuracy_unit": "percent of answered",
        "answered": last["answered"],
        "total": last["total"],
        "tokens_per_second": done.settings["epochs"] * len(text.ids) / seconds,
        "vocab_size": len(text.vocab),
        "width": "inf" if n == math.inf else n,
        "columns": columns,
        "raw_tokens": text.raw_tokens,
        "seconds": seconds,
        "device": str(device),
        "threads": options.get("threads", 1),
        "ranks": shards.size,
        "history": done.history,
        "settings": done.settings,
        "corpus": corpus.name,
        **provenance.record(
            seed=done.settings["seed"],
            data=[corpus, asked_in],
            device=device,
            threads=options.get("threads", 1),
        ),
    }
    embeddings, saved = done.model.embeddings, columns
    if save_dim is not None:
        embeddings, saved = reduced(embeddings, save_dim, shards), save_dim
        metrics["saved_columns"] = save_dim
        metrics["saved_accuracy"] = analogy.evaluate(embeddings, text.vocab, asked).accuracy
    if save_vectors_:
        # Reduced rows are whole on every rank, others are gathered block by block.
        whole = save_dim is not None or shards.size == 1
        if not whole or shards.rank == 0:
            save_vectors(out / "vectors.bin", text.vocab.words, embeddings, saved, ALONE if whole else shards)
    if shards.rank == 0:
        files.write_json(out / "metrics.json", metrics)
        print(
            f"{corpus.name}, width {width}, {len(text.vocab)} words: {last['accuracy']:.2f} % of {last['answered']} "
            f"questions ({last['total']} in all), {metrics['tokens_per_second']:,.0f} tokens/s; "
            f"{out / 'metrics.json'}"
        )
    return metrics
