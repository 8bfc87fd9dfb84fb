"""How near a step of Word2Vec comes to what this machine can do: its bytes and flops against measured rates.

    python benchmarks/roofline.py wiki8.xz --out benchmarks/results/word2vec_roofline.json

A batch of B positions and K negatives in n columns has to do 6 B K n flops for its scores (forward, and back to h and
to the negatives), and for contexts 2 n each for the words of its span and 10 B n for positions. It has to read and
write each row that it touches once. Steps cannot be faster than the larger of flops over the rate of matrix products
and bytes over the rate of copying; the rates are measured here, on as many threads, and the fraction is that bound
over the measured time. Where both matrices fit into the cache the bytes bound nothing: then "copy" is the cache's.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from tp4lib.base.errors import InputError, fail
from tp4lib.base.files import write_json
from tp4lib.word2vec import CBOW, Corpus
from tp4lib.word2vec.blocks import Block, Sampler
from tp4lib.word2vec.settings import StepSettings
from tp4lib.word2vec.steps.on_numba import load, numba_steps

CASES = ((20_000_000, 64), (20_000_000, 256), (20_000_000, 1024), (1_000_000, "inf"))
BATCH, NEGATIVES = 32, 24  # of `tp4 word2vec`


def rate(work: float, call, seconds: float = 0.5) -> float:
    """Work a second of a call, the fastest of those that fit into ``seconds``."""
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
    return work / best


def machine(size: int) -> dict[str, float]:
    """Flops a second of a matrix product, and bytes a second, read and written, of copying arrays of ``size`` bytes."""
    a, b = torch.rand(2, 1024, 1024)
    product = torch.empty_like(a)
    source = torch.rand(max(size // 4, 1))
    target = torch.empty_like(source)
    return {
        "flops": rate(2 * 1024**3, lambda: torch.mm(a, b, out=product)),
        "bytes": rate(8 * len(source), lambda: target.copy_(source)),
    }


def work(block: Block, columns: int) -> dict[str, float]:
    """Flops and bytes that a block has to take, by the module's account."""
    flops = moved = 0
    for i in range(block.batches):
        low, high = i * block.batch_size, min((i + 1) * block.batch_size, len(block))
        span = block.tokens[block.first[low:high].min() : block.last[low:high].max()]
        out = np.concatenate([block.tokens[low:high], block.negatives[i]])
        K = len(np.unique(block.negatives[i]))
        flops += (6 * (high - low) * K + 4 * len(span) + 10 * (high - low)) * columns
        moved += (len(np.unique(span)) + len(np.unique(out))) * 2 * 4 * columns
    return {"flops": flops, "bytes": moved}


def case(path: Path, size: int, width: int | str, blocks: int) -> dict:
    """The fraction at one width: the median over blocks."""
    corpus = Corpus.load(path, max_bytes=size)
    sampler = Sampler(corpus.vocab, corpus.ids, batch_size=BATCH, shared=NEGATIVES, epochs=5)
    model, cores = CBOW(len(corpus.vocab), width), torch.get_num_threads()
    load(model)
    here = machine(model.embeddings.numel() * 4)
    bounds, seconds = [], []
    for number in range(min(blocks, sampler.blocks)):
        block = sampler.block(0, number)
        started = time.perf_counter()
        numba_steps(model, block, StepSettings(), cores)
        seconds.append((time.perf_counter() - started) / block.batches)
        todo = work(block, model.columns)
        bounds.append([todo[kind] / here[kind] / block.batches for kind in ("flops", "bytes")])
    fractions = [max(bound) / took for bound, took in zip(bounds, seconds, strict=True)]
    flops, moved = np.median(bounds, axis=0).tolist()
    return dict(
        width=width, columns=model.columns, bytes=size, threads=cores, rates=here, step=statistics.median(seconds),
        step_by_flops=flops, step_by_bytes=moved, fraction=statistics.median(fractions), best=max(fractions),
        load=os.getloadavg()[0],
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--blocks", type=int, default=40, help="blocks of text at each width")
    parser.add_argument("--out", type=Path, default=None, help="write the numbers to this JSON file")
    arguments = parser.parse_args()
    rows = []
    try:
        for size, width in CASES:
            row = case(arguments.corpus, size, width, arguments.blocks)
            rows.append(row)
            print(
                f"width {width!s:>4} ({row['columns']} columns): {row['step'] * 1e6:.0f} us a step; at least "
                f"{row['step_by_flops'] * 1e6:.0f} by flops and {row['step_by_bytes'] * 1e6:.0f} by bytes: "
                f"{row['fraction']:.2f} of the bound, {row['best']:.2f} in the best block; load {row['load']:.1f}",
                flush=True,
            )
    except InputError as error:
        fail(str(error))
    if arguments.out:
        write_json(arguments.out, {"result": rows})


if __name__ == "__main__":
    main()
