"""Reading notebooks as people save them, which source their outputs belong to, and what a reader sees of it."""

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tp4lib.base.errors import InputError
from tp4lib.base.files import atomic_path

KEY = "tp4"
FOLDED = "hide-input"
"""Tag of the cells whose code is folded away: set-up, sizes, figures, tables; the site's builder reads it."""
RESULTS = "results"
"""Tag of the cells that say what came out; a student's version has a place to write instead."""

_FORMAT = (4, 5)
_INJECTED = ("injected-parameters", "papermill-error-cell-tag")  # tags of the cells that papermill adds
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MERGE_MARKS = re.compile(r"^(<{7}|={7}|>{7})( |$)", re.MULTILINE)


def read_notebook(path: str | Path) -> dict[str, Any]:
    """The notebook in the file ``path``, as JSON of notebook format 4.5.

    Accepts what editors write: a byte order mark, format 4.0 to 4.5, cells without an id (Colab) or with one that
    occurs twice. Every cell of the result has ``id``, ``metadata`` and ``source``, every code cell ``outputs`` and
    ``execution_count``.

    Raises:
        InputError: no regular file, not readable, not UTF-8, empty, not JSON (a merge conflict is named), not a
            notebook, or of another format than 4.
    """
    notebook = _parsed(path)
    if not isinstance(notebook, dict) or "nbformat" not in notebook:
        raise _unusable(path, "is not a notebook (it has no nbformat)")
    if notebook["nbformat"] != _FORMAT[0]:
        raise InputError(
            f"{path} has notebook format {str(notebook['nbformat'])[:20]}; expected format 4; "
            "try `jupyter nbconvert --to notebook --nbformat 4 --inplace FILE`"
        )
    cells, metadata = notebook.get("cells"), notebook.get("metadata", {})
    if not isinstance(cells, list) or not isinstance(metadata, dict):
        raise _unusable(path, "is not a notebook (it has no list of cells)")
    for number, cell in enumerate(cells, 1):
        if not _is_cell(cell):
            raise _unusable(path, f"is damaged: cell {number} is not a cell")
    return {
        **notebook,
        "cells": list(_completed(cells)),
        "metadata": metadata,
        "nbformat": _FORMAT[0],
        "nbformat_minor": _FORMAT[1],
    }


def source_digest(notebook: dict[str, Any]) -> str:
    """SHA-256 over the code cells, in order; outputs, execution counts and prose do not count.

    A notebook's committed outputs carry the digest of the code that made them (metadata ``tp4.source``), so that a
    changed cell is noticed.
    """
    cells = ["".join(cell["source"]) for cell in _own_cells(notebook) if cell["cell_type"] == "code"]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def fold(cell: dict[str, Any]) -> None:
    """Fold a code cell's source away, in JupyterLab, in Colab (where its first line is the title) and on the site.

    >>> cell = {"metadata": {}}
    >>> fold(cell)
    >>> sorted(cell["metadata"])
    ['cellView', 'jupyter', 'tags']
    """
    metadata = cell["metadata"]
    metadata["tags"] = [*dict.fromkeys([*metadata.get("tags", []), FOLDED])]
    metadata["jupyter"] = metadata.get("jupyter", {}) | {"source_hidden": True}
    metadata["cellView"] = "form"


def is_folded(cell: dict[str, Any]) -> bool:
    """Whether a cell is folded, with all that `fold` sets."""
    metadata = cell["metadata"]
    return (
        FOLDED in metadata.get("tags", [])
        and metadata.get("jupyter", {}).get("source_hidden") is True
        and metadata.get("cellView") == "form"
    )


def store_outputs(executed: Path, source: Path, preset: str) -> None:
    """Put the outputs of a run into the notebook that it came from, with the digest of its source.

    Everything else in the notebook stays as it is: text, cell metadata, and metadata of other tools.
    """
    notebook, ran = (read_notebook(path) for path in (source, executed))
    notebook["cells"], outputs = _own_cells(notebook), _own_cells(ran)
    count = 0
    for cell, done in zip(notebook["cells"], outputs, strict=True):
        if cell["cell_type"] != "code":
            continue
        count += 1
        cell["execution_count"] = count
        # Progress bars of one machine are no part of the result.
        cell["outputs"] = [output for output in done["outputs"] if output.get("name") != "stderr"]
        for output in cell["outputs"]:
            if "execution_count" in output:
                output["execution_count"] = count
    notebook["metadata"] |= {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        KEY: {"preset": preset, "source": source_digest(notebook)},
    }
    notebook["metadata"].pop("papermill", None)
    with atomic_path(source) as part:
        part.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _own_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """The cells but for those that papermill has added."""
    return [
        cell
        for cell in notebook["cells"]
        if not set(_INJECTED) & set(map(str, cell.get("metadata", {}).get("tags", [])))
    ]


def _parsed(path: str | Path) -> Any:
    """The JSON value in a file; an InputError says what keeps it from being read."""
    try:
        # A FIFO or a device would be waited for without end.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise _unusable(path, "is not a regular file")
        text = Path(path).read_bytes().decode("utf-8-sig")
        if not text.strip():
            raise _unusable(path, "is empty")
        if mark := _MERGE_MARKS.search(text):
            line = text.count("\n", 0, mark.start()) + 1
            raise InputError(
                f"{path} holds the marks of a merge conflict (line {line}); expected a notebook; "
                "resolve it with `git mergetool`, or check the file out again"
            )
        return json.loads(text)
    except InputError:
        raise
    except UnicodeDecodeError:
        what = "is not UTF-8 text"
    except RecursionError:
        what = "is not a notebook (it is nested too deeply)"
    except json.JSONDecodeError as error:
        what = f"is not JSON ({error.msg}, line {error.lineno})"
    except ValueError:
        what = "cannot be read as a notebook"
    except OSError as error:
        what = f"cannot be read: {error.strerror or error}"
    raise _unusable(path, what)


def _unusable(path: str | Path, what: str) -> InputError:
    return InputError(
        f"{path} {what}; expected a notebook; open it in Jupyter and save it again, or name another file"
    )


def _is_cell(cell: Any) -> bool:
    if not isinstance(cell, dict) or cell.get("cell_type") not in ("code", "markdown", "raw"):
        return False
    source, metadata, outputs = cell.get("source"), cell.get("metadata", {}), cell.get("outputs", [])
    return (
        isinstance(source, str | list)
        and all(isinstance(line, str) for line in source)
        and isinstance(metadata, dict)
        and isinstance(metadata.get("tags", []), list)
        and isinstance(outputs, list)
        and all(isinstance(output, dict) and "output_type" in output for output in outputs)
    )


def _completed(cells: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The cells with all that format 4.5 asks for; ids that are missing come from the cell's place."""
    seen = {cell["id"] for cell in cells if _is_id(cell.get("id"))}
    used: set[str] = set()
    for number, cell in enumerate(cells):
        name = cell.get("id")
        if not _is_id(name) or name in used:
            name = next(new for new in (f"cell-{number}" + "-" * k for k in range(60)) if new not in seen)
        used.add(name)
        seen.add(name)
        code = {"outputs": [], "execution_count": None} if cell["cell_type"] == "code" else {}
        yield {"metadata": {}, **code, **cell, "id": name}


def _is_id(name: Any) -> bool:
    return isinstance(name, str) and _ID.fullmatch(name) is not None
