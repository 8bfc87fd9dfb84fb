"""Table 2 in full: every width and every limit, several seeds, each by ``tp4 maml``, beside the published numbers.

    TP4_DATA=FOLDER python benchmarks/maml_table2.py [--seeds 0 1 2] [--jobs 2] [--out runs/table2]

Runs ``--jobs`` commands at a time, each on its share of the cores. A run that was finished in ``--out`` before is not
done again, one that was cut off goes on from its checkpoint: so the command can be repeated until all is there. With
``--gather`` nothing is run. Writes ``benchmarks/results/maml_table2.json``.
"""

import argparse
import json
import math
import os
import platform
import shlex
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from tp4lib.base.files import out_dir, write_json
from tp4lib.data import published as paper
from tp4lib.maml import models

HERE = Path(__file__).resolve().parent
KERNEL_PATIENCE = 10
ROWS = [("mup" if w == math.inf else "none", "linear", w) for w in models.WIDTHS]
ROWS += [("ntk", "relu", math.inf), ("gp", "relu", math.inf), ("gp", "linear", math.inf)]
KEPT = (
    "seed", "test_accuracy_20_steps", "test_accuracy_20_steps_se", "test_accuracy_1_step", "test_accuracy_1_step_se",
    "val_accuracy", "best_epoch", "meta_steps", "stopped_because", "seconds", "dataset",
)  # fmt: skip
MODELS = {"mup linear": "muP", "ntk relu": "NTK relu", "gp relu": "GP relu", "gp linear": "GP/NTK linear"}


def published(limit: str, activation: str, width: float) -> float | None:
    """The paper's number for a row, where it is known."""
    model = MODELS[f"{'mup' if limit == 'none' else limit} {activation}"]
    number = "inf" if width == math.inf else str(int(width))
    found = [row["value"] for row in paper.rows("table2") if (row["model"], row["width"]) == (model, number)]
    return float(found[0]) if found else None


def options(limit: str, activation: str, width: float, seed: int, meta_steps: int) -> list[str]:
    """Of ``tp4 maml`` for one cell of the table."""
    number = "inf" if width == math.inf else str(int(width))
    chosen = ["--limit", limit, "--width", number, "--activation", activation, "--seed", str(seed)]
    if limit in ("ntk", "gp"):
        chosen += ["--patience", str(KERNEL_PATIENCE)]
    return [*chosen, "--meta-steps", str(meta_steps)]


def folder(out: Path, limit: str, activation: str, width: float, seed: int) -> Path:
    """Where a run leaves its metrics."""
    number = "inf" if width == math.inf else int(width)
    return out / f"{limit}_{activation}_w{number}_s{seed}"


def run(arguments: list[str], where: Path, threads: int) -> None:
    """Run ``tp4 maml``, or go on with it, unless it is done; its progress goes to ``where/log``."""
    if (where / "metrics.json").is_file():
        return
    where.mkdir(parents=True, exist_ok=True)
    resume = ["--resume"] if (where / "checkpoint.npz").is_file() else []
    command = [
        sys.executable,
        "-m",
        "tp4lib.collection.cli",
        "maml",
        *arguments,
        "--out",
        str(where),
        *resume,
    ]
    with open(where / "log", "w") as log:
        code = subprocess.run(
            command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": str(threads)}
        )
    last = (where / "log").read_text().strip().splitlines()[-1:]
    print(f"{where.name}: {last[0] if last else code.returncode}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--meta-steps", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/table2"))
    parser.add_argument("--gather", action="store_true", help="run nothing, gather what is there")
    args = parser.parse_args()

    cells = [(*row, seed) for seed in args.seeds for row in ROWS]
    if not args.gather:
        threads = max(1, (os.cpu_count() or 1) // args.jobs)
        with ThreadPoolExecutor(args.jobs) as pool:
            for cell in cells:
                pool.submit(run, options(*cell, args.meta_steps), folder(args.out, *cell), threads)

    rows = []
    print(
        f"\n{'':>10} {'width':>6} {'20 steps':>9} {'seeds':>12} {'1 step':>7} {'published':>9} {'seconds':>8}"
    )
    for limit, activation, width in ROWS:
        paths = [folder(args.out, limit, activation, width, seed) / "metrics.json" for seed in args.seeds]
        found = [json.loads(path.read_text()) for path in paths if path.is_file()]
        if not found:
            continue
        scores = [m["test_accuracy_20_steps"] for m in found]
        row = {
            "limit": limit,
            "activation": activation,
            "width": found[0]["width"],
            "test_accuracy_20_steps": statistics.mean(scores),
            "lowest": min(scores),
            "highest": max(scores),
            "test_accuracy_1_step": statistics.mean(m["test_accuracy_1_step"] for m in found),
            "published": published(limit, activation, width),
            "seconds": statistics.mean(m["seconds"] for m in found),
            "command": "tp4 maml "
            + shlex.join(options(limit, activation, width, found[0]["seed"], args.meta_steps)),
            "runs": [{key: m.get(key) for key in KEPT} for m in found],
        }
        rows.append(row)
        print(
            f"{limit + ' ' + activation if limit != 'none' else '':>10} {row['width']:>6} "
            f"{row['test_accuracy_20_steps']:9.2f} {row['lowest']:6.2f}{row['highest']:6.2f} "
            f"{row['test_accuracy_1_step']:7.2f} {row['published'] or '':>9} {row['seconds']:8.0f}"
        )
    result = {
        "command": f"python benchmarks/maml_table2.py --seeds {shlex.join(map(str, args.seeds))}",
        "what": "Omniglot, 5-way 1-shot, test accuracy in percent; best epoch by validation",
        "rows": rows,
        "seconds_in_all": sum(m["seconds"] for row in rows for m in row["runs"]),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "torch": torch.__version__,
    }
    write_json(out_dir(HERE / "results") / "maml_table2.json", result)


if __name__ == "__main__":
    main()
