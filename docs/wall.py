"""The pages that show numbers: the picture wall, and which notebook reproduces what. No number is typed by hand.

`wall.toml` says in words what each figure shows and names the metrics that belong to it; the values come from the
executed notebooks, the published ones from `data/paper_results.csv` and the metrics themselves.
"""

import csv
import math
import tomllib
from pathlib import Path

from collection import ROOT, Notebook

WORDS = tomllib.loads((Path(__file__).parent / "wall.toml").read_text("utf-8"))


def write(source: Path, notebooks: list[Notebook]) -> dict[str, str]:
    """Write the pictures under ``source/figures``; return the generated parts of pages, by name."""
    for notebook in notebooks:
        folder = source / "figures" / notebook.name
        folder.mkdir(parents=True)
        for figure in notebook.figures:
            (folder / f"{figure.name}.{figure.suffix}").write_bytes(figure.image)
    return {
        "wall": "\n".join(map(_section, notebooks)),
        "presets": _presets(notebooks),
        "notebooks": _overview(notebooks),
        "published": _published(notebooks),
    }


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


def _numbers(notebook: Notebook, keys: dict[str, str]) -> list[str]:
    """A run at another preset may lack some of the named numbers; what was not measured is not shown."""
    return [row(label, notebook, key) for label, key in keys.items() if key in notebook.metrics]


def _section(notebook: Notebook) -> str:
    cards = "\n".join(_card(notebook, figure) for figure in notebook.figures)
    return f"""## {notebook.title}

::::{{grid}} 1 1 2 3
:gutter: 3
:class-container: wall

{cards}
::::
"""


def _card(notebook: Notebook, figure) -> str:
    words = WORDS["figures"].get(f"{notebook.name}/{figure.name}", {})
    claim = words.get("claim") or figure.caption
    rows = "\n".join(f"- {row}" for row in _numbers(notebook, words.get("numbers", {})))
    alt = " ".join(figure.alt.split())
    return f""":::{{grid-item-card}}
:img-top: figures/{notebook.name}/{figure.name}.{figure.suffix}
:img-alt: {alt}
:class-img-top: picture
:link: notebooks/{notebook.name}
:link-type: doc
:link-alt: Notebook {notebook.title}

**{claim}**

{rows}
:::
"""


def _presets(notebooks: list[Notebook]) -> str:
    by_preset: dict[str, list[str]] = {}
    for notebook in notebooks:
        by_preset.setdefault(notebook.preset, []).append(notebook.name[:2])
    if len(by_preset) == 1:
        return f"preset `{next(iter(by_preset))}`"
    return "; ".join(
        f"preset `{preset}` (notebooks {', '.join(names)})" for preset, names in by_preset.items()
    )


def _overview(notebooks: list[Notebook]) -> str:
    lines = [
        "| notebook | of the paper | measured here (published, or theory) | time, 2 cores |",
        "|---|---|---|---|",
    ]
    for notebook in notebooks:
        words = WORDS["notebooks"].get(notebook.name, {})
        rows = "<br>".join(_numbers(notebook, words.get("numbers", {}))) or "–"
        lines.append(
            f"| [{notebook.title}](notebooks/{notebook.path.name}) | {words.get('paper', '')} | {rows} "
            f"| {notebook.run_time} |"
        )
    return "\n".join(lines) + "\n"


def _published(notebooks: list[Notebook]) -> str:
    """Every row of `data/paper_results.csv`, beside the metric that answers it."""
    metrics = {f"{book.name}/{key}": metric for book in notebooks for key, metric in book.metrics.items()}
    with open(ROOT / "data" / "paper_results.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lines = [
        "| table | task | model | width | published, % | measured here, % | notebook |",
        "|---|---|---|---|--:|--:|---|",
    ]
    for row in rows:
        place = "/".join(row[column] for column in ("table", "task", "model", "width"))
        key = WORDS["published"].get(place, "")
        ours, book = metrics.get(key), key.split("/")[0]
        link = f"[{book[:2]}](notebooks/{book}.ipynb)" if ours else ""
        width = row["width"].replace("inf", "∞")
        theirs = f"{row['value']} ± {row['std']}" if row["std"] else row["value"]
        lines.append(
            f"| {row['source']} | {row['task']} | {row['model']} | {width} | {theirs} "
            f"| {number(ours.value if ours else None)} | {link} |"
        )
    return "\n".join(lines) + "\n"
