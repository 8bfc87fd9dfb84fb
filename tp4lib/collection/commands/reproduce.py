"""``tp4 reproduce``: the collection, or some of its notebooks, from end to end."""

import os
from pathlib import Path
from typing import Annotated

import typer

from tp4lib.base import packages, paths


def reproduce(
    notebook: Annotated[
        list[str] | None, typer.Argument(help="Numbers or names, such as 04, or files; all by default.")
    ] = None,
    preset: Annotated[
        str, typer.Option(help="ci (minutes), class (3 minutes each), laptop (an hour), paper (full size).")
    ] = "ci",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results; default $TP4_OUT, else runs/PRESET.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with real data, in place of $TP4_DATA.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of every notebook.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Notebooks at once; the numbers stay the same.")] = 1,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads a notebook; default $OMP_NUM_THREADS, else 1 (the same bits)."),
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds that one notebook may take.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep what an earlier run finished in the folder.")
    ] = False,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Also store the outputs in the notebooks themselves.")
    ] = False,
) -> None:
    """Run notebooks; leave their figures and numbers in a folder.

    Papermill runs each notebook in a process of its own. The folder gets the executed notebooks, figures (SVG and PNG),
    metrics.json and index.html. A notebook that fails is reported with its cell, and the others still run. Earlier
    results stay until the new ones are whole.

    Example: tp4 reproduce 04 05 --preset laptop --data-dir DIR
    """
    packages.require("core", "notebooks")  # before anything is run
    from tp4lib.collection import reproduce as runner

    selected = runner.notebooks(notebook or ())
    out = out or paths.runs_dir(preset)
    plan = runner.Plan(
        preset, out, data_dir=data_dir, device=device, seed=seed, workers=workers,
        threads=threads or _threads(), timeout=timeout, in_place=in_place, resume=resume,
    )  # fmt: skip
    outcomes = runner.run(selected, plan, say=lambda line: print(line, flush=True))
    failed = [outcome.notebook for outcome in outcomes if outcome.error]
    print(f"figures and numbers: {out / 'index.html'}")
    if failed:
        print(f"failed: {', '.join(failed)}")
        raise typer.Exit(1)


def _threads() -> int:
    """``$OMP_NUM_THREADS``; the first of a list such as "4,2" (for nested regions); 1 where it is no number."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return max(1, int(first)) if first.isascii() and first.isdigit() and len(first) < 6 else 1
