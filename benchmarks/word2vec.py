"""Speed of Word2Vec side by side with gensim, in one process, on the same text.

    python benchmarks/word2vec.py wiki8.xz                          # the table, on this machine's CPU
    python benchmarks/word2vec.py wiki8.xz --device cuda --full     # width infinity, whole text, on a GPU

Window 8, 25 negatives, subsampling 1e-4. Tokens a second as gensim counts them: words of the text, in the vocabulary or
not, over the time of training alone. Runs alternate; the fastest of each counts. Both use gensim's gradient
(``window_gradient="sum"``), which costs us the same as the true one.
"""

import argparse
import platform
import time
from pathlib import Path

import gensim
import numpy as np
import torch

from tp4lib import datasets
from tp4lib.device import resolve
from tp4lib.files import write_json
from tp4lib.word2vec import Corpus, analogy
from tp4lib.word2vec.corpus import open_text
from tp4lib.word2vec.sampling import Sampler
from tp4lib.word2vec.train import train

SENTENCE = 10_000  # words; gensim takes no longer ones


def gensim_speed(path: Path, size: int, width: int, workers: int) -> float:
    """Words a second of one epoch of gensim."""
    with open_text(path) as file:
        words = file.read(size).decode().split()
    sentences = [words[i : i + SENTENCE] for i in range(0, len(words), SENTENCE)]
    model = gensim.models.Word2Vec(
        vector_size=width, window=8, negative=25, sample=1e-4, cbow_mean=1, sg=0, alpha=0.05, min_count=5,
        workers=workers,
    )  # fmt: skip
    model.build_vocab(sentences)
    started = time.perf_counter()
    model.train(sentences, total_examples=len(sentences), epochs=1)
    return len(words) / (time.perf_counter() - started)


def our_speed(corpus: Corpus, width: int | str, threads: int, device: str) -> float:
    """Words a second of one epoch of `tp4lib.word2vec`."""
    done = train(corpus, width, epochs=1, threads=threads, device=device, window_gradient="sum")
    return corpus.raw_tokens / done.history[0]["seconds"]


def table(path: Path, threads: int, repeat: int, device: str) -> list[dict]:
    rows = []
    for size, width in ((5_000_000, 64), (5_000_000, 256), (5_000_000, 1024), (1_000_000, "inf")):
        corpus = Corpus.load(path, max_bytes=size)
        columns = len(corpus.vocab) if width == "inf" else width
        our_speed(Corpus.load(path, max_bytes=100_000), min(columns, 64), threads, device)  # compile
        ours, theirs = [], []
        for _ in range(repeat):
            ours.append(our_speed(corpus, width, threads, device))
            theirs.append(gensim_speed(path, size, columns, threads))
        row = dict(width=width, columns=columns, bytes=size, tp4=max(ours), gensim=max(theirs))
        row["ratio"] = row["tp4"] / row["gensim"]
        rows.append(row)
        print(
            f"width {width!s:>5} ({columns} columns, first {size / 1e6:.0f} MB): tp4 {row['tp4']:>12,.0f} tokens/s, "
            f"gensim {row['gensim']:>12,.0f}, ratio {row['ratio']:.2f}",
            flush=True,
        )
    return rows


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second (read + written) of copying a large array."""
    source = torch.empty(1 << (28 if device.type == "cpu" else 30), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(5):
        started = time.perf_counter()
        target.copy_(source)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 2 * len(source) / (time.perf_counter() - started))
    return best


def rows_touched(corpus: Corpus, batch_size: int) -> float:
    """Rows that a batch reads and writes, per position."""
    sampler = Sampler(corpus.vocab, corpus.ids, batch_size=batch_size, shared=batch_size)
    rows = positions = 0
    for number in range(min(sampler.blocks, 8)):
        block = sampler.block(0, number)
        for i in range(block.batches):
            low, high = i * batch_size, min((i + 1) * batch_size, len(block))
            context = block.tokens[block.first[low:high].min() : block.last[low:high].max()]
            output = np.concatenate([block.tokens[low:high], block.negatives[i]])
            rows += len(np.unique(context)) + len(np.unique(output))
            positions += high - low
    return rows / positions


def full(path: Path, device: str, epochs: int, batch_size: int, max_vocab: int | None) -> dict:
    """Width infinity on the whole text: time, accuracy, and bandwidth for the bytes the method must move.

    These are the rows that a batch touches, each read once and written once, in float32.
    """
    where, corpus = resolve(device), Corpus.load(path, max_vocab=max_vocab)
    asked = analogy.Questions.load(datasets.find("questions").path)
    started = time.perf_counter()
    done = train(
        corpus,
        "inf",
        epochs=epochs,
        device=where,
        batch_size=batch_size,
        evaluate=lambda embeddings: analogy.evaluate(embeddings, corpus.vocab, asked),
    )
    wall = time.perf_counter() - started
    seconds = sum(epoch["seconds"] for epoch in done.history)
    sampler = Sampler(corpus.vocab, corpus.ids)
    positions = epochs * sum(len(sampler.block(0, k)) for k in range(sampler.blocks))
    moved = positions * rows_touched(corpus, batch_size) * 2 * 4 * len(corpus.vocab)
    result = dict(
        vocab_size=len(corpus.vocab), epochs=epochs, batch_size=batch_size, positions=positions, wall_seconds=wall,
        seconds=seconds, history=done.history, bytes_moved=moved, bandwidth=moved / seconds,
        copy_bandwidth=copy_bandwidth(where),
    )  # fmt: skip
    last = done.history[-1]
    print(
        f"width inf, |V| = {len(corpus.vocab)}, {epochs} epochs: {wall / 60:.1f} min, {last['accuracy']:.2f} % of "
        f"{last['answered']}; {result['bandwidth'] / 1e9:.0f} GB/s of {result['copy_bandwidth'] / 1e9:.0f} GB/s"
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--full", action="store_true", help="width infinity on the whole text")
    parser.add_argument("--epochs", type=int, default=15, help="of --full")
    parser.add_argument("--batch-size", type=int, default=256, help="of --full")
    parser.add_argument("--max-vocab", type=int, default=None, help="of --full")
    parser.add_argument("--out", type=Path, default=None, help="write the numbers to this JSON file")
    arguments = parser.parse_args()
    if arguments.full:
        result = full(
            arguments.corpus, arguments.device, arguments.epochs, arguments.batch_size, arguments.max_vocab
        )
    else:
        result = table(arguments.corpus, arguments.threads, arguments.repeat, arguments.device)
    if arguments.out:
        machine = dict(
            processor=platform.processor() or platform.machine(), threads=arguments.threads, device=arguments.device,
            python=platform.python_version(), torch=torch.__version__, gensim=gensim.__version__,
        )  # fmt: skip
        write_json(arguments.out, {"machine": machine, "result": result})


if __name__ == "__main__":
    main()
