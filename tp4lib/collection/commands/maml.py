"""``tp4 maml``: few-shot learning on Omniglot at one width or in one limit, by first-order MAML."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tp4lib.base import results
from tp4lib.collection.options import from_settings
from tp4lib.maml.settings import MAMLSettings


@from_settings(MAMLSettings)
def maml(
    out: Annotated[Path, typer.Option(help="Folder for metrics.json and the checkpoint.")],
    data_dir: Annotated[str | None, typer.Option(help="Folder that holds omniglot/ or its two zips.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")] = False,
    **options: Any,
) -> None:
    """Meta-train on Omniglot at one width or in a limit.

    5-way 1-shot, by first-order MAML. Keeps the best epoch by validation and tests it after 1 and 20 inner steps.

    Example: tp4 maml --limit mup --meta-steps 10000 --out runs/maml
    """
    settings = MAMLSettings(**options)  # checked before torch is loaded, which takes seconds
    from tp4lib.maml.experiment import run

    found = run(settings, out, data_dir=data_dir, device=device, resume=resume)
    print(
        f"{found['dataset']}: test accuracy {found['test_accuracy_20_steps']:.2f} +- "
        f"{found['test_accuracy_20_steps_se']:.2f} % after 20 steps, {found['test_accuracy_1_step']:.2f} % after 1 "
        f"(best of {len(found['epochs'])} epochs: {found['best_epoch']}); {out / results.METRICS}"
    )
