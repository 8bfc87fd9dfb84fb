"""Which source a notebook's committed outputs belong to."""

import hashlib
import json
from typing import Any

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
