"""The kernel baselines of Table 2: a sweep over their settings, and several seeds at the settings in use.

    TP4_DATA=FOLDER python benchmarks/maml_kernels.py [sweep] [seeds]

One table of kernel values serves every rate and every seed. What is already in ``benchmarks/results/maml_kernels.json``
is not done again, so the command can be cut off and repeated.
"""

import argparse
import json
import os
import platform
import shlex
import sys
import time
from pathlib import Path

import torch

from tp4lib.base.divergence import Diverged
from tp4lib.base.files import out_dir, write_json
from tp4lib.data import omniglot
from tp4lib.maml import kernel_fomaml, train

RESULT = Path(__file__).resolve().parent / "results" / "maml_kernels.json"
KINDS = [("gp", "linear"), ("ntk", "linear"), ("gp", "relu"), ("ntk", "relu")]
SCALES = {"linear": (0.25, 0.5, 1.0, 2.0, 4.0), "relu": (0.5, 1.0, 2.0)}
RATES = (0.01, 0.1, 0.4)
SWEEP_STEPS, FULL_STEPS, PATIENCE = 200, 10_000, 10


def trained(kind, space, seed, meta_steps, patience=None, **settings):
    """One meta-training: the row of numbers it gives, and its space for the next."""
    tasks, validation, test = train.split_tasks(characters, seed)
    learner = kernel_fomaml.kernel_learner(*kind, tasks, space=space, **settings)
    questions, asked = (
        train.batches(validation, 1024),
        train.batches(test, 1024 if meta_steps == SWEEP_STEPS else 4096),
    )
    begun = time.perf_counter()
    untrained = (
        [train.accuracy(learner, b, s).mean for b, s in [(questions, 1), (asked, 20)]]
        if meta_steps == SWEEP_STEPS
        else []
    )
    try:
        history = train.fit(learner, tasks, questions, meta_steps=meta_steps, patience=patience)
    except Diverged as error:  # at the largest scales: a row that says so, and the next
        key = {"limit": kind[0], "activation": kind[1], "seed": seed, **learner.settings}
        print(f"{key}: {error}", flush=True)
        return key | {"stopped": str(error)}, learner.space
    one, twenty = (train.accuracy(learner, asked, steps) for steps in (1, 20))
    row = {
        "limit": kind[0], "activation": kind[1], "seed": seed, **learner.settings,
        "val_accuracy": history.best["val_accuracy"], "best_epoch": history.best_epoch,
        "meta_steps": history.meta_steps, "stopped": history.stopped,
        "test_accuracy_1_step": one.mean, "test_accuracy_20_steps": twenty.mean,
        "test_accuracy_20_steps_se": twenty.se, "seconds": time.perf_counter() - begun,
        "meta_steps_per_second": history.meta_steps / history.train_seconds,
    }  # fmt: skip
    if untrained:
        row |= {"untrained_val_accuracy": untrained[0], "untrained_test_accuracy_20_steps": untrained[1]}
    print(f"{'_'.join(kind)} seed {seed} sigma {row['sigma_in']} lr {row['lr']}: val {row['val_accuracy']:.2f}, test "
          f"{one.mean:.2f} after 1 step, {twenty.mean:.2f} after 20; {row['seconds']:.0f} s", flush=True)  # fmt: skip
    return row, learner.space


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", help="sweep, seeds; both by default")
    parser.add_argument("--kinds", nargs="+", default=["_".join(kind) for kind in KINDS])
    args = parser.parse_args()
    args.what = args.what or ["sweep", "seeds"]
    if unknown := set(args.what) - {"sweep", "seeds"}:
        parser.error(f"unknown part {', '.join(unknown)}; expected sweep or seeds")
    result = json.loads(RESULT.read_text()) if RESULT.is_file() else {"sweep": [], "seeds": []}

    def save(part, row):
        # Read again: another process may be at work on the other kernel.
        kept = json.loads(RESULT.read_text()) if RESULT.is_file() else result
        kept[part].append(row)
        kept |= {
            "command": shlex.join(["python", "benchmarks/maml_kernels.py", *sys.argv[1:]]),
            "what": "Omniglot, 5-way 1-shot, accuracies in percent; best epoch by validation after 1 step",
            "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} thread(s)",
            "torch": torch.__version__,
        }
        write_json(out_dir(RESULT.parent) / RESULT.name, kept)

    def done(part, **key):
        return any(all(row[k] == v for k, v in key.items()) for row in result[part])

    for kind in [kind for kind in KINDS if "_".join(kind) in args.kinds]:
        limit, activation = kind
        for scale in SCALES[activation] if "sweep" in args.what else ():
            space = None
            for rate in RATES:
                key = dict(limit=limit, activation=activation, sigma_in=scale, lr=rate)
                if not done("sweep", **key):
                    row, space = trained(
                        kind, space, 0, SWEEP_STEPS, sigma_in=scale, sigma_out=scale, lr=rate
                    )
                    save("sweep", row)
            del space
        space = None
        for seed in (0, 1, 2) if "seeds" in args.what else ():
            if not done("seeds", limit=limit, activation=activation, seed=seed):
                row, space = trained(kind, space, seed, FULL_STEPS, PATIENCE)
                save("seeds", row)


if __name__ == "__main__":
    characters = omniglot.load()
    main()
