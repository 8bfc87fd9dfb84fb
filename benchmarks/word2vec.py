"""Speed of Word2Vec side by side with gensim, in one process, on the same text.

    python benchmarks/word2vec.py wiki8.xz                          # the table, on this machine's CPU
    python benchmarks/word2vec.py wiki8.xz --whole                  # whole commands, from start to saved vectors
    python benchmarks/word2vec.py wiki8.xz --device cuda --full     # width infinity, whole text, on a GPU
    python benchmarks/word2vec.py wiki8.xz --full --dry-run         # what that has to move and to compute

Window 8, 25 negatives, subsampling 1e-4. Tokens a second as gensim counts them: words of the text, in the vocabulary or
not, over the time of training alone. Runs alternate; the fastest of each counts. Ours are three: the paper's gradient;
gensim's (``window_gradient="sum"``) with two negatives for each position, as accurate as gensim at widths 64 and 256;
and with three, the default (`word2vec_gensim.py`).
"""

import argparse
import json
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from tp4lib.base.device import resolve
from tp4lib.base.errors import InputError, fail
from tp4lib.base.files import write_json
from tp4lib.data import catalogue as datasets
from tp4lib.word2vec import Corpus
from tp4lib.word2vec import analogies as analogy
from tp4lib.word2vec.blocks import Sampler
from tp4lib.word2vec.checkpoints import CHECKPOINT
from tp4lib.word2vec.corpus import open_text
from tp4lib.word2vec.training import train

SENTENCE = 10_000  # words; gensim takes no longer ones
OURS = {
    "tp4": {},
    "tp4_sum": dict(window_gradient="sum"),
    "tp4_sum_64": dict(window_gradient="sum", batch_size=32, shared_negatives=64),
}


def gensim_speed(path: Path, size: int, width: int, workers: int) -> float:
    """Words a second of one epoch of gensim."""
    import gensim  # not needed on a bare GPU machine

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


def our_speed(corpus: Corpus, width: int | str, threads: int, device: str, options: dict) -> float:
    """Words a second of one epoch of `tp4lib.word2vec`."""
    done = train(corpus, width, epochs=1, threads=threads, device=device, **options)
    return corpus.raw_tokens / done.history[0]["seconds"]


def table(path: Path, threads: int, repeat: int, device: str) -> list[dict]:
    rows = []
    for size, width in ((5_000_000, 64), (5_000_000, 256), (5_000_000, 1024), (1_000_000, "inf")):
        corpus = Corpus.load(path, max_bytes=size)
        columns = len(corpus.vocab) if width == "inf" else width
        our_speed(Corpus.load(path, max_bytes=100_000), min(columns, 64), threads, device, {})  # compile
        speeds = {who: [] for who in (*OURS, "gensim")}
        for _ in range(repeat):
            for who, options in OURS.items():
                speeds[who].append(our_speed(corpus, width, threads, device, options))
            speeds["gensim"].append(gensim_speed(path, size, columns, threads))
        fastest = {who: max(seen) for who, seen in speeds.items()}
        ratios = {who: fastest[who] / fastest["gensim"] for who in OURS}
        rows.append(dict(width=width, columns=columns, bytes=size, **fastest, ratios=ratios))
        print(
            f"width {width!s:>5} ({columns} columns, first {size / 1e6:.0f} MB): gensim {fastest['gensim']:>9,.0f} "
            f"tokens/s; tp4 {fastest['tp4']:>9,.0f}, {ratios['tp4']:.2f} times; with gensim's gradient "
            f"{ratios['tp4_sum_64']:.2f} times (two negatives a position), {ratios['tp4_sum']:.2f} times (three)",
            flush=True,
        )
    return rows


GENSIM = """
import sys, time
from gensim.models import Word2Vec
from gensim.models.word2vec import Text8Corpus
sentences = list(Text8Corpus(sys.argv[1]))
model = Word2Vec(
    vector_size=int(sys.argv[2]), window=8, negative=25, sample=1e-4, cbow_mean=1, sg=0, alpha=0.05, min_count=5,
    workers=int(sys.argv[3]), epochs=5,
)
model.build_vocab(sentences)
started = time.perf_counter()
model.train(sentences, total_examples=len(sentences), epochs=5)
print(time.perf_counter() - started)
model.wv.save_word2vec_format(sys.argv[4], binary=True)
"""
TP4 = "from tp4lib.collection.cli import main; main()"
WHOLE = ((20_000_000, "64"), (20_000_000, "256"), (20_000_000, "1024"), (1_000_000, "inf"))


def whole(path: Path, repeat: int, only: list[str] | None) -> list[dict]:
    """Seconds of whole processes, one after the other in turn: ``tp4 word2vec`` with its defaults, and a script that
    trains gensim's Word2Vec on the same text for as many epochs, with a worker for each core, and saves the vectors.

    Ours also answers the analogies after each epoch, keeps a checkpoint and writes metrics.json; the script does not.
    ``steady`` compares the times of training alone, as both sides tell them. ``processor`` is the time of all cores: it
    says more than the seconds do where others work on the machine, too (``load`` is how many wanted to).
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        text, out = Path(folder, "text"), Path(folder, "out")
        for size, width in WHOLE:
            if only and width not in only:
                continue
            with open_text(path) as file:
                text.write_bytes(file.read(size))
            columns = len(Corpus.load(text).vocab) if width == "inf" else int(width)
            lines = {
                "tp4": ["-c", TP4, "word2vec", "--corpus", text, "--width", width, "--out", out],
                "gensim": ["-c", GENSIM, text, columns, torch.get_num_threads(), Path(folder, "gensim.bin")],
            }
            subprocess.run([sys.executable, *map(str, lines["tp4"]), "--epochs", "1"], check=True)  # compiles
            seconds, training, processor = ({who: [] for who in lines} for _ in range(3))
            for _ in range(repeat):
                for who, line in lines.items():
                    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
                    done = subprocess.run(
                        [sys.executable, *map(str, line)], check=True, stdout=subprocess.PIPE, text=True
                    )
                    seconds[who].append(time.perf_counter() - started)
                    used = resource.getrusage(resource.RUSAGE_CHILDREN)
                    processor[who].append(used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime)
                    told = (
                        json.loads((out / "metrics.json").read_text())["seconds"]
                        if who == "tp4"
                        else done.stdout
                    )
                    training[who].append(float(told))
            middle = {who: statistics.median(seen) for who, seen in seconds.items()}
            steady = {who: statistics.median(seen) for who, seen in training.items()}
            work = {who: statistics.median(seen) for who, seen in processor.items()}
            row = dict(
                width=width, columns=columns, bytes=size, seconds=seconds, training=training, processor=processor,
                ratio=middle["gensim"] / middle["tp4"], steady=steady["gensim"] / steady["tp4"],
                load=os.getloadavg()[0],
            )  # fmt: skip
            rows.append(row)
            print(
                f"width {width:>4}, {size / 1e6:.0f} MB: gensim {middle['gensim']:.1f} s, tp4 {middle['tp4']:.1f} s, "
                f"{row['ratio']:.2f} times; training alone {steady['gensim']:.1f} and {steady['tp4']:.1f} s, "
                f"{row['steady']:.2f} times; of the processor {work['gensim']:.1f} and {work['tp4']:.1f} s; "
                f"load {row['load']:.1f}",
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


def gpu_name(device: str) -> str | None:
    return torch.cuda.get_device_name(device) if torch.cuda.is_available() and device != "cpu" else None


@dataclass(frozen=True)
class Work:
    """What one epoch of a run has to do, counted on some of its blocks.

    Attributes:
        positions: after subsampling.
        rows: rows of either matrix that a batch touches, per position.
        seconds: of drawing one block.
    """

    positions: float
    rows: float
    seconds: float

    @classmethod
    def count(cls, corpus: Corpus, batch_size: int, shared: int, blocks: int = 24) -> "Work":
        sampler = Sampler(corpus.vocab, corpus.ids, batch_size=batch_size, shared=shared)
        numbers = np.unique(np.linspace(0, sampler.blocks - 1, blocks).astype(int))
        rows = positions = tokens = 0
        seconds = 0.0
        for number in numbers.tolist():
            started = time.perf_counter()
            block = sampler.block(0, number)
            seconds += time.perf_counter() - started
            tokens += sampler.block_size(number)
            positions += len(block)
            for i in range(block.batches):
                low, high = i * batch_size, min((i + 1) * batch_size, len(block))
                context = block.tokens[block.first[low:high].min() : block.last[low:high].max()]
                output = np.concatenate([block.tokens[low:high], block.negatives[i]])
                rows += len(np.unique(context)) + len(np.unique(output))
        return cls(positions * len(corpus.ids) / tokens, rows / positions, seconds / len(numbers))


def full(args: argparse.Namespace) -> dict:
    """Width infinity on the whole text: time, accuracy, and bandwidth for the bytes the method must move.

    These are the rows that a batch touches, each read once and written once. Training and evaluation are timed apart;
    a short run on the first 100 kB, which compiles, is not timed. With ``--dry-run`` the bytes and operations alone.
    """
    dtype, corpus = (
        getattr(torch, args.dtype),
        Corpus.load(args.corpus, max_vocab=args.max_vocab, max_bytes=args.max_bytes),
    )
    shared = args.shared_negatives
    work, n = Work.count(corpus, args.batch_size, shared), len(corpus.vocab)
    positions = args.epochs * work.positions
    moved = positions * work.rows * 2 * dtype.itemsize * n
    result = dict(
        vocab_size=n, epochs=args.epochs, batch_size=args.batch_size, shared_negatives=shared, dtype=args.dtype,
        positions=positions, rows_per_position=work.rows, bytes_moved=moved, bytes_parameters=2 * n * n * dtype.itemsize,  # noqa: E501
        operations=positions * 6 * shared * n,
    )  # fmt: skip
    print(
        f"width inf, |V| = {n}, {args.epochs} epochs, batches of {args.batch_size} with {shared} negatives, "
        f"{args.dtype}: parameters {result['bytes_parameters'] / 2**30:.2f} GiB, {positions:.3g} positions, "
        f"{work.rows:.2f} rows each; must move {moved:.3g} bytes and do {result['operations']:.3g} operations for scores; at 2.4 and 4 TB/s "  # noqa: E501
        f"{moved / 2.4e12 / 60:.2g} and {moved / 4e12 / 60:.2g} minutes",
        flush=True,
    )
    if args.dry_run:
        return result
    where = resolve(args.device)
    asked = analogy.Questions.load(datasets.find("questions").path)
    options = dict(
        device=where, dtype=dtype, batch_size=args.batch_size, shared_negatives=shared, threads=args.threads,
        engine=args.engine,
    )  # fmt: skip
    warm = Corpus.load(args.corpus, max_bytes=100_000)
    train(warm, "inf", epochs=1, **options)
    evaluation = []

    def evaluate(embeddings: torch.Tensor):
        started = time.perf_counter()
        score = analogy.evaluate(embeddings, corpus.vocab, asked)
        evaluation.append(time.perf_counter() - started)
        return score

    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
    checkpoint = args.out_dir and (args.out_dir / CHECKPOINT).exists()
    started = time.perf_counter()
    done = train(
        corpus, "inf", epochs=args.epochs, **options, evaluate=evaluate, out=args.out_dir, resume=bool(checkpoint)
    )  # fmt: skip
    wall = time.perf_counter() - started
    seconds = sum(epoch["seconds"] for epoch in done.history)
    copy = copy_bandwidth(where)
    result |= dict(
        resumed=bool(checkpoint), wall_seconds=wall, training_seconds=seconds, evaluation_seconds=evaluation,
        history=done.history, bandwidth=moved / seconds, copy_bandwidth=copy,
        peak_memory=torch.cuda.max_memory_allocated(where) if where.type == "cuda" else None,
    )  # fmt: skip
    last = done.history[-1]
    print(
        f"training {seconds / 60:.2f} min, evaluation {sum(evaluation):.1f} s, all {wall / 60:.2f} min"
        f"{' (resumed: of this part)' if checkpoint else ''}; {last['accuracy']:.2f} % of {last['answered']}; "
        f"{moved / seconds / 1e9:.1f} GB/s of {copy / 1e9:.1f} GB/s, {100 * moved / seconds / copy:.0f} %"
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
    parser.add_argument("--out", type=Path, default=None, help="write the numbers to this JSON file")
    parser.add_argument("--whole", action="store_true", help="whole commands, beside a script of gensim's")
    parser.add_argument("--widths", nargs="+", help="of --whole: 64, 256, 1024, inf")
    of_full = parser.add_argument_group("of --full")
    of_full.add_argument("--dry-run", action="store_true", help="count bytes and operations, train nothing")
    of_full.add_argument("--epochs", type=int, default=15)
    of_full.add_argument("--batch-size", type=int, default=256)
    of_full.add_argument("--shared-negatives", type=int, default=128)
    of_full.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    of_full.add_argument("--engine", choices=("auto", "triton", "torch", "numba"), default="auto")
    of_full.add_argument("--max-vocab", type=int, default=None)
    of_full.add_argument("--max-bytes", type=int, default=None)
    of_full.add_argument(
        "--out-dir", type=Path, default=None, help="checkpoints; a run that was cut short goes on from them"
    )
    arguments = parser.parse_args()
    try:
        measure(arguments)
    except InputError as error:
        fail(str(error))


def measure(arguments: argparse.Namespace) -> None:
    """Run what was asked for, and write it down."""
    if arguments.full:
        result = full(arguments)
    elif arguments.whole:
        result = whole(arguments.corpus, arguments.repeat, arguments.widths)
    else:
        result = table(arguments.corpus, arguments.threads, arguments.repeat, arguments.device)
    if arguments.out:
        machine = dict(
            processor=platform.processor() or platform.machine(), threads=arguments.threads, device=arguments.device,
            python=platform.python_version(), torch=torch.__version__, gpu=gpu_name(arguments.device),
            gensim=metadata.version("gensim") if not arguments.full else None,
        )  # fmt: skip
        command = shlex.join(["python", "benchmarks/word2vec.py", *sys.argv[1:]])
        write_json(arguments.out, {"command": command, "machine": machine, "result": result})


if __name__ == "__main__":
    main()
