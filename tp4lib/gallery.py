"""One page that shows all figures of a run, with captions and measured beside published numbers."""

import html
import re
from collections.abc import Mapping
from typing import Any

from tp4lib import packages

_STYLE = """
:root { --ink: #1c1e21; --soft: #5c6470; --line: #dfe3e8; --paper: #ffffff; --tint: #f5f7fa; --accent: #0072b2;
  --bad: #b3261e; }
* { box-sizing: border-box; }
body { margin: 0; font: 16px/1.55 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; color: var(--ink);
  background: var(--paper); }
header, main, footer { max-width: 1120px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 40px; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 8px; }
h2 { font-size: 1.35rem; margin: 0; }
.lead, .meta, figcaption { color: var(--soft); }
.meta { font-size: .88rem; margin: 4px 0 16px; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: 8px; padding: 0; margin: 20px 0 0; }
nav a { display: block; padding: 4px 12px; border: 1px solid var(--line); border-radius: 999px; text-decoration: none;
  font-size: .9rem; }
a { color: var(--accent); }
section { border-top: 1px solid var(--line); margin-top: 40px; padding-top: 28px; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 24px; }
figure { margin: 0; padding: 16px; border: 1px solid var(--line); border-radius: 8px; background: #fff; }
figure img { width: 100%; height: auto; display: block; }
figcaption { font-size: .9rem; margin-top: 10px; color: #5c6470; }
.scroll { overflow-x: auto; margin-top: 24px; }
table { border-collapse: collapse; font-size: .9rem; min-width: 60%; }
th { text-align: left; font-weight: 600; background: var(--tint); }
th, td { padding: 6px 14px 6px 10px; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.badge { font-size: .75rem; padding: 2px 8px; border-radius: 999px; background: #fff4d6; color: #6b4e00; }
.failed { color: var(--bad); } pre { overflow-x: auto; background: var(--tint); padding: 12px; font-size: .82rem; }
footer { color: var(--soft); font-size: .85rem; padding-top: 40px; padding-bottom: 40px; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a3abb6; --line: #343a42; --paper: #16191d;
  --tint: #1f2429; --accent: #6cb8e6; --bad: #ff8a80; } }
"""


def index_page(
    reports: Mapping[str, Mapping[str, Any]],
    runs: Mapping[str, Mapping[str, Any]],
    failed: Mapping[str, str],
) -> str:
    """The run's ``index.html``: one section a notebook, needing nothing but the files beside it.

    Args:
        reports: each notebook's ``metrics.json`` (see `tp4lib.report.Report.save`).
        runs: for the notebooks of this run, ``{"seconds": ..., "ok": ...}``.
        failed: what went wrong, for those that failed.
    """
    names = sorted(set(reports) | set(runs))
    links = "".join(f'<li><a href="#{name}">{_title(name)}</a></li>' for name in names)
    preset = next((report["preset"] for report in reports.values()), "")
    sections = "\n".join(
        _section(name, reports.get(name), runs.get(name), failed.get(name)) for name in names
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>tp4: results at preset {preset}</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>Feature learning in infinite-width neural networks</h1>
<p class="lead">Every figure and number that the notebooks made at preset <strong>{preset}</strong>, measured beside
published. Source of the published numbers: Yang &amp; Hu, <em>Tensor Programs IV</em>, arXiv:2011.14522.</p>
<nav aria-label="Notebooks"><ul>{links}</ul></nav>
</header>
<main>
{sections}
</main>
<footer>Made by <code>tp4 reproduce --preset {preset}</code>. All numbers:
<a href="metrics.json">metrics.json</a>.</footer>
</body>
</html>
"""


def _section(
    name: str, report: Mapping[str, Any] | None, run: Mapping[str, Any] | None, error: str | None
) -> str:
    took = f" &middot; {run['seconds']:.0f} s" if run else ""
    head = f'<section id="{name}"><h2>{_title(name)}</h2>'
    if error:
        return f'{head}<p class="failed">Failed{took}.</p><pre>{html.escape(error)}</pre></section>'
    if report is None:
        link = f'<a href="{name}.ipynb">executed notebook</a>'
        return f'{head}<p class="meta">{link}{took} &middot; no figures of its own</p></section>'
    data = ", ".join(
        html.escape(d["title"]) + (' <span class="badge">synthetic</span>' if d["synthetic"] else "")
        for d in report["data"]
    )
    meta = f'<a href="{name}.ipynb">executed notebook</a>{took}' + (f" &middot; data: {data}" if data else "")
    figures = "".join(_figure(name, figure) for figure in report["figures"])
    numbers = _metrics(report["metrics"])
    return f'{head}<p class="meta">{meta}</p><div class="figures">{figures}</div>{numbers}</section>'


def _figure(name: str, figure: Mapping[str, str]) -> str:
    path, alt = f"{name}/{figure['name']}", html.escape(figure["alt"])
    return (
        f'<figure><a href="{path}.png"><img src="{path}.svg" alt="{alt}" loading="lazy"></a>'
        f"<figcaption>{_text(figure['caption'])}</figcaption></figure>"
    )


def _metrics(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    if not metrics:
        return ""
    # Numbers with a published counterpart first: that is what the reader came for.
    ordered = sorted(metrics.items(), key=lambda item: "published" not in item[1])
    rows = "".join(
        f"<tr><td>{html.escape(key)}</td><td class='number'>{_number(m['value'], m)}</td>"
        f"<td class='number'>{_number(m.get('published'), m)}</td><td>{_text(m.get('note', ''))}</td></tr>"
        for key, m in ordered
    )
    return (
        "<div class='scroll'><table><thead><tr><th>quantity</th><th>measured</th><th>published</th><th>note</th></tr>"
        f"</thead><tbody>{rows}</tbody></table></div>"
    )


def _number(value: float | None, metric: Mapping[str, Any]) -> str:
    if value is None:
        return ""
    unit = metric.get("unit", "")
    return f"{value:.4g}" + (f"&nbsp;{html.escape(unit)}" if unit else "")


def _text(text: str) -> str:
    """Text as HTML, its ``$...$`` as MathML, which browsers draw by themselves: the page fetches nothing."""
    with packages.needed():
        from latex2mathml.converter import convert

    words = re.split(r"\$([^$]+)\$", text)
    return "".join(convert(word) if place % 2 else html.escape(word) for place, word in enumerate(words))


def _title(name: str) -> str:
    number, _, words = name.partition("_")
    return f"{html.escape(number)} &middot; {html.escape(words.replace('_', ' '))}"
