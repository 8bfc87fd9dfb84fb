"""A whole run on Omniglot from its `MAMLSettings`: train, keep the best epoch, test, and write ``metrics.json``."""

import math
import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tp4lib.base import device as devices
from tp4lib.base import results
from tp4lib.base.errors import InputError
from tp4lib.base.files import alone_in
from tp4lib.data import catalogue, omniglot, provenance
from tp4lib.data.few_shot import Tasks
from tp4lib.maml import kernel_fomaml, models, pi_fomaml, train
from tp4lib.maml.fomaml import LinearFOMAML
from tp4lib.maml.learner import Learner
from tp4lib.maml.settings import Limit, MAMLSettings

CHECKPOINT = "checkpoint.npz"
VALIDATION_TASKS, TEST_TASKS = 1024, 4096


def run(
    settings: MAMLSettings,
    out: str | Path,
    *,
    data_dir: str | Path | None = None,
    device: str = "auto",
    resume: bool = False,
) -> dict[str, Any]:
    """Meta-train, keep the best epoch by validation, and test it after 1 and 20 steps of adaptation.

    Args:
        out: folder for ``metrics.json`` and the checkpoint; its earlier results are replaced when the run is whole.
        data_dir: folder that holds ``omniglot/`` or its two zips; without it they are looked for as all data are.
        device: auto, cpu, cuda or cuda:N.
        resume: go on from the checkpoint in ``out``, to the same numbers as an unbroken run.

    Returns:
        What ``metrics.json`` says; accuracies in percent.

    Raises:
        InputError: bad input, a diverged training, or an interruption after the first checkpoint, which is kept.
    """
    out, where = Path(out), devices.resolve(device)
    characters = omniglot.load(data_dir)
    with alone_in(out), results.working(out, "maml", checkpoints=CHECKPOINT, resume=resume) as work:
        tasks, validation, test = train.split_tasks(characters, settings.seed, device=where)
        model, chosen = learner(settings, tasks)
        told: dict[str, Any] = {
            "limit": settings.limit.value, "width": "inf" if settings.units == math.inf else settings.units,
            "activation": settings.activation.value, "seed": settings.seed, "dataset": characters.title, **chosen,
        }  # fmt: skip
        if characters.synthetic and os.environ.get("TP4_DATA") != catalogue.EMBEDDED:
            print(
                f"tp4: no Omniglot was found; going on with {characters.title}, whose accuracies do not compare with "
                "published ones; to get Omniglot, run `tp4 data omniglot`, or put its two zips in --data-dir",
                file=sys.stderr,
            )
        checkpoint, asked = work.folder / CHECKPOINT, train.batches(validation, VALIDATION_TASKS)
        try:
            history = train.fit(
                model, tasks, asked, meta_steps=settings.meta_steps, patience=settings.patience,
                save_to=checkpoint, resume=resume, settings={**told, "data (SHA-256)": characters.found.sha256},
            )  # fmt: skip
        except KeyboardInterrupt:
            if not checkpoint.exists():
                raise
            raise InputError(
                f"interrupted; {checkpoint} is kept; go on with the same command and --resume"
            ) from None
        metrics = {
            **told,
            **provenance.record(seed=settings.seed, data=[characters.found], device=where),
            "synthetic": characters.synthetic,
            **_trained(history),
            **_tested(model, test, history.seconds),
            "meta_steps_asked": settings.meta_steps,
            "device": str(where),
        }
        work.finish(metrics)
    return metrics


def learner(settings: MAMLSettings, tasks: Tasks) -> tuple[Learner, dict[str, Any]]:
    """The untrained engine that the settings ask for, on the tasks' device, and its rates and scales."""
    limit, given, activation = settings.limit, settings.hyperparameters, settings.activation.value
    device, seed = tasks.table.device, settings.seed
    if limit in (Limit.ntk, Limit.gp):
        kernel = kernel_fomaml.kernel_learner(limit.value, activation, tasks, **given)
        return kernel, kernel.settings
    if limit is Limit.pi:
        chosen = replace(pi_fomaml.HYPERPARAMETERS, **given)
        size = {"rank": settings.rank, "depth": settings.depth}
        nonlinear = pi_fomaml.pi_learner(
            **size, activation=activation, ways=tasks.ways, seed=seed, chosen=chosen, device=device
        )
        return nonlinear, asdict(chosen) | size
    chosen = replace(models.settings(settings.units), **given)
    network = models.linear_network(settings.units, tasks.ways, seed, chosen).to(device)
    return LinearFOMAML(network, lr=chosen.lr, inner_lr=chosen.inner_lr), asdict(chosen)


def _trained(history: train.History) -> dict[str, Any]:
    return {
        "val_accuracy": history.best["val_accuracy"],
        "val_accuracy_se": history.best["val_se"],
        "val_tasks": VALIDATION_TASKS,
        "best_epoch": history.best_epoch,
        "epochs": history.epochs,
        "meta_steps": history.meta_steps,
        "stopped_early": bool(history.stopped),
        "stopped_because": history.stopped,
        "meta_steps_per_second": history.meta_steps / history.train_seconds,
    }


def _tested(model: Learner, test: Tasks, seconds: float) -> dict[str, Any]:
    """Test accuracies of the best epoch; ``seconds`` is the time before."""
    begun, asked = time.perf_counter(), train.batches(test, TEST_TASKS)
    one, twenty = (train.accuracy(model, asked, inner_steps) for inner_steps in (1, 20))
    return {
        "accuracy_unit": "percent",
        "test_accuracy_1_step": one.mean,
        "test_accuracy_1_step_se": one.se,
        "test_accuracy_20_steps": twenty.mean,
        "test_accuracy_20_steps_se": twenty.se,
        "test_tasks": twenty.tasks,
        "seconds": seconds + time.perf_counter() - begun,
    }
