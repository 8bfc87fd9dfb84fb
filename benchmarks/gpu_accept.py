"""The first half hour on a new GPU: what has to be right, then what has to be fast; one command, one JSON file.

    python benchmarks/gpu_accept.py                  # everything; what the file already has is not done again
    python benchmarks/gpu_accept.py --list           # the steps, what each should show, and how long it may take
    python benchmarks/gpu_accept.py --only triton    # steps whose name begins so; they are done again
    python benchmarks/gpu_accept.py --small          # a rehearsal at toy sizes, on any machine; judges no times

The steps come in the order in which a failure would spoil those after it. Each writes what it measured, what was
expected and whether it holds, before the next begins: a lost machine loses one step. The full text (wiki8, for
`full_run`) and Omniglot (for `table2`) are found as everywhere: TP4_DATA, or the data folder.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tp4lib.base.device import resolve
from tp4lib.base.errors import InputError, fail
from tp4lib.base.files import write_json
from tp4lib.base.paths import runs_dir
from tp4lib.word2vec import CBOW, Corpus
from tp4lib.word2vec.blocks import Sampler
from tp4lib.word2vec.settings import StepSettings
from tp4lib.word2vec.steps import on_triton
from tp4lib.word2vec.steps.on_torch import torch_steps

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks" / "results" / "gpu_accept.json"
FULL_VOCABULARY = 67_897
"""Words of wiki8 that occur five times or more."""


@dataclass(frozen=True)
class Step:
    """A thing to find out.

    Attributes:
        run: (device, small) -> the numbers, with "holds": whether they are as expected (None: a number to know).
        expected: in words. minutes: that it may take.
    """

    run: Callable[[torch.device, bool], dict[str, Any]]
    expected: str
    minutes: float


def suite(device: torch.device, small: bool) -> dict[str, Any]:
    """`make test-gpu`: every engine's numbers on this device."""
    more = ["-k", "linear and limit"] if small else []
    real = {"TP4_TEST_GPU": "1"} if device.type == "cuda" else {}
    command = [sys.executable, "-m", "pytest", "-q", "tests/test_gpu.py", *more]
    ran = subprocess.run(command, cwd=ROOT, env=os.environ | real, capture_output=True, text=True)
    lines = ran.stdout.strip().splitlines() or [ran.stderr[-500:]]
    return {"last_lines": lines[-8:], "holds": ran.returncode == 0}


def triton_right(device: torch.device, small: bool) -> dict[str, Any]:
    """A block by Triton in float32 against torch's step in float64, and twice, bit for bit."""
    words, columns, batch, draws = (300, 200, 64, 40) if small else (5000, 3000, 256, 128)
    corpus = text(words, 900 if small else 60_000)
    cases = {
        "mean": ({}, {}),
        "sum": ({"window_gradient": "sum"}, {"lr": 0.02}),
        "odd sizes": ({"wd": 0.01}, {"batch_size": batch - 3, "shared": draws - 3}),
    }
    found: dict[str, Any] = {}
    for name, (step, sampling) in cases.items():
        settings = StepSettings(**step)
        block = sampled(corpus, **({"batch_size": batch, "shared": draws} | sampling)).block(0, 0)
        exact, single, again, torchs = (
            start(len(corpus.vocab), columns, device, dtype)
            for dtype in (torch.float64, torch.float32, torch.float32, torch.float32)
        )
        losses = [
            float(steps(model, block, settings)[0])
            for steps, model in (
                (torch_steps, exact),
                (on_triton.triton_steps, single),
                (on_triton.triton_steps, again),
                (torch_steps, torchs),
            )
        ]
        for matrix in ("embeddings", "readout"):
            error, usual = (distance(model, exact, matrix) for model in (single, torchs))
            same = torch.equal(getattr(single, matrix), getattr(again, matrix))
            found[f"{name}, {matrix}"] = {
                "error": error, "error of torch in float32": usual, "repeats to the bit": same,
                "holds": same and error < 5 * usual + 1e-6,
            }  # fmt: skip
        off = abs(losses[1] / losses[0] - 1)
        found[f"{name}, loss"] = {"relative error": off, "holds": off < 1e-5}
    return found | {"holds": all(each["holds"] for each in found.values())}


def triton_compiles(device: torch.device, small: bool) -> dict[str, Any]:
    """Seconds until the first block is done, and how many kernels were compiled for it and for nine others."""
    corpus = text(300 if small else 5000, 9000 if small else 300_000)
    sampler = sampled(corpus, batch_size=64 if small else 256, shared=40 if small else 128)
    model, seconds = start(len(corpus.vocab), 200 if small else 3000, device, torch.float32), []
    for number in range(min(10, sampler.blocks)):
        began = time.perf_counter()
        on_triton.triton_steps(model, sampler.block(0, number), StepSettings())
        wait(device)
        seconds.append(time.perf_counter() - began)
    from tp4lib.word2vec.steps import triton_code

    kernels = {
        name: sum(len(cache[0]) for cache in getattr(kernel, "device_caches", {}).values())
        for name in ("forward", "gradients", "update")
        if (kernel := getattr(triton_code, name)) is not None
    }
    return {"seconds": seconds, "kernels": kernels, "holds": small or max(kernels.values()) == 1}


def triton_speed(device: torch.device, small: bool) -> dict[str, Any]:
    """Milliseconds of a batch at width infinity on wiki8's vocabulary, and what they make of the paper's 15 epochs."""
    words = 300 if small else FULL_VOCABULARY
    corpus = text(words, 20_000 if small else 3_000_000)
    sampler, found = sampled(corpus, batch_size=256, shared=128, subsample=1e-4), {}
    for dtype in (torch.float32, torch.bfloat16):
        model, times, hosts = CBOW(len(corpus.vocab), "inf", device=device, dtype=dtype), [], []
        for number in range(min(12, sampler.blocks)):
            block = sampler.block(0, number)
            wait(device)
            began = time.perf_counter()
            on_triton.triton_steps(model, block, StepSettings())
            hosts.append((time.perf_counter() - began) / max(block.batches, 1))
            wait(device)
            times.append((time.perf_counter() - began) / max(block.batches, 1))
        batch = float(np.median(times[2:] or times))
        found[str(dtype)] = {
            "ms a batch": 1e3 * batch,
            "ms of the host": 1e3 * float(np.median(hosts[2:] or hosts)),
            "minutes for 15 epochs of wiki8": 555_500 * batch / 60,
            "peak GiB": torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None,
        }
        del model
    best = min(each["minutes for 15 epochs of wiki8"] for each in found.values())
    return found | {"holds": small or best <= 10}


def maml_speed(device: torch.device, small: bool) -> dict[str, Any]:
    """Meta-steps a second, as they are launched and recorded as a CUDA graph."""
    from tp4lib.data import drawn_characters, few_shot
    from tp4lib.maml import experiment, train
    from tp4lib.maml.settings import MAMLSettings

    characters, found = drawn_characters.draw(classes=100, drawers=20), {}
    for width in (None, 512):
        tasks = few_shot.Tasks(characters, seed=0, device=device)
        limit = {"limit": "mup"} if width is None else {"limit": "none", "width": width}
        model = experiment.learner(MAMLSettings(**limit), tasks)[0]
        ways = {"launched": model.outer_step, "recorded": train.outer_step_of(model, tasks, train.Schedule())}
        count = 5 if small else 1000
        for name, step in ways.items():
            for _ in range(3):
                step(tasks.batch(32))
            wait(device)
            began = time.perf_counter()
            for _ in range(count):
                step(tasks.batch(32))
            wait(device)
            found[f"{name}, {width or 'infinity'}"] = count / (time.perf_counter() - began)
    ratio = found["recorded, infinity"] / found["launched, infinity"]
    return {"meta-steps a second": found, "ratio": ratio, "holds": small or ratio > 2}


def full_run(device: torch.device, small: bool) -> dict[str, Any]:
    """The paper's Table 3 at width infinity: all of wiki8, 15 epochs."""
    more = ["--max-vocab", "200", "--max-bytes", "300000", "--epochs", "1"] if small else ["--epochs", "15"]
    batch = [] if small else ["--batch-size", "256", "--shared-negatives", "128"]
    folder = runs_dir("gpu_accept") / "full_run"
    command = [
        sys.executable, "-m", "tp4lib", "word2vec", "--corpus", "text8", "--width", "inf", "--device", str(device),
        "--out", folder, "--no-checkpoints", "--no-save-vectors", *more, *batch,
    ]  # fmt: skip
    began = time.perf_counter()
    ran = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True)
    if ran.returncode:
        return {"error": ran.stderr[-1000:], "holds": False}
    metrics = json.loads((folder / "metrics.json").read_text())
    keys = ("accuracy", "answered", "vocab_size", "tokens_per_second", "seconds")
    told = {key: metrics[key] for key in keys}
    return told | {"whole command": time.perf_counter() - began, "holds": metrics["seconds"] <= 600}


def table2(device: torch.device, small: bool) -> dict[str, Any]:
    """Table 2 in full: every row, 10,000 meta-steps; the rows go to their own file."""
    script = ROOT / "benchmarks" / "maml_table2.py"
    command = [sys.executable, str(script), *(["--help"] if small else ["--jobs", "4"])]
    began = time.perf_counter()
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    lines = (ran.stdout + ran.stderr).splitlines()[-12:]
    return {"seconds": seconds, "last_lines": lines, "holds": ran.returncode == 0}


STEPS = {
    "suite": Step(suite, "every engine's numbers are the CPU's within 1e-4", 5),
    "triton_right": Step(triton_right, "as near to float64 as torch's own float32; repeats to the bit", 2),
    "triton_compiles": Step(triton_compiles, "one of each kernel, within a minute", 2),
    "triton_speed": Step(triton_speed, "0.6 to 1.2 ms a batch: 15 epochs in 6 to 11 minutes", 4),
    "maml_speed": Step(maml_speed, "recorded 5 to 10 times as fast as launched", 1),
    "full_run": Step(full_run, "15 epochs within 10 minutes; 39 to 42 % (the paper: 40.86 %)", 12),
    "table2": Step(table2, "every row beside the paper's, in benchmarks/results/maml_table2.json", 8),
}


def text(words: int, tokens: int) -> Corpus:
    """Words by Zipf's law, each of them at least once."""
    p = 1 / (np.arange(words) + 2.7)
    ids = np.random.default_rng(0).choice(words, tokens, p=p / p.sum())
    return Corpus.from_words([f"w{i}" for i in np.concatenate([np.arange(words), ids])])


def sampled(corpus: Corpus, **options: Any) -> Sampler:
    """Its blocks, subsampled little unless it is told otherwise."""
    return Sampler(corpus.vocab, corpus.ids, **({"subsample": 1e-3} | options))


def start(words: int, columns: int, device: torch.device, dtype: torch.dtype) -> CBOW:
    """The same random parameters in every dtype."""
    generator = torch.Generator().manual_seed(1)
    model = CBOW(words, columns, device=device, dtype=dtype)
    for matrix in (model.embeddings, model.readout):
        matrix.copy_(torch.randn(words, columns, generator=generator) / columns**0.5)
    return model


def distance(model: CBOW, exact: CBOW, matrix: str) -> float:
    """|difference| / |exact|"""
    truth = getattr(exact, matrix).double().cpu()
    return float((getattr(model, matrix).double().cpu() - truth).norm() / truth.norm())


def wait(device: torch.device) -> None:
    """Until the device has done all."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main(arguments: list[str] | None = None) -> int:
    """Do what is missing; 0 if all that was asked for holds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto", help="auto, cuda or cuda:N")
    parser.add_argument("--only", default="", help="do steps whose names begin so, again")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--small", action="store_true", help="toy sizes: a rehearsal, whose file says so")
    parser.add_argument("--list", action="store_true")
    asked = parser.parse_args(arguments)
    names = [name for name in STEPS if name.startswith(asked.only)]
    if not names:
        raise InputError(
            f"no step begins with {asked.only!r}; expected one of {', '.join(STEPS)}; try --list"
        )
    if asked.list:
        for name in names:
            print(f"{name:16s} {STEPS[name].minutes:4g} min  {STEPS[name].expected}")
        return 0
    device = resolve(asked.device)
    if device.type != "cuda" and not asked.small:
        raise InputError("torch sees no GPU; expected one; try --small for a rehearsal without")
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "none: a rehearsal"
    results = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    if results.get("card", card) != card:
        raise InputError(f"{asked.out} is of {results['card']}, this is {card}; give another --out")
    results |= {"card": card, "torch": torch.__version__, "small": asked.small}
    steps = results.setdefault("steps", {})
    for name in names:
        if steps.get(name, {}).get("holds") and not asked.only:
            print(f"{name}: done before")
            continue
        print(f"{name}: {STEPS[name].expected} ({STEPS[name].minutes:g} min)", flush=True)
        began = time.perf_counter()
        try:
            found = STEPS[name].run(device, asked.small)
        except (
            Exception
        ) as error:  # a step that cannot be done is a result, too: the others still tell something
            found = {"error": f"{type(error).__name__}: {error}", "holds": False}
        steps[name] = found | {"expected": STEPS[name].expected, "took": time.perf_counter() - began}
        write_json(asked.out, results)
        print(f"    {'as expected' if found['holds'] else 'NOT as expected'}: {json.dumps(found)[:600]}")
    return 0 if all(steps[name]["holds"] for name in names) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        fail(str(error))
