"""The parts of pages that show numbers: pictures, and which notebook reproduces what. No number is typed by hand.

`wall.toml` says in words what each figure shows and names the metrics that belong to it; the values come from the
executed notebooks, the published ones from `data/paper_results.csv` and the metrics themselves.
"""

import csv
import math
import struct
import tomllib
from pathlib import Path

import jinja2
import ways
from collection import ROOT, Figure, Notebook

WIDE = 1000  # pixels of a figure that half the page would shrink too far
WORDS = tomllib.loads((Path(__file__).parent / "wall.toml").read_text("utf-8"))


def write(source: Path, notebooks: list[Notebook]) -> dict[str, str]:
    """Write the pictures under ``source/figures``; return the generated parts of pages, by name."""
    for notebook in notebooks:
        folder = source / "figures" / notebook.name
        folder.mkdir(parents=True)
        for figure in notebook.figures:
            (folder / f"{figure.name}.{figure.suffix}").write_bytes(figure.image)
    return parts(notebooks)


def parts(notebooks: list[Notebook]) -> dict[str, str]:
    """The generated parts of pages, by name; each is a template."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    figures = {f"{book.name}/{figure.name}": (book, figure) for book in notebooks for figure in book.figures}
    told = {"notebooks": notebooks, "words": WORDS, "numbers": numbers, "answers": answers(notebooks),
            "wide": wide, "figures": figures}  # fmt: skip
    made = ("wall", "pictures", "presets", "notebooks", "published")
    return {name: templates.get_template(f"{name}.md").render(told) for name in made} | {
        "ways": ways.write(notebooks, WORDS["ways"])
    }


def wide(figure: Figure) -> bool:
    """Whether a figure needs a row of its own, or its letters could not be read."""
    return figure.image[:4] == b"\x89PNG" and struct.unpack(">I", figure.image[16:20])[0] > WIDE


def number(value: float | None, unit: str = "", near: float | None = None) -> str:
    """Three digits, as Markdown: ``66.4 %``, ``$5.0\\times10^{-10}$``; but plain beside a published number ``near``."""
    if value is None:
        return "–"
    if near is not None and abs(value) < 1e-2:
        shown = f"{value:.3f}".rstrip("0").rstrip(".").replace("-", "−")
    elif value and not 1e-3 <= abs(value) < 1e5:
        exponent = math.floor(math.log10(abs(value)))
        shown = f"${value / 10**exponent:.1f}\\times10^{{{exponent}}}$"
    else:
        shown = f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
        shown = shown.replace("-", "−")
    return f"{shown} {unit}".strip()


def _exact(value: float) -> str:
    """A published number as it was printed."""
    return f"{value:g}".replace("-", "−")


def row(label: str, notebook: Notebook, key: str) -> str:
    """One line of a card: what, our number, and beside it the paper's where the paper has one, else the theory's."""
    metric = notebook.metrics[key]
    published = f"{notebook.name}/{key}" in WORDS["published"].values() or metric.theory is not None
    source = "published" if published and metric.published is not None else "theory"
    beside = metric.theory if metric.published is None else metric.published
    ours = number(metric.value, metric.unit, beside)
    theirs = "" if beside is None else f" <small>({source} {_exact(beside)})</small>"
    return f"{label} **{ours}**{theirs}"


def numbers(notebook: Notebook, keys: dict[str, str]) -> list[str]:
    """A run at another preset may lack some of the named numbers; what was not measured is not shown."""
    return [row(label, notebook, key) for label, key in keys.items() if key in notebook.metrics]


def answers(notebooks: list[Notebook]) -> list[dict[str, str]]:
    """Every row of `data/paper_results.csv`, with the metric that answers it and that metric's notebook."""
    metrics = {f"{book.name}/{key}": metric for book in notebooks for key, metric in book.metrics.items()}
    with open(ROOT / "data" / "paper_results.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        key = WORDS["published"].get("/".join(row[name] for name in ("table", "task", "model", "width")), "")
        ours = metrics.get(key)
        row |= {"ours": number(ours.value if ours else None), "book": key.split("/")[0] if ours else ""}
    return rows
