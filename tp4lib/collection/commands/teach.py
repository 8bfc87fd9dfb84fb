"""``tp4 teach``: notebooks for a class, without the answers."""

from pathlib import Path
from typing import Annotated

import typer

from tp4lib.base import paths
from tp4lib.collection import teach as classes


def teach(
    notebook: Annotated[list[str], typer.Argument(help="Numbers or names, such as 00, or files.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the student versions; default runs/students.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="What the students' notebooks are set to, such as class.")
    ] = None,
    solutions: Annotated[
        bool, typer.Option("--solutions", help="Also write them with their answers, to DIR/solutions.")
    ] = False,
) -> None:
    """Write student versions: no answers, places to write in.

    The originals are the teacher's. A notebook in which an answer may have been left is refused; a file in the folder
    that was changed since, a student's work, is never replaced.

    Example: tp4 teach 00 01 --preset class --out class
    """
    from tp4lib.collection import reproduce as runner

    out = out or paths.runs_dir("students")
    classes.write_students(runner.notebooks(notebook), out, preset=preset, solutions=solutions)
