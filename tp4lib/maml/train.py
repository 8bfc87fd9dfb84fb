"""Meta-training with validation, checkpoints and the test, for any engine."""

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from tp4lib.base import checkpoint, checks, progress
from tp4lib.base.divergence import FACTOR, Diverged, is_diverged
from tp4lib.base.errors import InputError
from tp4lib.base.recorded import Recorded
from tp4lib.data import omniglot
from tp4lib.data.few_shot import Batch, Tasks
from tp4lib.data.omniglot import Characters
from tp4lib.maml.learner import Learner

_ROOM = 2
"""In a kernel limit of large scale the loss wanders between bounds (the outer gradient is clipped): the mean of an
epoch reaches 4.7 times the untrained loss, single steps more. One that diverges passes any bound."""

_RATES = ("lr", "inner_lr", "clip", "inner_steps")


@dataclass(frozen=True)
class TaskAccuracy:
    """A mean over independent tasks, in percent, with its standard error."""

    mean: float
    se: float
    tasks: int


@dataclass(frozen=True)
class Schedule:
    """How long `fit` trains."""

    meta_steps: int = 10_000  # outer steps in all
    epoch_steps: int = 100  # outer steps an epoch (the last one may be shorter)
    meta_batch: int = 32  # tasks a meta-step
    patience: int | None = None  # stop after so many epochs without a better one (None: never)

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None:
                object.__setattr__(self, name, checks.whole(name, value))


@dataclass
class History:
    """What training left behind.

    Attributes:
        epochs: one dict an epoch: ``meta_steps`` so far, mean query ``loss``, ``val_accuracy`` and its ``val_se`` (%).
        best_epoch: 1-based, the first with the highest validation accuracy; the model is left in its state.
        stopped: why training ended before its last step; empty if it did not.
        untrained: mean query loss of the first meta-step, that is of the untrained network after its adaptation.
        seconds: training and validation, over all sessions of a resumed run.
        train_seconds: training alone.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    stopped: str = ""
    untrained: float = 0.0
    seconds: float = 0.0
    train_seconds: float = 0.0

    @property
    def meta_steps(self) -> int:
        return int(self.epochs[-1]["meta_steps"]) if self.epochs else 0

    @property
    def best(self) -> dict[str, float]:
        return self.epochs[self.best_epoch - 1]


def split_tasks(
    characters: Characters, seed: int = 0, *, rotate_validation: bool = False, **options: Any
) -> tuple[Tasks, Tasks, Tasks]:
    """Split the characters as the paper did: tasks to train on (rotations too), to validate and to test.

    Validation and test tasks do not depend on ``seed``: every run is asked the same questions.

    Args:
        seed: of the training tasks.
        rotate_validation: add the three rotations of the validation characters, as the authors' code does. Their test
            characters are never rotated, so unrotated validation tasks are the more like the test.
        options: for `Tasks`: ways, shots, queries, device, dtype.
    """
    train, validation, test = omniglot.vinyals(characters)
    if rotate_validation:
        validation = omniglot.rotations(validation)
    parts = ((omniglot.rotations(train), seed), (validation, 1), (test, 2))
    return tuple(Tasks(images, seed=seed, **options) for images, seed in parts)


def accuracy(model: Learner, batches: Sequence[Batch], inner_steps: int) -> TaskAccuracy:
    """Accuracy over all tasks of ``batches`` after ``inner_steps`` steps of adaptation to each."""
    each = torch.cat([model.evaluate(batch, inner_steps).double().cpu() for batch in batches])
    se = float(each.std() / math.sqrt(len(each))) if len(each) > 1 else 0.0
    return TaskAccuracy(100 * float(each.mean()), 100 * se, len(each))


def batches(tasks: Tasks, count: int, meta_batch: int = 64) -> list[Batch]:
    """The next ``count`` tasks, ``meta_batch`` at a time."""
    return [tasks.batch(min(meta_batch, count - start)) for start in range(0, count, meta_batch)]


def fit(
    model: Learner,
    tasks: Tasks,
    validation: Sequence[Batch],
    *,
    save_to: str | Path | None = None,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    **schedule: int | None,
) -> History:
    """Meta-train ``model`` and leave it in the state of its best epoch by validation (paper, section 9.2).

    Args:
        tasks: gives the training tasks.
        validation: batches held fixed, so that epochs are compared on the same questions, after 1 step of adaptation.
        save_to: a checkpoint, rewritten after every epoch. A resumed run ends with the same numbers as an unbroken one.
        resume: go on from ``save_to``.
        settings: what must be equal for a resumed run to make sense, kept in the checkpoint. The tasks (images, seed),
            the validation, the model's rates and the schedule are compared without being named here.
        schedule: fields of `Schedule`.

    Raises:
        Diverged: the mean query loss of an epoch is no number or too high, see `_require_converging`; the checkpoint of
            the epoch before stays.
        InputError: an argument is out of range; or the checkpoint is missing, damaged or of other settings.
    """
    plan = Schedule(**schedule)
    if resume and save_to is None:
        raise InputError("resume without a checkpoint; expected its path; try save_to='checkpoint.npz'")
    identity: dict[str, Any] = {}
    if save_to is not None:
        identity = {**(settings or {}), **_identity(model, tasks, validation), **asdict(plan)}
    history, best = _restore(model, tasks, Path(save_to), identity) if resume else (History(), _copy(model))
    before, begun = history.seconds, time.perf_counter()
    step = outer_step_of(model, tasks, plan)
    with progress.bar(
        total=plan.meta_steps, initial=history.meta_steps, desc="meta-training", unit="step"
    ) as bar:
        while history.meta_steps < plan.meta_steps and not history.stopped:
            row = _epoch(model, step, tasks, history, plan, bar.update)
            score = accuracy(model, validation, inner_steps=1)
            history.epochs.append(row | {"val_accuracy": score.mean, "val_se": score.se})
            if history.best_epoch == 0 or score.mean > history.best["val_accuracy"]:
                history.best_epoch = len(history.epochs)
                best = _copy(model)
            idle = len(history.epochs) - history.best_epoch  # epochs since the best
            if plan.patience is not None and idle >= plan.patience and history.meta_steps < plan.meta_steps:
                history.stopped = f"no better epoch in the last {plan.patience}"
            history.seconds = before + time.perf_counter() - begun  # of all sessions of a resumed run
            bar.set_postfix(loss=f"{row['loss']:.3f}", val=f"{score.mean:.1f}%")
            if save_to is not None:
                arrays = {f"model.{name}": value for name, value in model.state_dict().items()}
                arrays |= {f"best.{name}": value for name, value in best.items()}
                meta = {"settings": identity, "history": asdict(history)}
                checkpoint.save(save_to, arrays | {"tasks": tasks.state()}, meta)
    model.load_state_dict(best)
    return history


def outer_step_of(model: Learner, tasks: Tasks, plan: Schedule) -> Callable[[Batch], torch.Tensor]:
    """The outer step; on a GPU as one recorded launch where possible, as launching its operations takes longest."""
    if not (tasks.table.is_cuda and model.recordable):
        return model.outer_step
    place = tasks.state()
    batch = tasks.batch(plan.meta_batch)  # for its shapes: recording draws no task
    tasks.restore(place)

    def step(x: torch.Tensor, y: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return model.outer_step(Batch(x, y, index, batch.supports, batch.ways))

    recorded = Recorded(step, (batch.x, batch.y, batch.index), list(model.state_dict().values()))
    return lambda batch: recorded(batch.x, batch.y, batch.index)


def _epoch(
    model: Learner,
    step: Callable[[Batch], torch.Tensor],
    tasks: Tasks,
    history: History,
    plan: Schedule,
    update: Callable[[], Any],
) -> dict[str, float]:
    """Train for an epoch; returns the meta-steps done by then and the epoch's mean query loss."""
    begun = time.perf_counter()
    steps = min(plan.epoch_steps, plan.meta_steps - history.meta_steps)
    losses = []
    for _ in range(steps):
        losses.append(step(tasks.batch(plan.meta_batch)))
        update()
        if losses[-1].device.type == "cpu" and not math.isfinite(losses[-1]):
            break  # on a GPU, checking here would synchronize with it after every step
    losses = torch.stack(losses).double().cpu()  # waits for a GPU, once an epoch
    if not history.epochs:  # the first meta-step's loss is from before its update
        history.untrained = float(losses[0])
    _require_converging(model, losses, history, math.log(tasks.ways))
    history.train_seconds += time.perf_counter() - begun
    return {"meta_steps": history.meta_steps + steps, "loss": float(losses.sum()) / steps}


def _require_converging(model: Learner, losses: torch.Tensor, history: History, guessing: float) -> None:
    """Refuse an epoch in which training diverged, naming the first meta-step that shows it.

    The mean query loss of an epoch may be at most `FACTOR` times `_ROOM` times the larger of two losses: that of
    guessing, log(ways), and that of the untrained network after its adaptation.
    """
    limit = _ROOM * max(guessing, history.untrained)
    if is_diverged(float(losses.mean()), limit):
        above = losses.isfinite().logical_not() | (losses > FACTOR * limit)
        first = int(above.nonzero()[0]) if above.any() else len(losses) - 1
        problem = f"the query loss is {losses[first]:.4g} at meta-step {history.meta_steps + first + 1}"
        expected = (
            f"finite losses, on the average of an epoch {FACTOR * limit:.4g} at most, {FACTOR * _ROOM:g} times that of "
            "guessing or of the untrained network"
        )
    else:
        names = [name for name, value in model.state_dict().items() if not torch.isfinite(value).all()]
        if not names:
            return
        problem = f"{names[0]} is no longer finite at meta-step {history.meta_steps + len(losses)}"
        expected = "finite numbers"
    raise Diverged(
        f"training diverged in epoch {len(history.epochs) + 1}: {problem}; expected {expected}; "
        "try a smaller --lr, --sigma-in or --sigma-out"
    )


def _identity(model: Learner, tasks: Tasks, validation: Sequence[Batch]) -> dict[str, Any]:
    """What a resumed run must share with the run it continues, besides the caller's settings."""
    asked = hashlib.sha256()
    for batch in validation:
        asked.update(batch.x.cpu().contiguous().numpy().data)
        asked.update(batch.y.cpu().contiguous().numpy().data)
    return {
        **{f"{name} of the model": getattr(model, name) for name in _RATES if hasattr(model, name)},
        **tasks.identity,
        "validation": asked.hexdigest(),
    }


def _copy(model: Learner) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _restore(
    model: Learner, tasks: Tasks, path: Path, settings: Mapping[str, Any]
) -> tuple[History, dict[str, torch.Tensor]]:
    arrays, meta = checkpoint.load(path)
    with checkpoint.restoring(path):
        checkpoint.require_same(meta["settings"], settings, f"the run in {path.parent}")
        now = model.state_dict()

        def part(prefix: str) -> dict[str, torch.Tensor]:
            found = {}
            for name, value in now.items():
                found[name] = torch.from_numpy(arrays[f"{prefix}.{name}"]).to(value)
                # A pi-limit has as many rows as it has learned; all else keeps its shape.
                if found[name].shape[1:] != value.shape[1:] or not found[name].isfinite().all():
                    raise ValueError(f"{prefix}.{name} has another shape, or is not finite")
            return found

        history, best = History(**meta["history"]), part("best")
        if not (
            math.isfinite(history.untrained)
            and 1 <= history.best_epoch <= len(history.epochs)
            and history.meta_steps > 0
        ):
            raise ValueError("a history that no run has")
        model.load_state_dict(best)  # both have to fit the model
        model.load_state_dict(part("model"))
        tasks.restore(torch.from_numpy(arrays["tasks"]))
        return history, best
