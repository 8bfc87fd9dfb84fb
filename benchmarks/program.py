"""Seconds and memory of an exact infinite-width training, against its steps, inputs and samples.

    python benchmarks/program.py [--samples 200000] [--rounds 3]

The reference case is a tanh network of two hidden layers in muP, 8 steps of SGD on 4 inputs, 200,000 samples, for which
the target is 60 seconds on two cores. Then one size at a time is changed at an eighth of the samples, and exponents are
fitted to the largest three sizes. Beside the seconds stands the machine's load, because others' work shows in them.
Each case runs in a process of its own, so that its peak memory can be read off.
Writes ``benchmarks/results/program.json``.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from tp4lib.base.files import out_dir, write_json
from tp4lib.base.memory import own_peak
from tp4lib.parametrization import mup
from tp4lib.program import InfiniteWidth, train_mlp

HERE = Path(__file__).resolve().parent
TARGET_SECONDS = 60


def case(activation: str, depth: int, steps: int, inputs: int, samples: int) -> dict:
    """One training in this process: seconds, and GiB beyond what was there before."""
    generator = torch.Generator().manual_seed(5)
    xi = torch.randn(inputs, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(inputs, 1, generator=generator, dtype=torch.float64)
    train_mlp(InfiniteWidth(256), xi, y, mup(depth), activation=activation, steps=2)  # torch's first calls
    before = own_peak()
    begin = time.perf_counter()
    result = train_mlp(InfiniteWidth(samples), xi, y, mup(depth), activation=activation, lr=0.5, steps=steps)
    seconds = time.perf_counter() - begin
    gib = (own_peak() - before) / 2**30
    return {"seconds": seconds, "gib": gib, "loss": float(result.losses[-1])}


def measure(rounds: int, **sizes: int | str) -> dict:
    """The median of several processes."""
    runs = []
    for _ in range(rounds):
        command = [sys.executable, __file__, "--case", json.dumps(sizes)]
        runs.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    row = {
        **sizes,
        "seconds": statistics.median(run["seconds"] for run in runs),
        "seconds_fastest": min(run["seconds"] for run in runs),
        "seconds_slowest": max(run["seconds"] for run in runs),
        "gib": statistics.median(run["gib"] for run in runs),
        "load": os.getloadavg()[0],
    }
    print(
        f"{row['activation']:5} L={row['depth']} {row['steps']:>3} steps {row['inputs']:>3} inputs "
        f"{row['samples']:>8} samples: {row['seconds']:7.2f} s ({row['seconds_fastest']:.2f} to "
        f"{row['seconds_slowest']:.2f}), {row['gib']:.2f} GiB, load {row['load']:.1f}",
        flush=True,
    )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(case(**json.loads(args.case))))
        return
    folder = out_dir(args.out)

    base = dict(activation="tanh", depth=2, steps=8, inputs=4, samples=args.samples)
    reference = measure(args.rounds, **base)
    others = [
        measure(args.rounds, **{**base, **change}) for change in (dict(activation="relu"), dict(depth=3))
    ]
    small, scaling, exponents = {**base, "samples": args.samples // 8}, {}, {}
    sweeps = {
        "steps": [2, 4, 8, 16, 32],
        "inputs": [2, 4, 8, 16],
        "samples": [args.samples // k for k in (32, 16, 8, 4, 2)],
    }
    for name, values in sweeps.items():
        rows = [measure(args.rounds, **{**small, name: value}) for value in values]
        scaling[name] = rows
        tail = rows[-3:]
        logs = [np.log([row[key] for row in tail]) for key in (name, "seconds", "gib")]
        exponents[name] = {
            key: float(np.polyfit(logs[0], log, 1)[0]) for key, log in zip(("seconds", "gib"), logs[1:])
        }
        print(
            f"  seconds ~ {name}^{exponents[name]['seconds']:.2f}, GiB ~ {name}^{exponents[name]['gib']:.2f}"
        )
    write_json(
        folder / "program.json",
        {
            "command": shlex.join(["python", "benchmarks/program.py", *sys.argv[1:]]),
            "what": "SGD on a muP network of infinite width, as a tensor program: seconds and peak memory",
            "target_seconds": TARGET_SECONDS,
            "reference": reference,
            "others": others,
            "scaling": scaling,
            "exponents_of_the_largest_three": exponents,
            "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads",
            "torch": torch.__version__,
        },
    )


if __name__ == "__main__":
    main()
