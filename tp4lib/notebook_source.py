"""Which source a notebook's committed outputs belong to."""

import hashlib
import json
from pathlib import Path
from typing import Any

from tp4lib.files import atomic_path

KEY = "tp4"


def source_digest(notebook: dict[str, Any]) -> str:
    """SHA-256 over the code cells, in order; outputs, execution counts and prose do not count.

    A notebook's committed outputs carry the digest of the code that made them (metadata ``tp4.source``), so that a
    changed cell is noticed.
    """
    cells = [
        "".join(cell["source"])
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
        and "injected-parameters" not in cell.get("metadata", {}).get("tags", [])
    ]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def store_outputs(executed: Path, source: Path, preset: str) -> None:
    """Put the outputs of a run into the notebook that it came from, with the digest of its source."""
    notebook = json.loads(executed.read_text("utf-8"))
    notebook["cells"] = [
        cell for cell in notebook["cells"] if "injected-parameters" not in cell["metadata"].get("tags", [])
    ]
    for count, cell in enumerate((cell for cell in notebook["cells"] if cell["cell_type"] == "code"), 1):
        # Times, places and progress bars of one machine are no part of the result.
        cell["metadata"] = {key: value for key, value in cell["metadata"].items() if key == "tags"}
        cell["outputs"] = [o for o in cell["outputs"] if o.get("name") != "stderr"]
        cell["execution_count"] = count
        for output in cell["outputs"]:
            if "execution_count" in output:
                output["execution_count"] = count
    for cell in notebook["cells"]:
        cell["metadata"].pop("papermill", None)
    notebook["metadata"] = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        KEY: {"preset": preset, "source": source_digest(notebook)},
    }
    with atomic_path(source) as part:
        part.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
