"""Notebooks for a class: the same notebook without its answers and outputs, with places to write in.

What goes: the folded answers (``<details>``), the outputs, and the lines of code cells from ``### BEGIN SOLUTION`` to
``### END SOLUTION`` (nbgrader's marks, so that a course that grades with nbgrader can take the originals). What stays:
the text, the code, the checks. What comes: a cell to write in below each prediction asked for and each exercise.
"""

import copy
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tp4lib.errors import InputError
from tp4lib.files import atomic_path, out_dir
from tp4lib.notebook_source import KEY

ANSWER = "*Your answer:* (double-click here to write)"
PREDICTION = "*Your prediction:* (double-click here to write, before you run the next cell)"
CODE = 'raise NotImplementedError("your code here")'

_FOLDED = re.compile(r"\n*<details>.*?</details>[ \t]*\n?", re.DOTALL)
_SOLUTION = re.compile(
    r"^([ \t]*)### BEGIN SOLUTION\n.*?^[ \t]*### END SOLUTION[ \t]*$", re.DOTALL | re.MULTILINE
)
_PREDICT = re.compile(r"^(> )?\*\*Predict, then run\.\*\*", re.MULTILINE)


def student_version(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook (nbformat 4, as JSON) without answers and outputs, with cells to write in.

    >>> cells = [{"cell_type": "markdown", "id": "a", "metadata": {}, "source": "1. Why?\\n<details>So.</details>"}]
    >>> [cell["source"] for cell in student_version({"cells": cells, "metadata": {}})["cells"]]
    ['1. Why?', '*Your answer:* (double-click here to write)']
    """
    book = copy.deepcopy(notebook)
    book["metadata"].pop(KEY, None)  # the digest of outputs that are gone
    book["cells"] = [new for cell in book["cells"] for new in _student_cells(cell)]
    return book


def write_students(
    notebooks: Sequence[Path], out: Path, say: Callable[[str], None] = print
) -> list[dict[str, Any]]:
    """Write the student versions of ``notebooks`` to the folder ``out``, under their own names; returns them.

    Raises:
        InputError: ``out`` is the folder of a notebook itself, or cannot be written.
    """
    for path in notebooks:
        if path.resolve().parent == out.resolve():
            raise InputError(
                f"{out} holds the notebooks themselves; expected another folder; choose one with --out DIR"
            )
    out, books = out_dir(out), []
    for path in notebooks:
        books.append(student_version(json.loads(path.read_text("utf-8"))))
        with atomic_path(out / path.name) as part:
            part.write_text(json.dumps(books[-1], indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        places = sum(
            cell["source"].count(word) for cell in books[-1]["cells"] for word in (ANSWER, PREDICTION, CODE)
        )
        say(f"{out / path.name}: {places} places to write in")
    return books


def _student_cells(cell: dict[str, Any]) -> list[dict[str, Any]]:
    source = "".join(cell["source"])
    cell = cell | {"source": source}
    if cell["cell_type"] == "code":
        blank = _SOLUTION.sub(lambda found: found[1] + CODE, source)
        return [cell | {"source": blank, "outputs": [], "execution_count": None}]
    questions = _FOLDED.split(source)
    if len(questions) == 1:
        return [cell, _place(cell, PREDICTION, 1)] if _PREDICT.search(source) else [cell]
    cells = []
    for index, text in enumerate(questions):
        if text.strip():
            cells.append(cell | {"source": text.strip("\n"), "id": f"{cell['id']}-{index}"})
        if index < len(questions) - 1:
            cells.append(_place(cell, ANSWER, index))
    return cells


def _place(cell: dict[str, Any], words: str, index: int) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": f"{cell['id']}-to-fill-{index}", "metadata": {}, "source": words}
