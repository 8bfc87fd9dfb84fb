"""``tp4 maml``: few-shot learning on Omniglot at one width or in one limit, by first-order MAML."""

import enum
import math
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from tp4lib.base import checks, environment, results
from tp4lib.base.errors import InputError
from tp4lib.base.files import alone_in
from tp4lib.data import catalogue as datasets

CHECKPOINT = "checkpoint.npz"
VALIDATION_TASKS, TEST_TASKS = 1024, 4096
LARGEST_WIDTH = 1e12
LARGEST = 1e6  # rate or scale; squares of it are far from what float32 holds


class Limit(enum.StrEnum):
    """Which infinitely wide network; none for a finite one."""

    mup = "mup"
    ntk = "ntk"
    gp = "gp"
    pi = "pi"
    none = "none"


class Activation(enum.StrEnum):
    """Of the hidden layer."""

    linear = "linear"
    relu = "relu"


def maml(
    out: Annotated[Path, typer.Option(help="Folder for metrics.json and the checkpoint.")],
    limit: Annotated[Limit, typer.Option(help="Infinite-width limit; none for a finite width.")] = Limit.mup,
    width: Annotated[str, typer.Option(help="Hidden width, or inf (then with a limit).")] = "inf",
    activation: Annotated[
        Activation, typer.Option(help="relu is for the kernel limits and pi.")
    ] = Activation.linear,
    rank: Annotated[int, typer.Option(min=1, help="Of the pi-limit (--limit pi).")] = 400,
    depth: Annotated[int, typer.Option(min=1, help="Hidden layers of the pi-limit.")] = 1,
    meta_steps: Annotated[int, typer.Option(min=1, help="Outer steps, of 32 tasks each.")] = 10_000,
    data_dir: Annotated[str | None, typer.Option(help="Folder that holds omniglot/ or its two zips.")] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Of the network and the training tasks.")
    ] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")] = False,
    lr: Annotated[float | None, typer.Option(help="Outer rate, in place of the paper's.")] = None,
    sigma_in: Annotated[float | None, typer.Option(help="Start of the first layer.")] = None,
    sigma_out: Annotated[float | None, typer.Option(help="Start of the second layer.")] = None,
    bias_scale: Annotated[
        float | None, typer.Option(help="alpha on the hidden bias; kernels: sigma_b.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many epochs without a better.")
    ] = None,
) -> None:
    """Meta-train on Omniglot at one width or in a limit.

    5-way 1-shot, by first-order MAML. Keeps the best epoch by validation and tests it after 1 and 20 inner steps.

    Example: tp4 maml --limit mup --meta-steps 10000 --out runs/maml
    """
    from tp4lib.base import device as devices  # these load torch, which `tp4 --help` has no need of
    from tp4lib.data import omniglot
    from tp4lib.maml import train

    n = _width(limit, width, activation)
    overrides = _overrides(lr=lr, sigma_in=sigma_in, sigma_out=sigma_out, bias_scale=bias_scale)
    where = devices.resolve(device)
    characters = omniglot.load(data_dir)
    with (
        alone_in(out),
        results.working(out, "maml", checkpoints=CHECKPOINT, resume=resume) as work,
    ):
        tasks, validation, test = train.deal(characters, seed, device=where)
        model, chosen = _learner(limit, n, activation, tasks, seed, overrides, rank, depth)
        run: dict[str, Any] = {
            "limit": limit.value, "width": "inf" if n == math.inf else int(n), "activation": activation.value,
            "seed": seed, "dataset": characters.title, **chosen,
        }  # fmt: skip
        _say_if_drawn(characters)
        try:
            history = train.fit(
                model,
                tasks,
                train.batches(validation, VALIDATION_TASKS),
                meta_steps=meta_steps,
                patience=patience,
                save_to=work.folder / CHECKPOINT,
                resume=resume,
                settings={**run, "data (SHA-256)": characters.found.sha256()},
            )
        except KeyboardInterrupt:
            if not (work.folder / CHECKPOINT).exists():
                raise
            raise InputError(
                f"interrupted; {work.folder / CHECKPOINT} is kept; go on with the same command and --resume"
            ) from None
        begun = time.perf_counter()
        asked = train.batches(test, TEST_TASKS)
        one, twenty = (train.accuracy(model, asked, inner_steps) for inner_steps in (1, 20))
        seconds = history.seconds + time.perf_counter() - begun
        more = {"meta_steps_asked": meta_steps, "seconds": seconds}
        work.finish(run | _metrics(seed, characters, where, history, one, twenty) | more)
        print(
            f"{characters.title}: test accuracy {twenty.mean:.2f} +- {twenty.se:.2f} % after 20 steps, "
            f"{one.mean:.2f} % after 1 (best of {len(history.epochs)} epochs: {history.best_epoch}); "
            f"{out / results.METRICS}"
        )


def _learner(
    limit: Limit,
    n: float,
    activation: Activation,
    tasks: Any,
    seed: int,
    overrides: dict[str, float],
    rank: int,
    depth: int,
) -> tuple[Any, dict[str, Any]]:
    """The meta-model that was asked for, and its settings."""
    device = tasks.table.device
    if limit in (Limit.ntk, Limit.gp):
        from tp4lib.maml import kernel_fomaml

        model = kernel_fomaml.build(limit.value, activation.value, tasks, **overrides)
        return model, model.settings
    if limit is Limit.pi:
        from tp4lib.maml import pi_fomaml as pi

        settings = replace(pi.Settings(), **overrides)
        model = pi.build(rank, depth, activation.value, tasks.ways, seed, settings, device)
        return model, asdict(settings) | {"rank": rank, "depth": depth}
    from tp4lib.maml import models
    from tp4lib.maml.fomaml import LinearFOMAML

    settings = replace(models.settings(n), **overrides)
    network = models.linear_network(n, tasks.ways, seed, settings).to(device)
    return LinearFOMAML(network, lr=settings.lr, inner_lr=settings.inner_lr), asdict(settings)


def _metrics(seed: int, characters: Any, where: Any, history: Any, one: Any, twenty: Any) -> dict[str, Any]:
    """What ``metrics.json`` says beside the settings; ``one``, ``twenty``: test accuracies after so many steps."""
    from tp4lib.data import provenance

    return {
        **provenance.record(seed=seed, data=[characters.found], device=where),
        "synthetic": characters.synthetic,
        "accuracy_unit": "percent",
        "test_accuracy_1_step": one.mean,
        "test_accuracy_1_step_se": one.se,
        "test_accuracy_20_steps": twenty.mean,
        "test_accuracy_20_steps_se": twenty.se,
        "test_tasks": twenty.tasks,
        "val_accuracy": history.best["val_accuracy"],
        "val_accuracy_se": history.best["val_se"],
        "val_tasks": VALIDATION_TASKS,
        "best_epoch": history.best_epoch,
        "epochs": history.epochs,
        "meta_steps": history.meta_steps,
        "stopped_early": history.stopped_early,
        "stopped_because": history.stopped,
        "meta_steps_per_second": history.meta_steps / history.train_seconds,
        "device": str(where),
    }


def _say_if_drawn(characters: Any) -> None:
    """A line on stderr where no Omniglot was found; nothing where the embedded default was asked for."""
    if characters.synthetic and environment.text("TP4_DATA") != datasets.EMBEDDED:
        print(
            f"tp4: no Omniglot was found; going on with {characters.title}, whose accuracies do not compare with "
            "published ones; to get Omniglot, run `tp4 data omniglot`, or put its two zips in --data-dir",
            file=sys.stderr,
        )


def _overrides(**given: float | None) -> dict[str, float]:
    """The rates and scales that were given, each within what float32 can square."""
    limits = {"lr": {"above": 0, "example": 0.1}}
    return {
        key: checks.real(
            f"--{key.replace('_', '-')}", value, most=LARGEST, **limits.get(key, {"least": -LARGEST})
        )
        for key, value in given.items()
        if value is not None
    }


def _width(limit: Limit, width: str, activation: Activation) -> float:
    """The width as a number, or the reason why this combination means nothing."""
    if width != "inf" and not (width.isascii() and width.removeprefix("-").isdigit()):
        raise InputError(f"--width {width[:40]}; expected a whole number or inf; try --width 512")
    n = math.inf if width == "inf" else int(width) if len(width) < 20 else 10**20
    if n < 1 or LARGEST_WIDTH < n < math.inf:
        raise InputError(f"--width {width[:40]}; expected 1 to {LARGEST_WIDTH:g}, or inf; try --width 512")
    if limit is Limit.none and n == math.inf:
        raise InputError("--limit none is a finite width, but --width is inf; try --limit none --width 512")
    if limit is not Limit.none and n != math.inf:
        raise InputError(
            f"--limit {limit} is infinitely wide, but --width is {width}; expected inf; "
            f"try --limit none --width {width}"
        )
    if activation is Activation.relu and limit in (Limit.mup, Limit.none):
        raise InputError(
            f"--activation relu with --limit {limit}; expected linear (relu is for ntk, gp and pi); "
            "try --limit ntk --activation relu"
        )
    return n
