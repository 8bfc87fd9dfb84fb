"""What the executed notebooks hold, read back from them: title, figures with captions and alt text, and numbers.

The gallery shows what `tp4 reproduce` made and computes nothing. A notebook of a run (`runs/ci/04_....ipynb`) has its
numbers in the `metrics.json` beside it; a committed notebook has them in the tables that it displays.
"""

import base64
import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tp4lib.collection.report import MIME

ROOT = Path(__file__).resolve().parent.parent
SUFFIX = {"image/png": "png", "image/svg+xml": "svg", "image/jpeg": "jpg"}


@dataclass(frozen=True)
class Metric:
    """A measured number, and beside it what was published and what theory predicts, where there are such."""

    value: float
    published: float | None = None
    unit: str = ""
    theory: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A picture as its notebook shows it; ``name`` is the one given to ``report.show``."""

    name: str
    caption: str
    alt: str
    image: bytes
    suffix: str


@dataclass(frozen=True)
class Notebook:
    """One executed notebook: ``path`` is the file, ``preset`` what it was run at."""

    path: Path
    title: str
    preset: str
    cells: list[dict[str, Any]] = field(repr=False)
    figures: list[Figure] = field(repr=False)
    metrics: dict[str, Metric] = field(repr=False)

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def opening(self) -> str:
        """The first paragraph: what the reader will see."""
        return text(self.cells[0]).split("\n\n")[1]

    @property
    def run_time(self) -> str:
        """The run time that the opening table gives for this preset."""
        rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text(self.cells[0]).splitlines()
                if line.startswith("|")]  # fmt: skip
        column = (
            next((i for i, head in enumerate(rows[0]) if head.startswith("run time")), None) if rows else None
        )
        row = next((row for row in rows if row[0] == f"`{self.preset}`"), None)
        return row[column] if row and column is not None else ""


def project() -> dict[str, Any]:
    """The ``[project]`` table of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def repository() -> str:
    """The one place that says where the repository is: ``[project.urls] Repository``; empty if unset."""
    return project().get("urls", {}).get("Repository", "")


def text(cell: dict[str, Any]) -> str:
    """A cell's source: notebooks store a string or a list of lines."""
    return "".join(cell["source"])


def load(run: Path | None = None) -> list[Notebook]:
    """All notebooks of the collection: those of ``run`` where it has them, the committed ones for the rest."""
    committed = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    executed = [run / path.name if run and (run / path.name).is_file() else path for path in committed]
    return [read(path) for path in executed]


def read(path: Path) -> Notebook:
    book = json.loads(path.read_text("utf-8"))
    cells = book["cells"]
    report = path.parent / path.stem / "metrics.json"
    if report.is_file():
        saved = json.loads(report.read_text("utf-8"))
        preset = saved["preset"]
        metrics = saved["metrics"]
    else:
        preset = book["metadata"].get("tp4", {}).get("preset", "")
        told = [told for cell in cells for told, _ in _told(cell)]
        metrics = {key: metric for each in told for key, metric in each.get("metrics", {}).items()}
    title = text(cells[0]).splitlines()[0].removeprefix("# ")
    figures = [figure for cell in cells for figure in _figures(cell)]
    return Notebook(path, title, preset, cells, figures, {key: Metric(**m) for key, m in metrics.items()})


def _told(cell: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """What each figure and table of a cell tells as data, and all that stands beside it in its output."""
    for output in cell.get("outputs", []):
        if told := output.get("data", {}).get(MIME):
            yield told, output["data"]


def _figures(cell: dict[str, Any]) -> Iterator[Figure]:
    """The figures that a cell has shown; a picture's bytes stand once in a notebook, as the address of its image."""
    for told, shown in _told(cell):
        if figure := told.get("figure"):
            kind, data = re.search(
                r'src="data:([\w/+]+);base64,([^"]+)"', "".join(shown["text/html"])
            ).groups()
            yield Figure(**figure, image=base64.b64decode(data), suffix=SUFFIX[kind])
