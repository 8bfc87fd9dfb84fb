"""What a reader sees of a notebook's code, and how much of it are ideas."""

import ast
from typing import Any

from tp4lib.collection.notebook_source import is_folded

# Calls and modules that are no ideas, where they stand in a visible cell.
_PLUMBING = {"report", "plotting", "plt", "print", "display", "exercises", "Markdown", "fig", "ax", "axes"}


def idea_lines(notebook: dict[str, Any]) -> tuple[int, int]:
    """How many lines of code are ideas, and how many a reader sees: blank lines and comments count for neither.

    What is folded is not seen. Of what is seen, the parameters, imports, printing, reports and figures are no ideas.
    """
    ideas = seen = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code" or is_folded(cell):
            continue
        lines = "".join(cell["source"]).splitlines()
        code = {
            number
            for number, line in enumerate(lines, 1)
            if line.strip() and not line.lstrip().startswith("#")
        }
        plumbing = code if "parameters" in cell["metadata"].get("tags", []) else _plumbing("\n".join(lines))
        seen += len(code)
        ideas += len(code - plumbing)
    return ideas, seen


def _plumbing(source: str) -> set[int]:
    """The lines of statements that are no ideas."""
    found: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.stmt) or hasattr(node, "body"):
            continue
        roots = set()
        if isinstance(node, (ast.Assign, ast.Expr)):
            value = node.value
            while isinstance(value, (ast.Call, ast.Attribute, ast.Subscript)):
                value = value.func if isinstance(value, ast.Call) else value.value
            roots = {value.id} if isinstance(value, ast.Name) else set()
        if isinstance(node, (ast.Import, ast.ImportFrom)) or roots & _PLUMBING:
            found |= set(range(node.lineno, node.end_lineno + 1))
    return found
