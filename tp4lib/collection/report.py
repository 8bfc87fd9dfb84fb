"""What a notebook reports: figures with captions, numbers beside the published ones, and where they came from."""

import base64
import html
import io
import json
import math
import os
from pathlib import Path
from typing import Any

from tp4lib.base import packages, paths
from tp4lib.base.errors import InputError
from tp4lib.collection.figure_data import as_csv
from tp4lib.collection.gallery import metrics_table
from tp4lib.collection.manifest import Manifest
from tp4lib.collection.presets import PRESETS, choose_data
from tp4lib.collection.widgets import live
from tp4lib.data import provenance
from tp4lib.data.catalogue import Found

ASKED = "TP4_ASKED"
"""Environment variable: what `tp4 reproduce` runs a notebook as, JSON with ``notebook``, ``preset`` and ``seed``."""
MIME = "application/vnd.tp4+json"
"""Figures and tables travel under this type beside their HTML, at full precision, for programs that read notebooks.

Not ``application/json``: JupyterLab prefers that to HTML, and would show a tree of keys in place of the figure."""
# Pictures inside a notebook: pixels an inch, and how many of them a page shows to the inch (sharp on dense screens).
INLINE_DPI, CSS_DPI = 120, 80


class Report:
    """Collects one notebook's figures and metrics, and writes them under ``$TP4_OUT`` or ``runs/<preset>``.

    Args:
        notebook: the notebook's name, such as ``"04_word2vec_limit"``; also its folder in the run.
        preset: one of "ci", "class", "laptop", "paper".
        seed: the notebook's seed, recorded.

    Under `tp4 reproduce` the name is that of the file that runs, so that a copy keeps numbers of its own.

    Raises:
        InputError: unknown preset, or `tp4 reproduce` asked for another preset or seed than the notebook uses.
    """

    def __init__(self, notebook: str, preset: str, seed: int = 0) -> None:
        if preset not in PRESETS:
            raise InputError(
                f"unknown preset {preset!r}; expected one of {', '.join(PRESETS)}; set it in the parameters cell"
            )
        asked = _asked()
        wrong = [
            f"{key} is {own!r}, asked was {asked[key]!r}"
            for key, own in (("preset", preset), ("seed", seed))
            if own != asked.get(key, own)
        ]
        if wrong:
            raise InputError(
                f"the notebook's {' and '.join(wrong)}; expected what `tp4 reproduce` was asked for; tag the cell that "
                'sets preset and seed with "parameters", and call Report(name, preset, seed)'
            )
        if not asked and live():  # the data that `tp4 reproduce` would take
            choose_data(preset)
        notebook = asked.get("notebook", notebook)
        self.notebook, self.preset, self.seed = notebook, preset, seed
        self.folder = paths.runs_dir(preset) / notebook
        self.folder.mkdir(parents=True, exist_ok=True)
        self._figures: list[dict[str, Any]] = []
        self._metrics: dict[str, dict[str, Any]] = {}
        self._data: list[dict[str, Any]] = []

    def show(self, fig: Any, name: str, caption: str, alt: str) -> "Picture":
        """Save a matplotlib figure as SVG, PNG and PDF and its data as CSV; display it with its caption and alt text.

        Raises:
            InputError: a file of that name is there that no report has written.
        """
        with packages.needed():
            import matplotlib.pyplot as plt
            from PIL import Image

        files = Manifest(self.folder)
        # Laid out and measured once, not for each file: most of the time goes into placing words.
        fig.draw_without_rendering()
        fig.set_layout_engine("none")
        box = fig.get_tightbbox().padded(plt.rcParams["savefig.pad_inches"])
        for suffix, date in (("svg", "Date"), ("png", None), ("pdf", "CreationDate")):
            # No date in the file: the same figure is the same bytes.
            extra = {"metadata": {date: None}} if date else {}
            with files.atomic_path(f"{name}.{suffix}") as part:
                fig.savefig(part, format=suffix, bbox_inches=box, **extra)
        with files.atomic_path(f"{name}.csv") as part:
            part.write_text(as_csv(fig), "utf-8")
        full, small = io.BytesIO(), io.BytesIO()
        fig.savefig(full, format="png", bbox_inches=box, dpi=INLINE_DPI)
        # 80 colours are enough for lines and bands, 256 for heat maps, and keep a notebook's pictures at a quarter of
        # their bytes. Maximum coverage, because the default (median cut) gives thin lines and small words a neighbour's
        # colour; one round of k-means keeps greys grey.
        image, colours = Image.open(full).convert("RGB"), 256 if any(ax.images for ax in fig.axes) else 80
        palette = image.quantize(colours, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
        palette.save(small, format="PNG", optimize=True)
        plt.close(fig)
        entry = {"name": name, "caption": caption, "alt": alt, "files": ["svg", "png", "pdf", "csv"]}
        self._figures = [figure for figure in self._figures if figure["name"] != name] + [entry]
        return Picture(small.getvalue(), name, caption, alt, width=image.width * CSS_DPI // INLINE_DPI)

    def metric(
        self,
        key: str,
        value: float,
        published: float | None = None,
        unit: str = "",
        note: str = "",
        *,
        theory: float | None = None,
    ) -> float:
        """Record a number under ``key`` (words joined by "/"), beside what was published and what theory predicts.

        Raises:
            InputError: a value is not finite: a run that diverged must be reported as such, in words.
        """
        value = float(value)
        if not math.isfinite(value):
            raise InputError(
                f"metric {key!r} is {value}; expected a finite number; report divergence by its step instead"
            )
        if theory is not None and not math.isfinite(theory):
            raise InputError(f"theory of metric {key!r} is {theory}; expected a finite number, or None")
        numbers = {"value": value, "published": published, "theory": theory}
        entry = {name: float(number) for name, number in numbers.items() if number is not None}
        self._metrics[key] = entry | {k: words for k, words in (("unit", unit), ("note", note)) if words}
        return value

    def data(self, found: Found) -> str:
        """Record the data set that was used; returns the line that says what it is."""
        self._data.append(provenance.source(found))
        return found.describe()

    def table(self) -> "Table":
        """The metrics so far, measured beside published and theory, as a table for display."""
        return Table(self._metrics)

    def save(self) -> Path:
        """Write ``metrics.json`` (metrics, figures, and `tp4lib.data.provenance.record`) and return its path."""
        Manifest(self.folder).write_json(
            "metrics.json",
            {
                **provenance.record(seed=self.seed, preset=self.preset),
                "notebook": self.notebook,
                "metrics": self._metrics,
                "figures": self._figures,
                "data": self._data,
            },
        )
        return self.folder / "metrics.json"


class Picture:
    """A figure as Jupyter shows it: the image with its alt text, and the caption below."""

    def __init__(self, png: bytes, name: str, caption: str, alt: str, width: int) -> None:
        self.png, self.name, self.caption, self.alt, self.width = png, name, caption, alt, width

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return {MIME: {"figure": {"name": self.name, "caption": self.caption, "alt": self.alt}}}

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.png).decode()
        return (
            f'<figure><img alt="{html.escape(self.alt)}" src="data:image/png;base64,{data}" width="{self.width}" '
            'style="max-width:100%;height:auto">'
            f"<figcaption><em>{html.escape(self.caption)}</em></figcaption></figure>"
        )

    def __repr__(self) -> str:
        return f"[figure] {self.caption}"


class Table:
    """Metrics measured beside published and theory, as Jupyter shows them."""

    def __init__(self, metrics: dict[str, dict[str, Any]]) -> None:
        self.metrics = dict(metrics)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return {MIME: {"metrics": self.metrics}}

    def _repr_html_(self) -> str:
        return metrics_table(self.metrics)

    def __repr__(self) -> str:
        return "\n".join(
            f"{key}: {_number(m['value'])} {m.get('unit', '')} (published {_number(m.get('published'))})"
            + (f" (theory {_number(m['theory'])})" if "theory" in m else "")
            for key, m in self.metrics.items()
        )


def _asked() -> dict[str, Any]:
    """What `tp4 reproduce` asked for; empty in a session of its own."""
    try:
        asked = json.loads(os.environ.get(ASKED, "{}"))
    except ValueError:
        asked = None
    if not isinstance(asked, dict):
        raise InputError(f"{ASKED} is not what `tp4 reproduce` sets; expected JSON; unset {ASKED}")
    return asked


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
