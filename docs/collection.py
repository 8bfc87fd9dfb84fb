"""What the executed notebooks hold, read back from them: title, figures with captions and alt text, and numbers.

The gallery shows what `tp4 reproduce` made and computes nothing. A notebook of a run (`runs/ci/04_....ipynb`) has its
numbers in the `metrics.json` beside it; a committed notebook has them in the tables that it displays.
"""

import ast
import base64
import json
import re
import tomllib
from dataclasses import dataclass, field
from html.parser import HTMLParser
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
        metrics = {key: Metric(m["value"], m.get("published"), m.get("unit", ""), m.get("theory"))
                   for key, m in saved["metrics"].items()}  # fmt: skip
    else:
        preset = book["metadata"].get("tp4", {}).get("preset", "")
        metrics = _tables(cells)
    title = text(cells[0]).splitlines()[0].removeprefix("# ")
    return Notebook(path, title, preset, cells, _figures(cells), metrics)


class _Page(HTMLParser):
    """Collects the figures and the table rows of one HTML output."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.images: list[dict[str, str]] = []
        self.captions: list[str] = []
        self.rows: list[list[str]] = []
        self._into: list[str] | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append({key: value or "" for key, value in attrs})
        elif tag == "figcaption":
            self.captions.append("")
            self._into = self.captions
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._into = self.rows[-1]

    def handle_endtag(self, tag: str) -> None:
        if tag in ("figcaption", "td", "th"):
            self._into = None

    def handle_data(self, data: str) -> None:
        if self._into is not None:
            self._into[-1] += data


def _pages(cell: dict[str, Any]) -> list[_Page]:
    return [
        _Page("".join(output["data"]["text/html"]))
        for output in cell.get("outputs", [])
        if "text/html" in output.get("data", {})
    ]


def _figures(cells: list[dict[str, Any]]) -> list[Figure]:
    found = []
    for cell in cells:
        names = iter(_shown(text(cell)) if cell["cell_type"] == "code" else ())
        for page in _pages(cell):
            for image, caption in zip(page.images, page.captions, strict=False):
                kind, _, data = image["src"].removeprefix("data:").partition(";base64,")
                name = next(names, f"figure-{len(found) + 1}")
                found.append(Figure(name, caption, image["alt"], base64.b64decode(data), SUFFIX[kind]))
    return found


def _shown(source: str) -> list[str]:
    """The names that a cell gives to ``report.show(fig, name, ...)`` or ``(fig, *captions(name))``, in order."""
    tree = ast.parse(re.sub(r"^[%!].*$", "", source, flags=re.MULTILINE))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _named(node.func) == "show"]
    calls.sort(key=lambda call: (call.lineno, call.col_offset))
    names = [call.args[1] for call in calls if len(call.args) > 1]
    names = [
        name.value.args[0] if isinstance(name, ast.Starred) and isinstance(name.value, ast.Call) else name
        for name in names
    ]
    return [name.value for name in names if isinstance(name, ast.Constant)]


def _named(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else ""


def _tables(cells: list[dict[str, Any]]) -> dict[str, Metric]:
    """The numbers of every displayed table, read as data; only outputs stored before reports carried it are parsed."""
    metrics = {}
    for output in (output for cell in cells for output in cell.get("outputs", [])):
        for key, m in output.get("data", {}).get(MIME, {}).get("metrics", {}).items():
            metrics[key] = Metric(m["value"], m.get("published"), m.get("unit", ""), m.get("theory"))
    return metrics or _stored_before(cells)


def _stored_before(cells: list[dict[str, Any]]) -> dict[str, Metric]:
    """Reader of the HTML of tables stored before reports carried data; goes when the notebooks are executed anew."""
    metrics = {}
    for page in (page for cell in cells for page in _pages(cell)):
        if page.rows and page.rows[0][:3] == ["quantity", "measured", "published"]:
            for key, measured, published, *_ in page.rows[1:]:
                value, _, unit = measured.partition("\xa0")
                metrics[key] = Metric(float(value), float(published) if published else None, unit)
    return metrics
