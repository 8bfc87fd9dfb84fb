"""What `tp4 reproduce` starts for each notebook: papermill in this process, a Jupyter kernel below it."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from tp4lib.lifeline import PARENT, end_with_parent
from tp4lib.memory import children_peak, own_peak

LAST_LINE = "tp4 notebook process: "
"""What the last line of stdout starts with; a JSON object with ``peak_memory_bytes`` follows."""


def main(request: dict[str, Any]) -> int:
    """Run ``request["source"]`` with ``request["parameters"]``; leave it executed at ``request["target"]``, or nothing.

    Papermill writes after every cell, into a passing file; the target appears once the run is over, also where a cell
    failed. Returns the exit code.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillException

    source, target = Path(request["source"]), Path(request["target"])
    part = target.with_name(f".{target.stem}.part.ipynb")
    os.environ[PARENT] = str(os.getpid())  # for the kernel
    try:
        papermill.execute_notebook(
            source, part, request["parameters"], cwd=target.parent, kernel_name="python3", language="python",
            progress_bar=False, start_timeout=600,
        )  # fmt: skip
    except OSError as error:
        print(f"cannot write {target}: {error.strerror or error}; free some space or choose another --out")
        part.unlink(missing_ok=True)
        return 1
    except (PapermillException, DeadKernelError) as error:  # the executed notebook tells which cell
        print(f"{type(error).__name__}: {error}")
        return 1
    finally:
        if part.exists():
            os.replace(part, target)
    return 0


if __name__ == "__main__":
    end_with_parent()
    code = main(json.loads(sys.argv[1]))
    print(LAST_LINE + json.dumps({"peak_memory_bytes": own_peak() + children_peak()}), flush=True)
    sys.exit(code)
