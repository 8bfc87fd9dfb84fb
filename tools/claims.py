"""Every number in prose with its source: `make claims`, or `python tools/claims.py [FILE ...]`.

Prose is the Markdown of notebooks, what their `exercises.happened` and `exercises.Saw` say between the numbers of the
run, captions, the claims of `docs/wall.toml`, README.md and the pages of `docs/`. A number there has to have a source
that no run can contradict:

- *published*: it stands in `data/paper_results.csv`;
- *setting*: it stands in the notebook's own code, or in code on the same page; what a try asks for;
- *definition*: a section, table, version, year, power or formula; or "theory" stands before it;
- *tolerance*: a bound ("within", "less than") in the table of presets or in what a try leads one to expect, which tests
  hold;
- *time*: a run time near that of `tp4lib/collection/needs.json`;
- *count*: a whole number below 100 that is no percentage, factor, time or size;
- *listed*: `tools/claims.toml` says why it may stand there.

What is left was typed by hand, and a run could contradict it: the command lists it and ends with exit code 1. Numbers
that a run fills in (between generated marks, in braces) are not typed, and are not looked at.
"""

import ast
import csv
import json
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LISTED = Path(__file__).with_suffix(".toml")
SMALL = 100  # whole numbers below it count things
NEAR = 3.0  # a typed run time may be off by this factor: machines differ

_WORDS = "three|four|five|six|seven|eight|nine|ten|twenty|hundred"
_UNIT = (
    r"(?P<unit>(?:×(?!\s*[\w$])|[ -]?(?:%|‰|percent\b|per cent\b|times\b|-fold\b|fold\b|points?\b|octaves?\b"
    r"|(?:s|seconds?|min|minutes?|h|hours?|days?|ms|GB|GiB|MB|MiB|kB|TB)(?![\w-]))))?"
)
_NUMBER = re.compile(
    r"(?<![\w.^_{/-])[+−–-]?(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?![\d])"
    + _UNIT
    + rf"|\b(?P<word>{_WORDS})(?: (?P<of>times|percent|per cent))\b",
    re.IGNORECASE,
)
# What stands before a number that only names or defines something.
_NAMES = re.compile(
    r"(?:sections?|tables?|figures?|equations?|theorems?|corollar(?:y|ies)|appendi(?:x|ces)|notebooks?|exercises?|"
    r"tr(?:y|ies)|versions?|presets?|python|torch|numpy|numba|gensim|papermill|typer|ruff|cuda|"
    r"python 3\.\d+ to|theory|[★☆] ·|^#+|\n#+)[ (:=]*$",
    re.IGNORECASE,
)
_MORE = re.compile(r"(?:,| and| to| or| against|–|:| /)\s+|–")  # between numbers of one kind
_BOUND = re.compile(r"(?:within|less than|more than|below|above|at least|at most|up to)(?: about)? [−-]?$")
_PRESET = re.compile(r"\| `(\w+)` \|")
_EXPECT = re.compile(r"<summary>What to expect</summary>.*?</details>", re.DOTALL)
_TRIES = re.compile(r"^## Try this\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
_FOLDED = re.compile(r"<details>.*?</details>", re.DOTALL)
_GENERATED = re.compile(r"<!-- begin (\w+) -->.*?<!-- end \1 -->", re.DOTALL)
_MASKS = (
    re.compile(r"```.*?```", re.DOTALL),
    re.compile(r"`[^`]*`"),
    re.compile(r"\]\([^)]*\)"),
    re.compile(r"<[/!a-z][^>]*>", re.IGNORECASE),
    re.compile(r"https?://\S+|\b\d{4}\.\d{4,5}\b"),  # addresses; numbers of preprints
)
_MATH = re.compile(r"\$\$.*?\$\$|\$[^$]*\$", re.DOTALL)


@dataclass(frozen=True)
class Prose:
    """A piece of text: where it stands, and the numbers of the code beside it.

    Attributes:
        settings: all of them.
        choices: those outside of figures, which alone make a decimal a setting: a figure's are sizes and colours.
    """

    file: str
    place: str
    text: str
    settings: frozenset[float] = frozenset()
    choices: frozenset[float] = frozenset()


@dataclass
class Claim:
    """A number in prose. ``source`` is empty where it has none."""

    prose: Prose
    shown: str
    line: str
    source: str = ""


@dataclass
class Listed:
    """An entry of `tools/claims.toml`: pages (a pattern), or a text of theirs, and why its numbers may stand there."""

    file: str
    why: str
    text: str = ""
    used: int = field(default=0, compare=False)


def listed(path: Path = LISTED) -> list[Listed]:
    return [Listed(**entry) for entry in tomllib.loads(path.read_text("utf-8"))["allow"]]


def prose(root: Path = ROOT) -> Iterator[Prose]:
    """Every piece of prose of the collection."""
    books = {path.stem: path for path in sorted((root / "notebooks").glob("*.ipynb"))}
    code = {name: _settings_of(path) for name, path in books.items()}
    for path in books.values():
        yield from of_notebook(path)
    for path in sorted((root / "notebooks" / "captions").glob("*.toml")):
        for name, words in tomllib.loads(path.read_text("utf-8")).items():
            for key in ("caption", "alt"):
                text = re.sub(r"\{[^}]*\}", "…", words[key])
                yield Prose(f"captions/{path.name}", f"{name}, {key}", text, *code[path.stem])
    for name, words in tomllib.loads((root / "docs" / "wall.toml").read_text("utf-8"))["figures"].items():
        yield Prose("docs/wall.toml", name, words["claim"], *code[name.split("/")[0]])
    every = [frozenset().union(*numbers) for numbers in zip(*code.values())]
    for path in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
        page = path.read_text("utf-8")
        text = _GENERATED.sub(lambda part: "\n" * part[0].count("\n"), page)
        own = _literals_of_code(page)
        yield Prose(str(path.relative_to(root)), "", text, every[0] | own, own)


def of_notebook(path: Path) -> Iterator[Prose]:
    """What a notebook says: its Markdown, and what its cells print around the numbers of the run."""
    settings, choices = _settings_of(path)
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield Prose(path.name, cell["id"], source, settings, choices)
        elif "exercises." in source:
            for text in _told(source):
                yield Prose(path.name, cell["id"], text, settings, choices)


def _told(code: str) -> Iterator[str]:
    """The words of ``exercises.happened(...)`` and ``exercises.Saw(...)`` between what the run fills in."""
    for node in ast.walk(ast.parse(re.sub(r"^[%!].*$", "", code, flags=re.MULTILINE))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("exercises.happened", "exercises.Saw"):
            for part in node.args:
                if isinstance(part, ast.Constant):
                    yield str(part.value)
                elif isinstance(part, ast.JoinedStr):
                    yield " … ".join(str(v.value) for v in part.values if isinstance(v, ast.Constant))


def _settings_of(path: Path) -> tuple[frozenset[float], frozenset[float]]:
    """The numbers in a notebook's code, and those outside of figures; what stands in texts is left out."""
    settings: set[float] = set()
    choices: set[float] = set()
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            tree = ast.parse(re.sub(r"^[%!].*$", "", source, flags=re.MULTILINE))
            found = {
                float(node.value)
                for node in ast.walk(tree)
                if isinstance(node, ast.Constant) and type(node.value) in (int, float)
            }
            settings |= found
            if "plt." not in source and "report.show" not in source:
                choices |= found
    return frozenset(settings), frozenset(choices)


def _literals_of_code(page: str) -> frozenset[float]:
    code = " ".join(re.findall(r"```.*?```|`[^`]*`", page, re.DOTALL))
    return frozenset(float(x) for x in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?\b", code))


@cache
def published() -> frozenset[float]:
    with open(ROOT / "data" / "paper_results.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return frozenset(float(row[key]) for row in rows for key in ("value", "std") if row[key])


@cache
def run_times() -> dict[str, dict[str, float]]:
    """Seconds by preset and notebook."""
    needs = json.loads((ROOT / "tp4lib" / "collection" / "needs.json").read_text("utf-8"))
    return {
        preset: {name: each["seconds"] for name, each in entry["notebooks"].items()}
        for preset, entry in needs.items()
    }


def claims(piece: Prose, allowed: list[Listed]) -> Iterator[Claim]:
    """The numbers of a piece of prose, each with its source."""
    text = piece.text
    for mask in _MASKS:
        text = mask.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    # Of formulas only what looks measured is looked at: decimals and percentages.
    math = [found.span() for found in _MATH.finditer(text)]
    allowances = [
        (entry, found.span())
        for entry in allowed
        if fnmatch(piece.file, entry.file)
        for found in re.finditer(re.escape(entry.text) if entry.text else r"(?s)\A.*\Z", piece.text)
    ]
    bounds = [found.span() for found in _EXPECT.finditer(piece.text)]
    # What a try asks for is a setting; what is folded below it is not.
    asked = [found.span() for found in _TRIES.finditer(piece.text)]
    folded = [found.span() for found in _FOLDED.finditer(piece.text)]
    before = None
    for found in _NUMBER.finditer(text):
        if _within(found, math) and "." not in found[0] and "%" not in found[0]:
            continue
        number = text.count("\n", 0, found.start())
        claim = Claim(piece, found[0].strip(), piece.text.split("\n")[number].strip())
        tested = _PRESET.match(claim.line) or _within(found, bounds)
        claim.source = _source(found, text, claim.line, piece, bool(tested))
        if not claim.source and not found["word"] and not found["unit"] and "." not in found["digits"]:
            if _within(found, asked) and not _within(found, folded):
                claim.source = "setting"
            elif before is not None and before[1].source == "definition":
                more = _MORE.fullmatch(text[before[0] : found.start()])
                claim.source = "definition" if more else ""
        for entry, (start, end) in allowances if not claim.source else ():
            if start <= found.start() and found.end() <= end:
                claim.source = f"listed: {entry.why}"
                entry.used += 1
                break
        before = (found.end(), claim)
        yield claim


def _within(found: re.Match, spans: list[tuple[int, int]]) -> bool:
    return any(start <= found.start() < end for start, end in spans)


def _source(found: re.Match, text: str, line: str, piece: Prose, tested: bool) -> str:
    unit = (found["unit"] or found["of"] or "").strip(" -").lower()
    before = text[max(0, found.start() - 40) : found.start()]
    if found["word"]:
        return ""
    value, decimal = float(found["digits"].replace(",", "")), "." in found["digits"]
    if tested and _BOUND.search(before.replace("\n", " ")):
        return "tolerance"
    if value in published() and (unit or decimal):
        return "published"
    if _NAMES.search(before.rstrip("*−+- ") + " ") or _NAMES.search(before):
        return "definition"
    if unit in ("s", "min", "minute", "minutes", "h", "hour", "hours", "second", "seconds"):
        return _time(value, unit[0], line, piece)
    if unit in ("kb", "mb", "gb"):
        return "setting" if value * {"k": 1e3, "m": 1e6, "g": 1e9}[unit[0]] in piece.settings else ""
    if unit:
        return ""
    if value.is_integer() and 1900 <= value < 2100 and "," not in found["digits"]:
        return "definition"
    if value in (piece.choices if decimal else piece.settings):
        return "setting"
    if value.is_integer() and value < SMALL and not decimal:
        return "count"
    return ""


def _time(value: float, unit: str, line: str, piece: Prose) -> str:
    """A run time in the table of presets, beside the measured one."""
    row = _PRESET.match(line)
    if row is None:
        return ""
    seconds = value * {"s": 1, "m": 60, "h": 3600}[unit]
    measured = run_times().get(row[1], {}).get(piece.file.removesuffix(".ipynb"))
    if measured is None:
        return "estimate: this preset has no measured times"
    return "time" if 1 / NEAR <= seconds / measured <= NEAR else ""


def main(arguments: list[str] | None = None) -> int:
    wanted = sys.argv[1:] if arguments is None else arguments
    allowed = listed()
    found = [
        claim
        for piece in prose()
        if not wanted or any(piece.file in name or name in piece.file for name in wanted)
        for claim in claims(piece, allowed)
    ]
    for claim in found:
        place = " ".join(filter(None, (claim.prose.file, claim.prose.place)))
        print(f"{place}: {claim.shown} | {claim.source or 'NO SOURCE'} | {claim.line[:100]}")
    count = Counter(claim.source.split(":")[0] or "no source" for claim in found)
    print(
        f"{len(found)} numbers in prose: " + ", ".join(f"{n} {source}" for source, n in count.most_common())
    )
    return 1 if count["no source"] else 0


if __name__ == "__main__":
    sys.exit(main())
