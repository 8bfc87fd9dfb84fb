"""Notebooks for a class: the same notebook without its answers and outputs, with places to write in.

What goes: the folded answers (``<details>``), the outputs, the metadata, and the lines from ``### BEGIN SOLUTION`` to
``### END SOLUTION``, of hidden tests and of mark schemes (nbgrader's marks: a course that grades with nbgrader can take
the originals). What stays: the text, the code, the checks, and hints (``<details><summary>Hint</summary>``), folded.
What comes: a cell to write in below each prediction asked for, each "try this" and each exercise, and in the place of
"What you saw", which tells results; so does the first table's column "expected result", which goes.

People misspell marks, and a mark that is overlooked gives an answer away. So marks are read leniently, and a notebook
in which anything like a mark is left is refused. Nor is anything overwritten that a student may have written.
"""

import functools
import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tp4lib.base.errors import InputError
from tp4lib.base.files import atomic_path, out_dir
from tp4lib.collection.notebook_source import FOLDED, KEY, RESULTS, fold, read_notebook
from tp4lib.collection.presets import require_sizes

ANSWER = "*Your answer:* (double-click here to write)"
PREDICTION = "*Your prediction:* (double-click here to write, before you run the next cell)"
SAW = "*What I saw:* (double-click here to write)"
CODE = 'raise NotImplementedError("your code here")'
FOLDER = "solutions"

_GAP = r"(?:[^\w\n]|_)*"  # between the words of a mark
_BLOCK = rf"(?P<block>SOLUTION|HIDDEN{_GAP}TEST|MARK{_GAP}SCHEME)"
# A line that is a mark: with any number of hashes, in capitals or not, whatever follows.
_MARK = re.compile(rf"{_GAP}(?P<edge>BEGIN|END){_GAP}{_BLOCK}.*", re.IGNORECASE)
_FOLD = re.compile(r"<\s*(?P<end>/?)\s*details\b[^>]*>", re.IGNORECASE)
_SUMMARY = re.compile(r"<\s*summary\b.*?</\s*summary\s*>|<[^>]*>", re.IGNORECASE | re.DOTALL)
# Exactly so: any other spelling is an answer.
_HINT = re.compile(
    r"<details>\s*<summary>Hint</summary>(?:(?!</?\s*(?:details|summary)\b).)*</details>", re.DOTALL
)
_SEEN = re.compile(r"^(## What you saw) *$.*?(?=^## |^\*\*Next:|\Z)", re.MULTILINE | re.DOTALL)
_ITEM = re.compile(r"^(?=## |\*\*Next:|\d+\. )", re.MULTILINE)
_ASKING = re.compile(r"## (Try this|Exercises)\b")
_EXPECTED = re.compile(r"^\|.*\| *expected result *\|\n(\|.*\|\n?)+", re.MULTILINE)
_PRESET = re.compile(r"^preset *= *(['\"])\w+\1", re.MULTILINE)
_PREDICT = re.compile(r"^(> )?\*\*Predict, then run\.\*\*", re.MULTILINE)

# What must not be left in a student's notebook: in any cell, and in code.
_LEFT = re.compile(
    rf"</?\s*(details|summary)\b"
    rf"|\b(begin|end|start|stop){_GAP}((of|the)\b{_GAP})*(solution|hidden{_GAP}test|mark{_GAP}scheme)",
    re.IGNORECASE,
)
_LEFT_IN_CODE = re.compile(
    r"#+\s*(BEGIN|END|START|STOP)\b|#.*\b(SOLUTION|ANSWER|HIDDEN)S?\b|###.*\b(?i:solutions?|answers?)\b"
)
_WHOLE = {"solution", "solutions", "answer", "answers"}
"""Tags of cells that are answers from end to end."""
_TELLING = 12  # characters from which a removed text that occurs elsewhere is no accident


@dataclass(frozen=True)
class _Piece:
    """A part of a cell: kept text, or what has been taken out of it.

    ``stub`` stands in the place of an answer in code; in text an answer with a stub becomes a cell to write in.
    """

    text: str
    taken: bool = False
    stub: str | None = None

    @property
    def secret(self) -> str:
        """The text alone, on one line: without tags and the title of a fold."""
        return " ".join(_SUMMARY.sub(" ", self.text).split())


def student_version(notebook: dict[str, Any], preset: str | None = None) -> dict[str, Any]:
    """The notebook (nbformat 4, as JSON) without answers, outputs and metadata, with cells to write in.

    Raises:
        InputError: an answer may have been left in; the line names the cell.

    >>> cells = [{"cell_type": "markdown", "id": "a", "metadata": {}, "source": "1. Why?\\n<details>So.</details>"}]
    >>> [cell["source"] for cell in student_version({"cells": cells, "metadata": {}})["cells"]]
    ['1. Why?', '*Your answer:* (double-click here to write)']
    """
    cells: list[tuple[int, dict[str, Any]]] = []
    secrets: list[tuple[int, str]] = []
    for number, cell in enumerate(notebook["cells"], 1):
        pieces = _pieces(cell, number)
        secrets += [(number, piece.secret) for piece in pieces if piece.taken and piece.stub != SAW]
        cells += [(number, new) for new in _student_cells(cell, pieces)]
    _require_clean(cells, secrets)
    return _dressed(notebook, [cell for _, cell in cells], preset)


def teacher_version(notebook: dict[str, Any], preset: str | None = None) -> dict[str, Any]:
    """The notebook with its answers and without outputs, for who teaches."""
    cells = [_cell(cell, "".join(cell["source"])) for cell in notebook["cells"]]
    return _dressed(notebook, cells, preset)


def _dressed(notebook: dict[str, Any], cells: list[dict[str, Any]], preset: str | None) -> dict[str, Any]:
    """A notebook of these cells, at this preset, which knows itself again."""
    for cell in cells:
        if preset is not None and "parameters" in cell["metadata"].get("tags", []):
            cell["source"] = _PRESET.sub(f'preset = "{preset}"', cell["source"])
    # Of the notebook's metadata (which may hold outputs, of widgets for instance) only what is needed to run it.
    kept = ("kernelspec", "language_info")
    metadata = {key: notebook["metadata"][key] for key in kept if key in notebook["metadata"]}
    book = notebook | {"metadata": metadata, "cells": cells}
    return book | {"metadata": metadata | {KEY: {"student": _digest(book)}}}


def write_students(
    notebooks: Sequence[Path],
    out: Path,
    say: Callable[[str], None] = print,
    *,
    preset: str | None = None,
    solutions: bool = False,
) -> list[dict[str, Any]]:
    """Write the student versions of ``notebooks`` to the folder ``out``, under their own names; returns them.

    Either all are written or, where one cannot be, none. A file that is there already is replaced only if it is as an
    earlier call has written it.

    Args:
        preset: what the notebooks are set to; None leaves theirs.
        solutions: also write them with their answers, to the folder ``solutions`` in ``out``.

    Raises:
        InputError: an answer may have been left in; ``out`` is the folder of a notebook itself, cannot be written, or
            holds a file of such a name that somebody has changed; two notebooks have the same name.
    """
    for path in notebooks:
        if path.resolve().parent == out.resolve():
            raise InputError(
                f"{out} holds the notebooks themselves; expected another folder; choose one with --out DIR"
            )
    books: dict[str, dict[str, Any]] = {}
    answers: dict[str, dict[str, Any]] = {}
    for path in notebooks:
        if path.name in books:
            raise InputError(f"two notebooks are called {path.name}; expected different names; rename one")
        try:
            original = read_notebook(path)
            if preset is not None:
                require_sizes({path.name: original}, preset)
            books[path.name] = student_version(original, preset)
            if solutions:
                answers[f"{FOLDER}/{path.name}"] = teacher_version(original, preset)
        except InputError as error:
            line = str(error)
            raise InputError(line if path.name in line else f"{path.name}, {line}") from None
    if changed := [name for name in books | answers if not _may_replace(out / name)]:
        raise InputError(
            f"{', '.join(changed)} in {out}: not as `tp4 teach` has written it, so a student's work may be in it; "
            f"expected a folder without; try --out {out}-2"
        )
    out_dir(out / FOLDER if answers else out)
    for name, book in (books | answers).items():
        with atomic_path(out / name) as part:
            # A half of a surrogate pair, which JSON can hold and UTF-8 cannot, stays the escape that it was.
            text = json.dumps(book, ensure_ascii=False, indent=1) + "\n"
            part.write_text(text, encoding="utf-8", errors="backslashreplace")
        sources = [cell["source"] for cell in book["cells"]]
        places = sum(source.count(word) for source in sources for word in (ANSWER, PREDICTION, SAW, CODE))
        say(f"{out / name}: " + (f"{places} places to write in" if name in books else "with the answers"))
    return list(books.values())


def _pieces(cell: dict[str, Any], number: int) -> list[_Piece]:
    """The source of a cell, cut at its marks."""
    source = "".join(cell["source"]).replace("\r\n", "\n").replace("\r", "\n")
    pieces = _between_marks(source if cell["cell_type"] == "code" else _without_expectations(source), number)
    if cell["cell_type"] != "code":
        for cut in (functools.partial(_unfolded, number=number), _unseen):
            pieces = [new for piece in pieces for new in ([piece] if piece.taken else cut(piece.text))]
        pieces = list(_with_places(pieces))
    if _is_answer(cell) and not any(piece.taken for piece in pieces):
        pieces = [_Piece(source, taken=True, stub=CODE)]
    return pieces


def _between_marks(source: str, number: int) -> list[_Piece]:
    """Cut at lines such as ``### BEGIN SOLUTION`` and ``### END SOLUTION``; blocks may contain blocks."""
    pieces: list[_Piece] = []
    kept: list[str] = []
    taken: list[str] = []
    depth, solution = 0, False
    for line in source.split("\n"):
        mark = _MARK.fullmatch(_plain(line))
        if mark is None:
            (taken if depth else kept).append(line)
            continue
        begins = mark["edge"].upper() == "BEGIN"
        if depth == 0:
            if not begins:
                raise _refused(number, f"{_short(line)} without its beginning", "BEGIN and END in pairs")
            pieces += [_Piece("\n".join(kept))] * bool(kept)
            kept, taken = [], []
            solution = mark["block"].upper() == "SOLUTION"
        depth += 1 if begins else -1
        if depth == 0:
            body = next((text for text in taken if text.strip()), line)
            stub = re.match(r"\s*", body)[0] + CODE if solution else None
            pieces.append(_Piece("\n".join(taken), taken=True, stub=stub))
    if depth:
        raise _refused(number, "a solution or a hidden test that does not end", "BEGIN and END in pairs")
    return [*pieces, *[_Piece("\n".join(kept))] * bool(kept)]


def _unfolded(text: str, number: int) -> Iterator[_Piece]:
    """Cut at ``<details>`` and ``</details>``, with attributes or without; folds may contain folds."""
    depth = start = 0
    hints = [hint.span() for hint in _HINT.finditer(text)]
    for tag in _FOLD.finditer(text):
        if depth == 0 and any(first <= tag.start() < last for first, last in hints):
            continue
        if depth == 0 and not tag["end"]:
            yield _Piece(text[start : tag.start()])
            start = tag.end()
        depth += -1 if tag["end"] else 1
        if depth < 0:
            raise _refused(number, "</details> without its beginning", "<details> and </details> in pairs")
        if depth == 0:
            yield _Piece(text[start : tag.start()], taken=True, stub=CODE)
            start = tag.end()
    if depth:
        raise _refused(number, "<details> without its end", "<details> and </details> in pairs")
    yield _Piece(text[start:])


def _unseen(text: str) -> Iterator[_Piece]:
    """Cut out what stands below "What you saw"."""
    start = 0
    for section in _SEEN.finditer(text):
        yield _Piece(text[start : section.end(1)])
        yield _Piece(text[section.end(1) : section.end()], taken=True, stub=SAW)
        start = section.end()
    yield _Piece(text[start:])


def _with_places(pieces: Sequence[_Piece]) -> Iterator[_Piece]:
    """A place to write also below each item of "Try this" and "Exercises" that no answer follows, but for code."""
    asking = False
    for piece, following in zip(pieces, [*pieces[1:], None], strict=True):
        kept, items = "", [] if piece.taken else _ITEM.split(piece.text)
        for place, item in enumerate(items, 1):
            if item.startswith(("## ", "**Next:")):
                asking = _ASKING.match(item) is not None
            kept += item
            answered = place == len(items) and following is not None and following.taken
            if asking and re.match(r"\d+\. ", item) and "*In code*" not in item and not answered:
                yield from (_Piece(kept), _Piece("", taken=True, stub=CODE))
                kept = ""
        yield piece if piece.taken else _Piece(kept)


def _without_expectations(text: str) -> str:
    """``text`` without the column "expected result" of its table of presets."""

    def narrower(table: re.Match[str]) -> str:
        rows = table[0].rstrip("\n").split("\n")
        return "\n".join(row.rstrip().rstrip("|").rpartition("|")[0] + "|" for row in rows) + "\n"

    return _EXPECTED.sub(narrower, text)


def _is_answer(cell: dict[str, Any]) -> bool:
    """Whether the cell is an answer from end to end: by its tags, or nbgrader's."""
    metadata = cell.get("metadata", {})
    grader = metadata.get("nbgrader")
    return bool(_WHOLE & {str(tag).lower() for tag in metadata.get("tags", [])}) or (
        isinstance(grader, dict) and bool(grader.get("solution"))
    )


def _student_cells(cell: dict[str, Any], pieces: Sequence[_Piece]) -> Iterator[dict[str, Any]]:
    """What becomes of a cell: its kept text, and the places to write in."""
    if RESULTS in cell.get("metadata", {}).get("tags", []):
        return
    if cell["cell_type"] == "code":
        parts = [piece.stub if piece.taken else piece.text for piece in pieces]
        source = "\n".join(part for part in parts if part is not None)
        # A cell that held nothing but hidden tests goes; what is to be filled in is not folded.
        if source.strip() or not any(piece.taken for piece in pieces):
            yield _cell(cell, source, unfold=any(piece.stub for piece in pieces))
        return
    for index, piece in enumerate(pieces):
        if piece.stub is not None:
            prompt = SAW if piece.stub == SAW else ANSWER
            yield _cell({"cell_type": "markdown", "id": cell.get("id")}, prompt, index)
        elif not piece.taken and (text := re.sub(r"\A([ \t]*\n)+", "", piece.text).rstrip()):
            yield _cell(cell, text, index)
    if not any(piece.taken for piece in pieces) and _PREDICT.search(pieces[0].text):
        yield _cell({"cell_type": "markdown", "id": cell.get("id")}, PREDICTION, 1)


def _cell(origin: dict[str, Any], source: str, index: int = 0, unfold: bool = False) -> dict[str, Any]:
    """A cell like ``origin`` with another source; of what else it held, tags, fold and the pictures still shown."""
    tags = [tag for tag in origin.get("metadata", {}).get("tags", []) if not (unfold and tag == FOLDED)]
    name = origin.get("id")
    if index and name is not None:  # ids are at most 64 characters and differ within a notebook
        name = hashlib.sha256(f"{name}/{index}".encode()).hexdigest()[:16]
    cell = {
        "cell_type": origin["cell_type"],
        **({"id": name} if name is not None else {}),
        "metadata": {"tags": tags} if tags else {},
        "source": source,
    }
    if FOLDED in tags:
        fold(cell)
    if cell["cell_type"] == "code":
        cell |= {"outputs": [], "execution_count": None}
    pictures = {
        file: data
        for file, data in (origin.get("attachments") or {}).items()
        if any(f"attachment:{spelt}" in source for spelt in (file, quote(file)))
    }
    return cell | ({"attachments": pictures} if pictures else {})


def _require_clean(cells: Sequence[tuple[int, dict[str, Any]]], secrets: Sequence[tuple[int, str]]) -> None:
    """Refuse a student's notebook that still holds a mark, or elsewhere what was taken out."""
    for number, cell in cells:
        text = _plain(_HINT.sub("", cell["source"]) if cell["cell_type"] == "markdown" else cell["source"])
        if found := _LEFT.search(text) or (cell["cell_type"] == "code" and _LEFT_IN_CODE.search(text)):
            raise _refused(
                number, f"{_short(found[0])} that is no mark of an answer, or one without its other half",
                "### BEGIN SOLUTION, ### END SOLUTION or <details>, </details> on lines of their own",
            )  # fmt: skip
    texts = [(number, " ".join(" ".join(_strings(cell)).split())) for number, cell in cells]
    for origin, secret in secrets:
        for number, text in texts:
            if len(secret) >= _TELLING and secret in text:
                raise _refused(
                    number, f"the answer of cell {origin}, {_short(secret)}", "it to stand between marks"
                )


def _refused(number: int, found: str, expected: str) -> InputError:
    return InputError(f"cell {number}: {found}; expected {expected}; correct the cell, nothing was written")


def _strings(value: Any) -> Iterator[str]:
    """Every text in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from (key, *_strings(inner))
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _plain(text: str) -> str:
    """``text`` as a reader sees it: no invisible characters, full-width letters as plain ones."""
    return "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")


def _short(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _may_replace(path: Path) -> bool:
    """Whether nothing is at ``path``, or just what `write_students` has put there."""
    if not os.path.lexists(path):
        return True
    try:
        book = read_notebook(path)
    except InputError:
        return False
    own = book["metadata"].get(KEY)
    return isinstance(own, dict) and own.get("student") == _digest(book)


def _digest(book: dict[str, Any]) -> str:
    """SHA-256 of a student's notebook, without this digest itself."""
    bare = book | {"metadata": {key: value for key, value in book["metadata"].items() if key != KEY}}
    text = json.dumps(bare, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
