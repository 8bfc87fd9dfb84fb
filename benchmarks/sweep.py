"""A sweep as one stack of networks against the ordinary Python loop over the same runs.

    python benchmarks/sweep.py [--width 256] [--members 32] [--steps 60] [--rounds 5]

Both train the same perceptrons (muP, two hidden layers, ReLU) on scikit-learn's digits, from the same starts, on the
same minibatches, at the same rates; the losses of both are compared at the end. "loop" is torch.optim with its
defaults, "fused" is torch.optim with ``fused=True``. The table's ratios are time of the loop / time of the sweep, the
median over rounds in which the three take turns. Writes ``benchmarks/results/sweep.json``.
"""

import argparse
import os
import platform
import shlex
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

from tp4lib.base.files import out_dir, write_json
from tp4lib.data.images import load, one_hot
from tp4lib.nn import MLP, param_groups
from tp4lib.parametrization import mup
from tp4lib.sweep import minibatches, sweep

HERE = Path(__file__).resolve().parent
OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
RATES = {"sgd": (0.01, 0.3), "adam": (1e-4, 3e-3)}  # lowest and highest rate: every member trains to the end
# (optimizer, batch size, how many copies of the 64 pixels make the input: 12 gives CIFAR-10's 16 x 16 x 3)
CASES = [
    (optimizer, batch, copies) for copies, batch in ((1, 32), (1, 64), (12, 64)) for optimizer in OPTIMIZERS
]


def loop(make, rates, seeds, x, y, *, steps, batch_size, optimizer, fused=None):
    """Final minibatch losses (R, S) of one run after the other."""
    losses = np.zeros((len(rates), len(seeds)))
    for s, seed in enumerate(seeds):
        for r, rate in enumerate(rates):
            model = make(seed)
            step = OPTIMIZERS[optimizer](param_groups(model, float(rate), optimizer), fused=fused)
            for batch in minibatches(len(x), batch_size, steps):
                loss = (model(x[batch]) - y[batch]).square().sum(-1).mean() / 2
                step.zero_grad()
                loss.backward()
                step.step()
                losses[r, s] = loss.item()
    return losses


def compare(args, optimizer: str, batch_size: int, copies: int) -> dict:
    """Time the sweep and both loops in turns; they have to agree on every loss."""
    images = load("digits")
    x, y = (
        images.train_x.repeat(1, copies) / images.train_x.shape[1] ** 0.5 / copies**0.5,
        one_hot(images.train_y),
    )

    def make(seed: int) -> MLP:
        return MLP(x.shape[1], args.width, 10, mup(2), seed=seed)

    seeds = [0, 1]
    rates = np.geomspace(*RATES[optimizer], args.members // len(seeds))
    run = dict(batch_size=batch_size, optimizer=optimizer)
    ways = {
        "sweep": lambda steps: sweep(make, rates, seeds, x, y, steps=steps, **run).losses[..., steps - 1],
        "loop": lambda steps: loop(make, rates, seeds, x, y, steps=steps, **run),
        "fused": lambda steps: loop(make, rates, seeds, x, y, steps=steps, fused=True, **run),
    }
    seconds, losses = {name: [] for name in ways}, {}
    for way in ways.values():
        way(2)  # imports and memory that only a first run pays for
    for _ in range(args.rounds):
        for name, way in ways.items():
            begin = time.perf_counter()
            losses[name] = way(args.steps)
            seconds[name].append(time.perf_counter() - begin)
    for name in ("loop", "fused"):
        np.testing.assert_allclose(losses["sweep"], losses[name], rtol=1e-3)
    updates = args.steps * rates.size * len(seeds)
    ratio = {
        name: statistics.median(a / b for a, b in zip(seconds[name], seconds["sweep"], strict=True))
        for name in ("loop", "fused")
    }
    return {
        "optimizer": optimizer,
        "inputs": x.shape[1],
        "batch_size": batch_size,
        "members": rates.size * len(seeds),
        "microseconds_per_update": {
            name: 1e6 * statistics.median(t) / updates for name, t in seconds.items()
        },
        "ratio_loop_to_sweep": ratio["loop"],
        "ratio_fused_loop_to_sweep": ratio["fused"],
        "largest_relative_difference": float(np.abs(losses["sweep"] / losses["loop"] - 1).max()),
    }


def machine() -> dict:
    """What the seconds depend on."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--members", type=int, default=32, help="an even number: two seeds")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    args = parser.parse_args()
    os.environ.setdefault("TP4_PROGRESS", "0")
    folder = out_dir(args.out)

    print(
        f"width {args.width}, {args.members} members, {args.steps} updates each; microseconds per update and member"
    )
    header = f"{'':6}{'inputs':>8}{'batch':>7}{'sweep':>9}{'loop':>9}{'fused':>9}{'loop/sweep':>12}{'fused/sweep':>13}"
    print(header)
    rows = []
    for case in CASES:
        row = compare(args, *case)
        rows.append(row)
        t = row["microseconds_per_update"]
        print(
            f"{row['optimizer']:6}{row['inputs']:>8}{row['batch_size']:>7}{t['sweep']:>9.0f}{t['loop']:>9.0f}"
            f"{t['fused']:>9.0f}{row['ratio_loop_to_sweep']:>11.2f}x{row['ratio_fused_loop_to_sweep']:>12.2f}x",
            flush=True,
        )
    write_json(
        folder / "sweep.json",
        {
            "command": shlex.join(["python", "benchmarks/sweep.py", *sys.argv[1:]]),
            "what": "a sweep as one stack against a Python loop over the same runs; ratio above 1: the sweep is faster",
            "width": args.width,
            "steps": args.steps,
            "rounds": args.rounds,
            "cases": rows,
            "machine": machine(),
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
        },
    )


if __name__ == "__main__":
    main()
