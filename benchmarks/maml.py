"""Meta-steps a second of our first-order MAML against learn2learn's, on the same networks and tasks.

    python benchmarks/maml.py [--widths 32 512 inf] [--rounds 5] [--seconds 3]

Both train the linear network of Table 2 at that width (infinity: the d + o coefficients of the limit) from the same
start on the same tasks (5-way 1-shot, 32 a meta-step, synthetic characters: the pixels do not matter for speed), with
the same clipping and the same SGD; after the first steps their parameters are compared. They take turns, and the
medians over the rounds are reported. "matmul" is the share of this machine's own float32 matrix-product rate, measured
in every round, that our engine reaches, counting only the three large products of a meta-step.
Writes ``benchmarks/results/maml_speed.json``.
"""

import argparse
import contextlib
import io
import os
import platform
import shlex
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from tp4lib.base.files import out_dir, write_json
from tp4lib.data import drawn_characters as synthetic
from tp4lib.data import omniglot
from tp4lib.maml import models
from tp4lib.maml.fomaml import LinearFOMAML

HERE = Path(__file__).resolve().parent
META_BATCH, WAYS = 32, 5


def learn2learn_step(
    network: torch.nn.Module, settings: models.Hyperparameters
) -> Callable[[omniglot.Batch], None]:
    """One meta-step as learn2learn's users write it."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")  # of its old dependencies
        import learn2learn

    maml = learn2learn.algorithms.MAML(network, lr=settings.inner_lr, first_order=True)
    optimizer = torch.optim.SGD(maml.parameters(), lr=settings.lr)

    def step(batch: omniglot.Batch) -> None:
        optimizer.zero_grad()
        for support_x, support_y, query_x, query_y in zip(*batch):
            learner = maml.clone()
            learner.adapt(F.cross_entropy(learner(support_x), support_y))
            F.cross_entropy(learner(query_x), query_y).backward()
        torch.nn.utils.clip_grad_norm_(maml.parameters(), 0.5)
        optimizer.step()

    return step


def rate(action: Callable[[], object], seconds: float) -> float:
    """How often a second ``action`` can be done."""
    count, begun = 0, time.perf_counter()
    while (passed := time.perf_counter() - begun) < seconds:
        action()
        count += 1
    return count / passed


def compare(width: float, rounds: int, seconds: float) -> dict:
    """Both engines in turns at one width."""
    settings = models.settings(width)
    tasks = omniglot.Tasks(omniglot.rotations(synthetic.draw()))
    ours, theirs = models.linear_network(width), models.linear_network(width)
    learner, their_step = (
        LinearFOMAML(ours, lr=settings.lr, inner_lr=settings.inner_lr),
        learn2learn_step(theirs, settings),
    )

    for _ in range(5):
        batch = tasks.batch(META_BATCH)
        learner.outer_step(batch)
        their_step(batch)
    apart = max(float((a - b).detach().abs().max()) for a, b in zip(ours.parameters(), theirs.parameters()))
    if apart > 1e-4:
        raise SystemExit(f"width {width}: the engines' parameters differ by {apart:.1e} after 5 meta-steps")

    square = torch.randn(2048, 2048)
    product = 2 * 2048**3 / 1e9
    results: dict[str, list[float]] = {"matmul": [], "ours": [], "learn2learn": []}
    for _ in range(rounds):
        results["matmul"].append(product * rate(lambda: square @ square, min(1.0, seconds)))
        results["ours"].append(rate(lambda: learner.outer_step(tasks.batch(META_BATCH)), seconds))
        results["learn2learn"].append(rate(lambda: their_step(tasks.batch(META_BATCH)), seconds))
    # B U^T, D U and D^T B_q of `LinearFOMAML`, each with ways - 1 rows a task.
    work = 2 * 3 * META_BATCH * (WAYS - 1) * ours.d_in * len(ours.U) / 1e9
    steps, l2l, gflops = (statistics.median(results[key]) for key in ("ours", "learn2learn", "matmul"))
    ratios = sorted(a / b for a, b in zip(results["ours"], results["learn2learn"]))
    return {
        "width": "inf" if width == float("inf") else int(width),
        "meta_steps_per_second": steps,
        "learn2learn_meta_steps_per_second": l2l,
        "ratio": statistics.median(ratios),
        "ratio_lowest": ratios[0],
        "ratio_highest": ratios[-1],
        "matmul_gflops": gflops,
        "share_of_matmul": work * steps / gflops,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=float, nargs="+", default=[32, 512, float("inf")])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    args = parser.parse_args()

    print(f"{torch.get_num_threads()} threads; meta-steps a second, meta-batch {META_BATCH}, 5-way 1-shot\n")
    print(
        f"{'width':>6} {'ours':>8} {'learn2learn':>12} {'ratio':>7} {'lowest':>7} {'matmul GF/s':>12} {'share':>6}"
    )
    rows = []
    for width in args.widths:
        row = compare(width, args.rounds, args.seconds)
        rows.append(row)
        print(
            f"{row['width']:>6} {row['meta_steps_per_second']:8.1f} {row['learn2learn_meta_steps_per_second']:12.1f} "
            f"{row['ratio']:6.1f}x {row['ratio_lowest']:6.1f}x {row['matmul_gflops']:12.0f} "
            f"{row['share_of_matmul']:6.0%}",
            flush=True,
        )
    result = {
        "command": shlex.join(["python", "benchmarks/maml.py", *sys.argv[1:]]),
        "rows": rows,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
    }
    write_json(out_dir(HERE / "results") / "maml_speed.json", result)


if __name__ == "__main__":
    main()
