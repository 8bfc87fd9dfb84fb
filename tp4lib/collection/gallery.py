"""One page that shows all figures of a run, with captions and measured beside published numbers.

What it looks like stands in ``templates/``; here is what goes into it.
"""

import functools
import html
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tp4lib.base import packages

if TYPE_CHECKING:
    import jinja2


def index_page(merged: Mapping[str, Any]) -> str:
    """The run's ``index.html``: one section a notebook, needing nothing but the files beside it.

    Args:
        merged: as `tp4lib.collection.reproduce.gather` makes it.
    """
    names = sorted({*merged["notebooks"], *merged["runs"], *merged["unfinished"]})
    sections = [_section(name, merged) for name in names]
    return _templates().get_template("index.html").render(run=merged, sections=sections)


def metrics_table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Metrics measured beside published and theory, as HTML; formulas stay in dollars, which notebooks typeset."""
    return str(_templates().get_template("metrics.html").module.table(metrics))


def _section(name: str, merged: Mapping[str, Any]) -> dict[str, Any]:
    """What the page tells of a notebook: its last run if that failed or has not ended, and its last whole results."""
    report, run, unfinished = (merged[part].get(name) for part in ("notebooks", "runs", "unfinished"))
    whole = run if run and run["ok"] else (run or unfinished or {}).get("results_of")
    # Numbers with a counterpart, published or in theory, first: that is what the reader came for.
    metrics = (report or {}).get("metrics", {})
    ordered = sorted(metrics.items(), key=lambda item: not {"published", "theory"} & item[1].keys())
    return {
        "name": name,
        "report": report,
        "failed": None if not run or run["ok"] else run,
        "unfinished": unfinished,
        "whole": whole,
        "origin": _origin(report, whole) if report and whole else (),
        "metrics": dict(ordered),
    }


def _origin(report: Mapping[str, Any], whole: Mapping[str, Any]) -> list[str]:
    """Preset, seed, versions, commit and time of one notebook's results."""
    environment = report.get("environment", {})
    versions = environment.get("versions", {})
    told = [f"preset {report['preset']}", f"seed {report['seed']}"]
    told += [f"{package} {versions[package]}" for package in ("tp4lib", "torch") if package in versions]
    if "commit" in environment:
        changed = " with changes" if environment.get("dirty") else ""
        told.append(f"commit {environment['commit'][:9]}{changed}")
    return [*told, *filter(None, [whole.get("ended")])]


@functools.cache
def _templates() -> "jinja2.Environment":
    with packages.needed():
        import jinja2
    loader = jinja2.PackageLoader("tp4lib.collection")
    templates = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    templates.filters |= {"math": _math, "short": _short, "title_of": _title, "address": _address}
    return templates


def _math(text: str) -> Any:
    """Text as HTML, its ``$...$`` as MathML, which browsers draw by themselves: the page fetches nothing."""
    with packages.needed():
        from latex2mathml.converter import convert
        from markupsafe import Markup

    words = re.split(r"\$([^$]+)\$", text)
    return Markup(
        "".join(convert(word) if place % 2 else html.escape(word) for place, word in enumerate(words))
    )


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text[:9] if re.fullmatch("[0-9a-f]{40}", text) else text


def _address(name: str) -> str:
    """A file name as part of a link."""
    return quote(name, errors="surrogateescape")


def _title(name: str) -> str:
    number, _, words = name.partition("_")
    return " · ".join(filter(None, (number, words.replace("_", " "))))
