"""``tp4 teach``: notebooks for a class, without the answers."""

from pathlib import Path
from typing import Annotated

import typer

from tp4lib import paths
from tp4lib import reproduce as runner
from tp4lib import teach as classes


def teach(
    notebook: Annotated[list[str], typer.Argument(help="Numbers or names, such as 00.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the student versions; default runs/students.")
    ] = None,
) -> None:
    """Write student versions: no answers, places to write in. The originals are the teacher's."""
    out = out or paths.runs_dir("students")
    classes.write_students(runner.notebooks(notebook), out)
