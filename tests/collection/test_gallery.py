"""The gallery: its words fit the notebooks, its numbers are theirs, and every page reads well in a browser."""

import csv
import importlib.util
import json
import os
import subprocess
import sys
import tomllib

import pytest

from tests import browsing
from tests.scripts import script
from tp4lib.base import paths

ROOT = paths.checkout()
BUILD = [sys.executable, str(ROOT / "docs" / "build.py")]
WORDS = tomllib.loads((ROOT / "docs" / "wall.toml").read_text("utf-8"))

needs_sphinx = pytest.mark.skipif(
    importlib.util.find_spec("sphinx_book_theme") is None,
    reason="the gallery's packages are not installed; install them with `pip install -e '.[docs]'`",
)


collection, markup = script("collection", "docs"), script("markup", "docs")


@pytest.fixture(scope="module")
def notebooks():
    return collection.load()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site of the committed notebooks; a warning of Sphinx fails it."""
    out = tmp_path_factory.mktemp("gallery") / "html"
    done = subprocess.run(
        [*BUILD, "--out", str(out)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return out


@needs_sphinx
def test_a_folded_cell_is_named_by_its_title(site):
    page = (site / "notebooks" / "00_start_here.html").read_text("utf-8")
    assert "Show code cell source" not in page
    assert "Code · Figure: convergence" in page


def test_figures_have_their_name_caption_and_alt_text(notebooks):
    assert [book.name[:2] for book in notebooks] == [f"{number:02}" for number in range(len(notebooks))]
    for book in notebooks:
        source = "\n".join(map(collection.text, book.cells))
        assert book.figures
        for figure in book.figures:
            assert f'"{figure.name}"' in source
            assert len(figure.alt) > 20
            assert len(figure.caption) > 20
            assert figure.image[:4] == b"\x89PNG" or b"<svg" in figure.image[:500]


def test_words_on_the_wall_belong_to_figures_and_numbers_that_exist(notebooks):
    figures = {f"{book.name}/{figure.name}" for book in notebooks for figure in book.figures}
    gone = sorted(set(WORDS["figures"]) - figures)
    assert not gone, (
        f"docs/wall.toml speaks of figures that no notebook shows: {gone}; rename or remove them there"
    )
    metrics = {book.name: set(book.metrics) for book in notebooks}
    wanted = [(place.split("/")[0], key) for place, words in WORDS["figures"].items()
              for key in words.get("numbers", {}).values()]  # fmt: skip
    wanted += [(name, key) for name, words in WORDS["notebooks"].items() for key in words["numbers"].values()]
    wanted += [tuple(key.split("/", 1)) for key in WORDS["published"].values()]
    # A notebook that displays no table of its numbers has none to offer.
    gone = sorted({f"{name}: {key}" for name, key in wanted if metrics[name] and key not in metrics[name]})
    assert not gone, (
        f"docs/wall.toml names numbers that the notebooks do not report: {gone}; rename or remove them"
    )
    assert sum(key in metrics[name] for name, key in wanted) > 60


def test_answered_rows_are_rows_of_the_papers(notebooks):
    with open(ROOT / "data" / "paper_results.csv", newline="", encoding="utf-8") as file:
        rows = {
            "/".join((r["table"], r["task"], r["model"], r["width"])): float(r["value"])
            for r in csv.DictReader(file)
        }
    metrics = {f"{book.name}/{key}": metric for book in notebooks for key, metric in book.metrics.items()}
    for row, key in WORDS["published"].items():
        # What the notebook calls published is what the table says, to the four digits that notebooks display.
        assert metrics[key].published == pytest.approx(rows[row], rel=1e-3), row


def test_numbers_of_a_run_come_from_its_metrics(tmp_path):
    book = tmp_path / "04_word2vec_limit.ipynb"
    committed = ROOT / "notebooks" / book.name
    book.write_text(committed.read_text("utf-8"), "utf-8")
    (tmp_path / book.stem).mkdir()
    report = {
        "preset": "ci",
        "metrics": {"analogy/width_64": {"value": 1.25, "published": 33.35, "unit": "%"}},
    }
    (tmp_path / book.stem / "metrics.json").write_text(json.dumps(report))
    by_name = {found.name: found for found in collection.load(tmp_path)}
    assert by_name[book.stem].preset == "ci"
    assert by_name[book.stem].metrics == {"analogy/width_64": collection.Metric(1.25, 33.35, "%")}
    assert (
        by_name["00_start_here"].path.parent == ROOT / "notebooks"
    )  # not part of the run: the committed one


def test_folded_answers_and_captions_are_translated():
    folded = "1. Why?\n<details><summary>Answer</summary>\nBecause $x$.\n</details>\n\n2. How?"
    opened = "1. Why?\n<details><summary>Answer</summary>\n\nBecause $x$.\n\n</details>\n\n2. How?"
    assert markup.open_details(folded) == opened
    assert markup.open_details(opened) == opened
    assert markup.typeset("<em>$h^2$ of <b>5</b></em>").count(r"\(h^2\)") == 1
    assert markup.typeset("costs $5</td><td>$6") == "costs $5</td><td>$6"


def test_plain_mathematics_of_docstrings_is_kept():
    lines = ["Sum of |V| terms, a_ and x**2.", "", "    y_ = |x|", "", "Args:", "    n: M. Memory."]
    markup.plain_mathematics(None, "function", "f", None, None, lines)
    assert lines == [
        r"Sum of \|V\| terms, a\_ and x\*\*2.",
        "",
        "::",
        "",
        "    y_ = |x|",
        "",
        "Args:",
        r"    n: M\. Memory.",
    ]


@needs_sphinx
def test_a_folder_without_a_run_is_refused(tmp_path):
    done = subprocess.run([*BUILD, "--run", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"no executed notebooks in {tmp_path}; expected")
    assert len(done.stderr.splitlines()) == 1


@needs_sphinx
def test_notebooks_can_be_downloaded_as_they_were_executed(site):
    for book in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"):
        assert (site / "_sources" / "notebooks" / book.name).read_bytes() == book.read_bytes()
        assert f"_sources/notebooks/{book.name}" in (site / "notebooks" / f"{book.stem}.html").read_text(
            "utf-8"
        )


@needs_sphinx
def test_every_page_of_the_gallery_reads_well(site, browser):
    pages, wrong = browsing.inspect(browser, site)
    assert len(pages) > 50
    assert not wrong, "\n".join(wrong)


@needs_sphinx
def test_the_search_finds(site, browser):
    with browsing.served(site) as base:
        browsing.resize(browser, "desktop")
        browser.get(f"{base}/search.html?q=dichotomy")
        found = browser.execute_async_script(
            "const done = arguments[0]; const look = () => { const links = "
            "[...document.querySelectorAll('#search-results li a')].map(a => a.pathname);"
            "links.length ? done(links) : setTimeout(look, 100); }; look();"
        )
    assert "/notebooks/01_abc_parametrizations.html" in found


class TestTheBrowserSees:
    """What would be wrong with a page is seen: the checks above cannot pass by looking away."""

    @pytest.mark.parametrize(
        ("body", "complaint"),
        [
            ("<h1>a</h1><img src='none.png' alt='a picture that is not there'>", "image does not load"),
            ("<h1>a</h1><img src='dot.svg' alt='dot'>", "image without alt text"),
            ("<h1>a</h1><p>slope $n^2$</p>", "formula not typeset"),
            (r"<h1>a</h1><p class='math'>\(n^2\)</p>", "1 formulas, 0 typeset"),
            ("<h1>a</h1><p style='width:2000px'>wide</p>", "scrolls sideways"),
            ("<h1>a</h1><p style='color:#aaa'>faint</p>", "contrast 2.32"),
            ("<h1>a</h1><script>console.error('bad')</script>", "console:"),
            (
                "<h1>a</h1><script src='https://example.invalid/x.js'></script>",
                "another host: https://example.invalid",
            ),
            ("<h1>a</h1><a href='gone.html'>x</a>", "broken link to gone.html"),
            ("<h1>a</h1><a href='index.html#gone'>x</a>", "no place #gone"),
            ("<p>no heading</p>", "0 headings"),
        ],
    )
    def test_it(self, body, complaint, browser, tmp_path):
        (tmp_path / "dot.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>")
        head = "<meta name='viewport' content='width=device-width'><title>t</title><link rel='icon' href='data:,'>"
        (tmp_path / "index.html").write_text(
            f"<!DOCTYPE html><html><head>{head}</head><body>{body}</body></html>"
        )
        _, wrong = browsing.inspect(browser, tmp_path)
        assert any(complaint in line for line in wrong), wrong
        (tmp_path / "index.html").write_text(
            f"<!DOCTYPE html><html><head>{head}</head><body><h1>a</h1></body></html>"
        )
        assert browsing.inspect(browser, tmp_path) == (["index.html"], [])
