"""Student versions: the answers are gone, the checks are not, and the notebook still runs."""

import copy
import doctest
import json
import os
import re

import nbformat
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tp4lib.base.errors import InputError
from tp4lib.collection import cli, reproduce, teach
from tp4lib.collection.notebook_source import is_folded

BOOKS = reproduce.notebooks()


def text(book, kind=None):
    return "\n".join("".join(c["source"]) for c in book["cells"] if kind in (None, c["cell_type"]))


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    out = tmp_path_factory.mktemp("students")
    teach.write_students(BOOKS, out, say=lambda line: None)
    return out


def unanswered(book):
    """How many items of "Try this" and "Exercises" have no folded answer, and are no code to be written."""
    found = 0
    for cell in book["cells"]:
        for section in re.findall(r"^## (?:Try this|Exercises)$(.*?)(?=^## |^\*\*Next:|\Z)",
                                  "".join(cell["source"]), re.MULTILINE | re.DOTALL):  # fmt: skip
            items = re.split(r"^(?=\d+\. )", section, flags=re.MULTILINE)[1:]
            found += sum("</details>" not in item and "*In code*" not in item for item in items)
    return found


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_answers_and_outputs_go_and_the_rest_stays(path, students):
    original = json.loads(path.read_text("utf-8"))
    student = json.loads((students / path.name).read_text("utf-8"))
    hints = text(original).count("<summary>Hint</summary>")
    answers = text(original, "markdown").count("<details>") - hints
    assert answers > 0
    assert text(student).count(teach.ANSWER) == answers + unanswered(original)
    assert text(student).count(teach.PREDICTION) == text(original).count("**Predict, then run.**") > 0
    assert text(student).count("<details>") == text(student).count("<summary>Hint</summary>") == hints
    assert text(student).count(teach.SAW) == 1
    assert "expected result |" not in text(student)
    assert "Answer</summary>" not in text(student)
    assert "SOLUTION" not in text(student)
    assert not [c for c in student["cells"] if c.get("outputs") or c.get("execution_count")]
    assert set(student["metadata"]["tp4"]) == {"student"}  # no digest of outputs that are gone
    # Every code cell is still there but those that tell results; only solutions were emptied.
    told = [c for c in original["cells"] if teach.RESULTS in c["metadata"].get("tags", [])]
    pairs = zip(
        *([c for c in b["cells"] if c["cell_type"] == "code" and c not in told] for b in (original, student)),
        strict=True,
    )
    for before, after in pairs:
        before, after = ("".join(cell["source"]) for cell in (before, after))
        assert (before == after) == ("### BEGIN SOLUTION" not in before)
    assert text(student).count("**Next:**") == text(original).count("**Next:**")
    ids = [cell["id"] for cell in student["cells"]]
    assert len(set(ids)) == len(ids)
    nbformat.validate(nbformat.read(students / path.name, 4))


def test_the_text_between_answers_survives_in_order():
    first = "## Exercises\n1. Why?\n<details><summary>Answer</summary>\nSo.\n</details>\n\n"
    source = first + "2. How?\n<details>\nThus.\n</details>\n\nEnd."
    book = {"metadata": {}, "cells": [{"cell_type": "markdown", "id": "a", "metadata": {}, "source": source}]}
    cells = [cell["source"] for cell in teach.student_version(book)["cells"]]
    assert cells == ["## Exercises\n1. Why?", teach.ANSWER, "2. How?", teach.ANSWER, "End."]
    assert book["cells"][0]["source"] == source  # the original is not touched


def test_every_prompt_has_a_place_to_write_also_without_an_answer():
    source = (
        "## Try this\n1. Halve it.\n2. Double it.\n<details>Twice.</details>\n3. Leave\n   it.\n\n"
        "## Exercises\n1. Why?\n2. *In code* How?\n\n**Next:** more.\n1. No prompt."
    )
    book = {"metadata": {}, "cells": [{"cell_type": "markdown", "id": "a", "metadata": {}, "source": source}]}
    cells = [cell["source"] for cell in teach.student_version(book)["cells"]]
    assert cells == [
        "## Try this\n1. Halve it.", teach.ANSWER, "2. Double it.", teach.ANSWER, "3. Leave\n   it.", teach.ANSWER,
        "## Exercises\n1. Why?", teach.ANSWER, "2. *In code* How?\n\n**Next:** more.\n1. No prompt.",
    ]  # fmt: skip


def test_a_solution_leaves_the_function_to_fill_in():
    solution = "    ### BEGIN SOLUTION\n    y = 2 * x\n    return y\n    ### END SOLUTION\n"
    source = f'def f(x):\n    """Twice x."""\n{solution}\nprint(1)'
    cell = {
        "cell_type": "code",
        "id": "a",
        "metadata": {},
        "source": source,
        "outputs": [1],
        "execution_count": 3,
    }
    (student,) = teach.student_version({"metadata": {}, "cells": [cell]})["cells"]
    assert student["source"] == f'def f(x):\n    """Twice x."""\n    {teach.CODE}\n\nprint(1)'
    scope = {}
    exec(student["source"], scope)
    with pytest.raises(NotImplementedError):
        scope["f"](1)


def test_the_student_version_of_the_tour_runs(students, tmp_path):
    tour = students / BOOKS[0].name
    (outcome,) = reproduce.run([tour], reproduce.Plan("ci", tmp_path), say=lambda line: None)
    assert outcome.error is None
    name = reproduce.result_name(tour)
    executed = json.loads((tmp_path / f"{name}.ipynb").read_text("utf-8"))
    said = json.dumps([cell.get("outputs") for cell in executed["cells"]])
    assert "exercise 4: not answered yet" in said
    metrics = json.loads((tmp_path / name / "metrics.json").read_text("utf-8"))["metrics"]
    assert metrics["convergence/slope"]["value"] == pytest.approx(-0.5, abs=0.1)


SECRET = "the_secret_of_this_exercise"


def cell(kind, source, **more):
    code = {"outputs": [], "execution_count": None} if kind == "code" else {}
    return {"cell_type": kind, "id": "a", "metadata": {}, "source": source} | code | more


def book(*cells, **metadata):
    cells = [one | {"id": f"c{index}"} for index, one in enumerate(cells)]
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def outcome(notebook):
    """The student version as JSON, or None where it is refused in one line that names a cell."""
    try:
        return json.dumps(teach.student_version(notebook))
    except InputError as error:
        line = str(error)
    assert re.match(r"cell \d+: .*; expected .*; correct the cell", line), line
    assert SECRET not in line
    return None


letters = st.sampled_from([str, str.lower, str.title])
gaps = st.sampled_from(["", " ", "  ", "\t", "_", "-", ": ", "\u00a0", "\u200b "])
ends = st.sampled_from(["\n", "\r\n", "\r", " \n", "\t\r\n"])
marks = st.fixed_dictionaries({
    "head": st.sampled_from(["### ", "###", "# ", "#", "## ", "#### ", "", "// ", "<!-- ", "\ufeff### "]),
    "indent": st.sampled_from(["", "    ", "\t", "  "]), "gap": gaps, "case": letters, "end": ends,
    "tail": st.sampled_from(["", " ", "S", ":", " (two lines)", " ###", " -->", " of exercise 3"]),
})  # fmt: skip
words = st.sampled_from(["SOLUTION", "HIDDEN TESTS", "MARK SCHEME"])


def spelt(edge, word, m):
    text = m["case"](f"{edge} {word}").replace(" ", m["gap"])
    return m["indent"] + m["head"] + text + m["tail"] + m["end"]


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["code", "markdown", "raw"]),
    words,
    marks,
    marks,
    st.sampled_from(["both", "first", "last"]),
)
def test_no_spelling_of_the_marks_gives_an_answer_away(kind, word, first, last, there):
    source = "def f():\n" + spelt("BEGIN", word, first) * (there != "last") + f"    return {SECRET}\n"
    source += spelt("END", word, last) * (there != "first") + "print(f())\n"
    found = outcome(book(cell(kind, source)))
    assert (found is None) == (there != "both")
    assert found is None or SECRET not in found


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ("### BEGIN SOLUTON", "### END SOLUTON"),
        ("# BEGIN ANSWER", "# END ANSWER"),
        ("### SOLUTION", "### /SOLUTION"),
        ("# start of the solution", "# stop"),
        ("### Answer:", ""),
        ("x = 1  ### BEGIN SOLUTION", "y = 2  ### END SOLUTION"),
        ("# SOLUTION NO PROMPT", ""),
    ],
)
def test_what_is_nearly_a_mark_is_refused(begin, end):
    assert outcome(book(cell("code", f"{begin}\nreturn {SECRET}\n{end}\n"))) is None


folds = st.sampled_from(["<details>", "<details open>", "<DETAILS>", "< details >", '<details class="a"\nid=b>',
                         "<Details  open=''>", "<details", "</details >", "<summary>"])  # fmt: skip
closings = st.sampled_from(
    ["</details>", "</DETAILS>", "</ details >", "", "</detail>", "</details>\n</details>"]
)


@settings(max_examples=150, deadline=None)
@given(folds, closings, ends, st.booleans())
@example("<details>", "</details>", "\n", True)
def test_no_spelling_of_a_fold_gives_an_answer_away(opening, closing, end, nested):
    inner = f"<details>a{end}</details>" if nested else ""
    source = f"1. Why?{end}{opening}{inner}<summary>Answer</summary>{end}{SECRET}{end}{closing}{end}2. How?"
    found = outcome(book(cell("markdown", source)))
    assert found is None or SECRET not in found
    if (opening, closing) == ("<details>", "</details>"):
        assert found is not None
        assert "2. How?" in found


def test_blocks_may_contain_blocks_and_hidden_tests_leave_nothing():
    source = "a = 1\n# begin hidden tests\n## BEGIN SOLUTION\nsecret\n## END SOLUTION\nalso\n# end hidden tests\nb = 2"
    (student,) = teach.student_version(book(cell("code", source)))["cells"]
    assert student["source"] == "a = 1\nb = 2"
    assert teach.student_version(book(cell("code", source[6:-6])))["cells"] == []


def test_a_solution_whose_mark_stands_at_the_margin_leaves_code_that_parses():
    source = "def f(x):\n### BEGIN SOLUTION\n\n    return x\n### END SOLUTION\nprint(1)"
    (student,) = teach.student_version(book(cell("code", source)))["cells"]
    assert student["source"] == f"def f(x):\n    {teach.CODE}\nprint(1)"


@pytest.mark.parametrize(
    "leaking",
    [
        cell("markdown", f"As computed above, {SECRET}."),
        cell("code", f"# {SECRET}"),
        cell("raw", SECRET),
        cell("code", "x = 1", metadata={"tags": [SECRET]}),
    ],
)
def test_an_answer_that_stands_elsewhere_too_is_refused(leaking):
    answer = cell("markdown", f"1. Why?\n<details><summary>Answer</summary>{SECRET}</details>")
    with pytest.raises(InputError, match=r"cell 1: the answer of cell 2"):
        teach.student_version(book(leaking, answer))


def test_outputs_metadata_and_pictures_of_answers_go():
    answer = f"1. Why?\n<details>![a](attachment:answer.png) {SECRET}</details>\n2. ![q](attachment:the%20question.png)"
    pictures = {"answer.png": {"image/png": SECRET}, "the question.png": {"image/png": "aGVsbG8="}}
    code = cell(
        "code", "print(1)", metadata={"tags": ["keep"], "note": SECRET}, outputs=[SECRET], execution_count=3
    )
    student = teach.student_version(
        book(
            cell("markdown", answer, attachments=pictures),
            code,
            widgets={"state": SECRET},
            kernelspec={"name": "x"},
        )
    )
    assert SECRET not in json.dumps(student)
    assert [list(one.get("attachments", ())) for one in student["cells"]] == [
        [],
        [],
        ["the question.png"],
        [],
    ]
    assert student["cells"][3]["metadata"] == {"tags": ["keep"]}
    assert student["metadata"]["kernelspec"] == {"name": "x"}


@pytest.mark.parametrize(
    "metadata", [{"tags": ["solution"]}, {"tags": ["Answer"]}, {"nbgrader": {"solution": True}}]
)
def test_a_cell_that_is_an_answer_from_end_to_end_goes(metadata):
    found = teach.student_version(
        book(*(cell(kind, SECRET, metadata=metadata) for kind in ("code", "markdown")))
    )
    assert [one["source"] for one in found["cells"]] == [teach.CODE, teach.ANSWER]
    assert SECRET not in json.dumps(found)


def test_new_cells_have_ids_that_the_format_allows():
    long = cell("markdown", "1. Why?\n<details>So.</details>\n2. How?\n<details>Thus.</details>")
    student = teach.student_version(
        {**book(), "cells": [long | {"id": "x" * 64}, long | {"id": "x" * 63 + "y"}]}
    )
    assert len({one["id"] for one in student["cells"]}) == len(student["cells"]) == 8
    nbformat.validate(nbformat.from_dict(student))


# -- what is written, and what never is ----------------------------------------------------------------------------


def written(path, notebook):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(notebook), encoding="utf-8")
    return path


@pytest.fixture
def two(tmp_path):
    """Two notebooks of a teacher's, and the folder of the class."""
    one = book(cell("markdown", "1. Why?\n<details>So.</details>"), cell("code", "x = 1"))
    return [
        written(tmp_path / "mine" / f"{name}.ipynb", one) for name in ("01_a", "02_b")
    ], tmp_path / "class"


def changed(path, how):
    notebook = json.loads(path.read_text("utf-8"))
    how(notebook)
    path.write_text(json.dumps(notebook), encoding="utf-8")


@pytest.mark.parametrize(
    "work",
    [
        lambda b: b["cells"][1].update(source="Because of n."),
        lambda b: b["cells"][2].update(outputs=[{"output_type": "stream", "name": "stdout", "text": "42"}]),
        lambda b: b["cells"].append(copy.deepcopy(b["cells"][2]) | {"id": "new"}),
        lambda b: b["metadata"].update(mine=1),
        lambda b: b["metadata"].pop("tp4"),
        lambda b: b.clear(),
    ],
)
def test_what_a_student_has_written_is_never_replaced(two, work):
    sources, out = two
    teach.write_students(sources, out, say=lambda line: None)
    teach.write_students(sources, out, say=lambda line: None)  # its own, unchanged: replaced
    changed(out / "02_b.ipynb", work)
    changed(sources[0], lambda b: b["cells"].append(cell("markdown", "more", id="z")))
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(InputError, match=r"02_b.ipynb in .*; try --out .*class-2") as caught:
        teach.write_students(sources, out)
    assert "01_a" not in str(caught.value)
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_what_is_no_file_of_ours_is_never_replaced(two, tmp_path):
    sources, out = two
    out.mkdir()
    for make in (
        lambda path: path.write_text("notes"),
        lambda path: path.mkdir(),
        lambda path: os.mkfifo(path),
        lambda path: path.symlink_to(sources[0]),
        lambda path: path.symlink_to(tmp_path / "nowhere"),
    ):
        target = out / sources[0].name
        make(target)
        with pytest.raises(InputError, match="not as `tp4 teach` has written it"):
            teach.write_students(sources, out)
        assert [path.name for path in out.iterdir()] == [target.name]
        target.rmdir() if target.is_dir() else target.unlink()


def test_one_bad_notebook_leaves_nothing_of_the_others(two, tmp_path):
    sources, out = two
    bad = written(tmp_path / "mine" / "03_c.ipynb", book(cell("code", f"### BEGIN SOLUTION\n{SECRET}")))
    with pytest.raises(InputError, match=r"03_c\.ipynb, cell 1: a solution .* does not end"):
        teach.write_students([*sources, bad], out)
    again = written(tmp_path / "other" / "01_a.ipynb", book())
    with pytest.raises(InputError, match=r"two notebooks are called 01_a\.ipynb"):
        teach.write_students([*sources, again], out)
    assert not out.exists()


SIZED = cell("code", 'SIZES = {\n    "ci": dict(n=1),\n    "class": dict(n=2),\n}')
KNOBS = cell("code", 'preset = "laptop"\nseed = 0', metadata={"tags": ["parameters"]})


def test_a_preset_is_set_and_solutions_go_to_a_folder_of_their_own(tmp_path):
    answer = cell("markdown", f"1. Why?\n<details><summary>Answer</summary>{SECRET}</details>")
    source = written(tmp_path / "mine" / "01_a.ipynb", book(KNOBS, SIZED, answer))
    out, lines = tmp_path / "class", []
    for _ in range(2):  # its own files are replaced
        teach.write_students([source], out, say=lines.append, preset="class", solutions=True)
    student, teacher = (
        json.loads((out / f"{where}01_a.ipynb").read_text("utf-8")) for where in ("", "solutions/")
    )
    assert SECRET in json.dumps(teacher)
    assert SECRET not in json.dumps(student)
    assert "with the answers" in lines[-1]
    for one in (student, teacher):
        assert one["cells"][0]["source"] == 'preset = "class"\nseed = 0'
        assert not one["cells"][0]["outputs"]
    changed(out / "solutions" / "01_a.ipynb", lambda b: b["cells"].pop())
    with pytest.raises(InputError, match=r"solutions/01_a.ipynb in "):
        teach.write_students([source], out, solutions=True)
    with pytest.raises(
        InputError, match=r"no sizes for preset 'paper' in 01_a\.ipynb; expected one of ci, class"
    ):
        teach.write_students([source], tmp_path / "other", preset="paper")
    assert not (tmp_path / "other").exists()


def test_results_go_and_hints_stay():
    head = "# A\n\n| preset | run time | expected result |\n|---|---|---|\n| `ci` | 1 s | slope $-1/2$ |\n\nMore."
    end = f"## What you saw\n- {SECRET}\n\n## Try this\n1. Go.\n<details><summary>Hint</summary>Slowly.</details>"
    found = teach.student_version(
        book(
            cell("markdown", head),
            cell("markdown", end),
            cell("code", f"say({SECRET!r})", metadata={"tags": ["results"]}),
        )
    )
    assert [one["source"] for one in found["cells"]] == [
        "# A\n\n| preset | run time |\n|---|---|\n| `ci` | 1 s |\n\nMore.",
        "## What you saw",
        teach.SAW,
        "## Try this\n1. Go.\n<details><summary>Hint</summary>Slowly.</details>",
        teach.ANSWER,
    ]


@pytest.mark.parametrize(
    "hint",
    [
        "<details><summary>Hint</summary>{}<details>x</details></details>",
        "<details open><summary>Hint</summary>{}</details>",
        "<details><summary>Hint and answer</summary>{}</details>",
        "<details>{}<summary>Hint</summary></details>",
    ],
)
def test_what_only_looks_like_a_hint_goes(hint):
    found = outcome(book(cell("markdown", "1. Why?\n" + hint.format(SECRET))))
    assert found is None or SECRET not in found


def test_folds_stay_but_for_what_is_to_be_filled_in():
    one = cell("code", "# @title Set-up\nx = 1", metadata={"tags": ["hide-input"]})
    two = cell("code", f"def f():\n    ### BEGIN SOLUTION\n    return {SECRET}\n    ### END SOLUTION",
               metadata={"tags": ["hide-input"]})  # fmt: skip
    first, second = teach.student_version(book(one, two))["cells"]
    assert is_folded(first)
    assert second["metadata"] == {}


def test_texts_that_are_no_unicode_are_written_as_they_were(two):
    (source, _), out = two
    source.write_text(
        '{"nbformat": 4, "metadata": {}, "cells": [{"cell_type": "markdown", "source": "\\ud800"}]}'
    )
    teach.write_students([source], out, say=lambda line: None)
    assert b"\\ud800" in (out / source.name).read_bytes()
    teach.write_students([source], out, say=lambda line: None)


@pytest.fixture
def tp4(monkeypatch, tmp_path, capsys):
    """`tp4 teach` in an empty folder: exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            cli.main(["teach", *map(str, arguments)])
        return end.value.code, *capsys.readouterr()

    return run


def test_the_command_writes_what_is_named(tp4, tmp_path):
    code, said, errors = tp4("00", "01_abc_parametrizations", "--out", tmp_path / "class")
    assert (code, errors) == (0, "")
    names = sorted(path.name for path in (tmp_path / "class").iterdir())
    assert names == ["00_start_here.ipynb", "01_abc_parametrizations.ipynb"]
    assert all(name in said for name in names)
    assert "00_start_here.ipynb: " in said
    assert "places to write in" in said


def test_bad_input_is_one_line_and_code_2(tp4, tmp_path):
    for arguments, message in (
        (["77"], "no notebook '77'"),
        ([], "Missing argument"),
        (["00", "--out", BOOKS[0].parent], "holds the notebooks themselves"),
        (["00", "--out", "/proc/nothing"], "cannot write to the output folder"),
    ):
        code, _, errors = tp4(*arguments)
        assert code == 2
        assert message in errors
        assert len(errors.splitlines()) == 1
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="choose one with --out"):
        teach.write_students([BOOKS[0]], BOOKS[0].parent)


def test_examples():
    assert doctest.testmod(teach).failed == 0
