"""The map of what each notebook needs, and the ways through the collection: an SVG and three cards of the landing page.

What a notebook needs are the earlier notebooks that its opening cell links to. The ways stand in `wall.toml`.
"""

import html
import re
import statistics
import textwrap

from collection import Notebook, text

WIDTH, BOX, HIGH, GAP = 360, 108, 68, 34
"""Pixels: the map fits a phone without being shrunk."""
MARKS = ("M-5,0a5,5 0 1 0 10,0a5,5 0 1 0 -10,0z", "M-4.5,-4.5h9v9h-9z", "M0,-5.5L5.5,4.5H-5.5z")
INKS = ("var(--way-1)", "var(--way-2)", "var(--way-3)")


def needs(notebooks: list[Notebook]) -> dict[str, list[str]]:
    """The numbers of the notebooks that each one needs, by number."""
    found = {}
    for book in notebooks:
        linked = re.findall(r"\]\((\d\d)_\w+\.ipynb\)", text(book.cells[0]))
        found[book.name[:2]] = sorted({number for number in linked if number < book.name[:2]})
    return found


def write(notebooks: list[Notebook], ways: list[dict]) -> str:
    """The map, and one card for each way."""
    titles = {book.name[:2]: short(book.title) for book in notebooks}
    names = {book.name[:2]: book.name for book in notebooks}
    cards = "\n".join(_card(way, mark, titles, names) for mark, way in enumerate(ways))
    return (
        f"```{{raw}} html\n{_map(needs(notebooks), ways, titles, names)}\n```\n\n"
        f"::::{{grid}} 1 1 3 3\n:gutter: 3\n:class-container: ways\n\n{cards}\n::::\n"
    )


def short(title: str) -> str:
    """The title up to its first stop: ``00 · Start here: a neural network ...`` is "Start here"."""
    return re.split(r"[:(,]", title.split("· ", 1)[1])[0].strip()


def levels(needed: dict[str, list[str]]) -> list[list[str]]:
    """Notebooks in rows: each one below all that it needs, and in its row as near to them as can be."""
    depth: dict[str, int] = {}
    for number in sorted(needed):
        row = 1 + max((depth[before] for before in needed[number]), default=-1)
        while [*depth.values()].count(row) >= WIDTH // BOX:  # a row is full: go one down
            row += 1
        depth[number] = row
    rows, across = [], {}
    for here in range(1 + max(depth.values())):
        row = [number for number in sorted(depth) if depth[number] == here]
        row.sort(key=lambda n: statistics.fmean(across[before] for before in needed[n]) if needed[n] else 0)
        across |= {number: (place + 0.5) / len(row) for place, number in enumerate(row)}
        rows.append(row)
    return rows


def _map(
    needed: dict[str, list[str]], ways: list[dict], titles: dict[str, str], names: dict[str, str]
) -> str:
    rows = levels(needed)
    places = {
        number: (WIDTH * (column + 0.5) / len(row), depth * (HIGH + GAP) + 2)
        for depth, row in enumerate(rows)
        for column, number in enumerate(row)
    }
    lines = []
    for number, before in ((number, before) for number, all_ in needed.items() for before in all_):
        (x, y), (u, v) = places[before], places[number]
        y += HIGH
        lines.append(f'<path d="M{x:.0f},{y}C{x:.0f},{y + GAP} {u:.0f},{v - GAP} {u:.0f},{v}"/>')
    boxes = [_box(number, *places[number], ways, titles, names) for number in places]
    high = len(rows) * (HIGH + GAP) - GAP + 4
    return (
        f'<svg class="map" viewBox="0 0 {WIDTH} {high}" role="group" aria-label="Map of the notebooks: a line leads '
        f'from each one down to those that need it">\n<g class="needs">{"".join(lines)}</g>\n'
        + "\n".join(boxes)
        + "\n</svg>"
    )


def _box(
    number: str, x: float, y: float, ways: list[dict], titles: dict[str, str], names: dict[str, str]
) -> str:
    words = textwrap.wrap(titles[number], 16)
    rows = "".join(f'<tspan x="{x:.0f}" dy="14">{html.escape(line)}</tspan>' for line in words)
    on = [place for place, way in enumerate(ways) if number in way["notebooks"]]
    marks = "".join(
        f'{_mark(place)} transform="translate({x + BOX / 2 - 12 - 14 * k:.0f},{y + 12})"/>'
        for k, place in enumerate(on)
    )
    return (
        f'<a href="notebooks/{names[number]}.html"><rect x="{x - BOX / 2:.0f}" y="{y}" width="{BOX}" '
        f'height="{HIGH}" rx="6"/>{marks}<text x="{x - BOX / 2 + 8:.0f}" y="{y + 17}" class="number">{number}</text>'
        f'<text x="{x:.0f}" y="{y + 20}" text-anchor="middle">{rows}</text></a>'
    )


def _card(way: dict, mark: int, titles: dict[str, str], names: dict[str, str]) -> str:
    steps = "\n".join(
        f"1. [{number} {titles[number]}](notebooks/{names[number]}.ipynb)" for number in way["notebooks"]
    )
    sign = f'<svg class="sign" viewBox="-7 -7 14 14" aria-hidden="true">{_mark(mark)}/></svg>'
    return f":::{{grid-item-card}} {way['name']}\n\n{sign} {way['text']}\n\n{steps}\n:::"


def _mark(way: int) -> str:
    """The sign of a way, an SVG element that is still open."""
    return f'<path d="{MARKS[way]}" fill="{INKS[way]}"'
