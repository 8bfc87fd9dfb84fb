"""One page that shows all figures of a run, with captions and measured beside published numbers."""

import html
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from tp4lib.base import packages

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
figcaption { font-size: .9rem; margin-top: 10px; color: #5c6470; } figcaption a { color: #0072b2; }
.scroll { overflow-x: auto; margin-top: 24px; }
table { border-collapse: collapse; font-size: .9rem; min-width: 60%; }
th { text-align: left; font-weight: 600; background: var(--tint); }
th, td { padding: 6px 14px 6px 10px; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.badge { font-size: .75rem; padding: 2px 8px; border-radius: 999px; background: #fff4d6; color: #6b4e00; }
.older { border-left: 4px solid var(--bad); padding-left: 12px; }
.failed { color: var(--bad); } pre { overflow-x: auto; background: var(--tint); padding: 12px; font-size: .82rem; }
footer { color: var(--soft); font-size: .85rem; padding-top: 40px; padding-bottom: 40px; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a3abb6; --line: #343a42; --paper: #16191d;
  --tint: #1f2429; --accent: #6cb8e6; --bad: #ff8a80; } }
"""


def index_page(merged: Mapping[str, Any]) -> str:
    """The run's ``index.html``: one section a notebook, needing nothing but the files beside it.

    Args:
        merged: as `tp4lib.collection.reproduce.gather` makes it.
    """
    reports, runs, unfinished = merged["notebooks"], merged["runs"], merged["unfinished"]
    names = sorted({*reports, *runs, *unfinished})
    links = "".join(f'<li><a href="#{html.escape(name)}">{_title(name)}</a></li>' for name in names)
    sections = "\n".join(
        _section(name, reports.get(name), runs.get(name), unfinished.get(name)) for name in names
    )
    preset = merged["preset"]
    at = f"at preset <strong>{preset}</strong>" if preset else "at several presets"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>tp4: results {f"at preset {preset}" if preset else "of several presets"}</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>Feature learning in infinite-width neural networks</h1>
<p class="lead">Every figure and number that the notebooks made {at}, measured beside
published. Source of the published numbers: Yang &amp; Hu, <em>Tensor Programs IV</em>, arXiv:2011.14522.</p>
{_mixture(merged["mixed"])}
<nav aria-label="Notebooks"><ul>{links}</ul></nav>
</header>
<main>
{sections}
</main>
<footer>Made by <code>{html.escape(merged["environment"]["command"])}</code>. All numbers:
<a href="metrics.json">metrics.json</a>.</footer>
</body>
</html>
"""


def _mixture(mixed: Mapping[str, list[Any]]) -> str:
    """That the results are of runs that differ, and in what."""
    if not mixed:
        return ""
    told = "; ".join(
        f"{key}: {', '.join(_short(value) for value in values)}" for key, values in mixed.items()
    )
    return f'<p class="older">These are results of several runs, which differ ({told}). Each section says its own.</p>'


def _section(
    name: str,
    report: Mapping[str, Any] | None,
    run: Mapping[str, Any] | None,
    unfinished: Mapping[str, Any] | None,
) -> str:
    head = f'<section id="{html.escape(name)}"><h2>{_title(name)}</h2>'
    whole = run if run and run["ok"] else (run or unfinished or {}).get("results_of")
    notes = _failure(name, run, whole) + _unfinished(unfinished, whole)
    if not whole or report is None:
        return f"{head}{notes}</section>"
    data = ", ".join(
        html.escape(d["title"]) + (' <span class="badge">synthetic</span>' if d["synthetic"] else "")
        for d in report["data"]
    )
    meta = (
        f'<a href="{_address(name)}.ipynb">executed notebook</a> &middot; {whole["seconds"]:.0f} s'
        + (f" &middot; data: {data}" if data else "")
        + f"<br>{_origin(report, whole)}"
    )
    figures = "".join(_figure(name, figure) for figure in report["figures"])
    numbers = _metrics(report["metrics"])
    return f'{head}{notes}<p class="meta">{meta}</p><div class="figures">{figures}</div>{numbers}</section>'


def _failure(name: str, run: Mapping[str, Any] | None, whole: Mapping[str, Any] | None) -> str:
    """What went wrong in the last run, and whether the results shown are older."""
    if not run or run["ok"]:
        return ""
    ended = _when(run)
    note = (
        f'<p class="failed">Failed{f" on {ended}" if ended else ""} after {run["seconds"]:.0f} s.</p>'
        f"<pre>{html.escape(str(run['error']))}</pre>"
    )
    if whole:
        note += f'<p class="older">The results below are older than this failed run{_of(whole)}.</p>'
    return note


def _unfinished(unfinished: Mapping[str, Any] | None, whole: Mapping[str, Any] | None) -> str:
    if not unfinished:
        return ""
    begun = html.escape(str(unfinished["begun"]))
    older = f" The results below are older than that run{_of(whole)}." if whole else ""
    return f'<p class="older">A run that was begun on {begun} has not ended: it goes on, or was killed.{older}</p>'


def _of(whole: Mapping[str, Any]) -> str:
    return f": of {_when(whole)}" if _when(whole) else ""


def _when(run: Mapping[str, Any]) -> str:
    return html.escape(str(run.get("ended", "")))


def _origin(report: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
    """Preset, seed, versions, commit and time of one notebook's results."""
    environment = report.get("environment", {})
    versions = environment.get("versions", {})
    told = [f"preset {report['preset']}", f"seed {report['seed']}"]
    told += [f"{package} {versions[package]}" for package in ("tp4lib", "torch") if package in versions]
    if "commit" in environment:
        told.append(
            f"commit {environment['commit'][:9]}{' with changes' if environment.get('dirty') else ''}"
        )
    told += [_when(whole)] if _when(whole) else []
    return " &middot; ".join(html.escape(each) for each in told)


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return html.escape(text[:9] if re.fullmatch("[0-9a-f]{40}", text) else text)


def _address(name: str) -> str:
    """A file name as part of a link."""
    return html.escape(quote(name, errors="surrogateescape"))


def _figure(name: str, figure: Mapping[str, Any]) -> str:
    path, alt = f"{_address(name)}/{_address(figure['name'])}", html.escape(figure["alt"])
    more = [
        f'<a href="{path}.{kind}">{kind.upper()}</a>' for kind in figure.get("files", ()) if kind != "svg"
    ]
    return (
        f'<figure><a href="{path}.png"><img src="{path}.svg" alt="{alt}" loading="lazy"></a>'
        f"<figcaption>{_text(figure['caption'])} {' '.join(more)}</figcaption></figure>"
    )


def _metrics(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    if not metrics:
        return ""
    # Numbers with a counterpart, published or in theory, first: that is what the reader came for.
    ordered = sorted(metrics.items(), key=lambda item: not {"published", "theory"} & item[1].keys())
    rows = "".join(
        f"<tr><td>{html.escape(key)}</td><td class='number'>{_number(m['value'], m)}</td>"
        f"<td class='number'>{_number(m.get('published'), m)}</td>"
        f"<td class='number'>{_number(m.get('theory'), m)}</td><td>{_text(m.get('note', ''))}</td></tr>"
        for key, m in ordered
    )
    return (
        "<div class='scroll'><table><thead><tr><th>quantity</th><th>measured</th><th>published</th><th>theory</th>"
        f"<th>note</th></tr></thead><tbody>{rows}</tbody></table></div>"
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
    return html.escape(" · ".join(filter(None, (number, words.replace("_", " ")))))
