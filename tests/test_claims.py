"""No number in prose is typed by hand that a run could contradict: `make claims` finds a source for each of them."""

import json
from collections import defaultdict

import pytest

from tests.scripts import ROOT, script

claims, collection = script("claims", "tools"), script("collection", "docs")
BOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PIECES = defaultdict(list)
for piece in claims.prose():
    PIECES[piece.file].append(piece)


def without_source(pieces):
    allowed = claims.listed()
    found = [claim for piece in pieces for claim in claims.claims(piece, allowed) if not claim.source]
    return [f"{claim.prose.place}: {claim.shown} in {claim.line!r}" for claim in found]


@pytest.mark.parametrize("file", PIECES)
def test_every_number_in_prose_has_a_source(file):
    assert not without_source(PIECES[file]), (
        "fill it in from the run, or say in tools/claims.toml why it may stand"
    )


def test_every_exception_is_needed_and_has_a_reason():
    allowed = claims.listed()
    for pieces in PIECES.values():
        for piece in pieces:
            list(claims.claims(piece, allowed))
    assert not [entry for entry in allowed if not entry.used]
    assert all(len(entry.why) > 5 for entry in allowed)


def measured(path):
    """Numbers of the stored run as a hand would type them; those that theory or the paper give are left out."""
    for metric in collection.read(path).metrics.values():
        value = f"{metric.value:.3g}"
        others = {metric.theory, metric.published, *claims.published()}
        if len(value.strip("-0.").replace(".", "")) == 3 and "." in value and float(value) not in others:
            yield f"{value} {metric.unit}".strip()


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_a_measured_number_typed_into_a_notebook_is_noticed(path, tmp_path):
    typed = sorted(set(measured(path)))
    assert len(typed) >= 3
    book = json.loads(path.read_text("utf-8"))
    last = next(cell for cell in reversed(book["cells"]) if cell["cell_type"] == "markdown")
    last["source"] = ["".join(last["source"]) + f"\n\nThe run gave {number}." for number in typed]
    copy = tmp_path / path.name
    copy.write_text(json.dumps(book), "utf-8")
    before = without_source(claims.of_notebook(path))
    after = without_source(claims.of_notebook(copy))
    assert len(after) - len(before) >= 0.95 * len(typed), "a few may be settings by chance"


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_published_is_what_a_paper_prints_and_theory_has_its_own_column(path):
    for key, metric in collection.read(path).metrics.items():
        # Table 1 prints the exponents r; that SP's largest rate falls like 1/n is said in words.
        known = metric.published is None or key.startswith("table 1/") or key == "slope/SP"
        known = known or metric.published in claims.published()
        assert known, f"{key}: report.metric(..., theory=) is for what no table prints"


@pytest.mark.parametrize(
    "text",
    [
        "Width infinity answers 38.5 % of the questions.",
        "It is 2.2 times as fast.",
        "It falls three times as far.",
        "The slope is $-0.77$.",
        "The slope is -0.49, as theory says.",
        "153 of 425 points learn features.",
        "It took 12 minutes.",
        "It differs by 3 points.",
        "Accuracy: 41.68 % published, 49.9 % here.",
        "| `laptop` | 9 h | as below |",
        "## Try this\n1. Set `lr=0.3`. The slope is -0.77.",
        "Smaller (p < 0.003) than it was (> 5).",
    ],
)
def test_measured_numbers_have_no_source(text):
    assert without_source([claims.Prose("01_abc_parametrizations.ipynb", "here", text)])


@pytest.mark.parametrize(
    "text",
    [
        "Section 9.2 of Yang & Hu 2021, Tables 2 and 3, notebook 04 ([arXiv:2011.14522](https://arxiv.org/abs/2011.14522)).",
        "Published: 43.31 % at infinity.",
        "It falls like $n^{-1/2}$ (theory −0.5).",
        "`tp4 word2vec --max-vocab 44000` has 44,000 words.",
        "Python 3.11 to 3.13, seven layers, 12 steps.",
        "## Try this\n1. Set `steps` to 200. What happens?",
        "| `ci` | 30 s | slopes within 0.1 |",
        "<!-- begin x -->38.5 %<!-- end x -->",
    ],
)
def test_other_numbers_have_one(text):
    text = claims._GENERATED.sub("", text)
    own = claims._literals_of_code(text)
    assert not without_source([claims.Prose("01_abc_parametrizations.ipynb", "here", text, own, own)])


def test_the_words_of_a_cell_are_read_and_its_numbers_are_not(tmp_path):
    code = 'exercises.happened(f"It is {slope:.2f}, not 0.43; theory −0.5.")\n'
    code += 'exercises.Saw("""\n- 38.5 % are right.""")'
    cell = {"cell_type": "code", "id": "a", "source": code, "outputs": []}
    path = tmp_path / "book.ipynb"
    path.write_text(json.dumps({"cells": [cell]}), "utf-8")
    assert [line.split(" in ")[0] for line in without_source(claims.of_notebook(path))] == [
        "a: 0.43",
        "a: 38.5 %",
    ]


def test_the_command_lists_all_and_fails_where_one_has_no_source(monkeypatch, capsys):
    assert claims.main(["docs/glossary.md"]) == 0
    assert "docs/glossary.md: 20 % | listed" in capsys.readouterr().out
    wrong = claims.Prose("README.md", "", "We measured 0.123456.")
    monkeypatch.setattr(claims, "prose", lambda: [wrong])
    assert claims.main([]) == 1
    assert "README.md: 0.123456 | NO SOURCE | We measured 0.123456." in capsys.readouterr().out
