"""docs/formulas.md leads to the code: each function is where its row says. And every file that a page names exists."""

import ast
import importlib
import re
from functools import reduce
from pathlib import Path

import pytest

import tp4lib

LIBRARY = Path(tp4lib.__file__).resolve().parent
ROOT = LIBRARY.parent
PAGE = (ROOT / "docs" / "formulas.md").read_text("utf-8")
# Of each table: source, formula, file, function. The line of dashes has no backticks.
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("|") and "`" in line
]
PLACES = sorted({(row[2].strip("`"), name) for row in ROWS for name in re.findall(r"`([^`]+)`", row[3])})
PAGES = [
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "Makefile", "data/README.md")),
]
# Only what `git` holds: not the places of downloads, of results, or of a file that the reader is to write.
NAMED = re.compile(r"(?<![\w./-])(?:tests|tp4lib|docs|tools|benchmarks|notebooks)/[\w./*-]*[\w*]")
TO_COME = {"tests/test_new.py", "docs/_build", "docs/_build/html/index.html"}


def defined(file: Path) -> set[str]:
    """Names that a module defines at its top, and those of its classes, as Class.name."""
    found = set()
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
            if isinstance(node, ast.ClassDef):
                found |= {
                    f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)
                }
    return found


def test_every_row_has_four_cells():
    assert len(ROWS) > 70
    assert [row for row in ROWS if len(row) != 4] == []


@pytest.mark.parametrize(("file", "name"), PLACES)
def test_each_function_is_where_the_page_says(file, name):
    module = importlib.import_module("tp4lib." + file.removesuffix(".py").replace("/", "."))
    reduce(getattr, name.split("."), module)
    assert name in defined(LIBRARY / file)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[3])
def test_formulas_are_whole(row):
    """Dollars come in pairs, braces inside of them too: what MathJax needs to typeset a row."""
    parts = "".join(row[:2]).split("$")
    assert len(parts) % 2 == 1
    for formula in parts[1::2]:
        depth = 0
        for brace in re.findall(r"(?<!\\)[{}]", formula):
            depth += 1 if brace == "{" else -1
            assert depth >= 0
        assert depth == 0


def test_every_file_that_cites_a_source_has_a_row():
    """A docstring that says "Source:" computes something that a reader of the paper looks for."""
    listed = {file for file, _ in PLACES}
    citing = {
        file.relative_to(LIBRARY).as_posix()
        for file in LIBRARY.rglob("*.py")
        if file.name != "__init__.py" and re.search(r"\bSources?:", file.read_text("utf-8"))
    }
    assert citing - listed == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_that_a_page_names_exist(page):
    named = set(NAMED.findall(page.read_text("utf-8"))) - TO_COME
    # Pages of the site name notebooks without their ending.
    gone = [path for path in sorted(named) if not any(any(ROOT.glob(path + end)) for end in ("", ".ipynb"))]
    assert not gone
