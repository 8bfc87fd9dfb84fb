"""What `tp4 reproduce` starts for each notebook: papermill in this process, a Jupyter kernel below it."""

import json
import os
import sys
from typing import Any

from tp4lib.base.memory import children_peak, own_peak
from tp4lib.collection.kernel_process import PARENT, end_with_parent

LAST_LINE = "tp4 notebook process: "
"""What the last line of stdout starts with; a JSON object with ``peak_memory_bytes`` follows."""


def main(request: dict[str, Any]) -> int:
    """Run ``source.ipynb`` of the folder ``request["stage"]`` with ``request["parameters"]``, in ``request["cwd"]``.

    Papermill writes ``executed.ipynb`` after every cell. Returns the exit code.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillException

    # Relative names: papermill formats paths, so that braces would fail, and writes them into the notebook.
    os.chdir(request["stage"])
    os.environ[PARENT] = str(os.getpid())  # for the kernel
    try:
        papermill.execute_notebook(
            "source.ipynb", "executed.ipynb", request["parameters"], cwd=request["cwd"], kernel_name="python3",
            language="python", progress_bar=False, start_timeout=600,
        )  # fmt: skip
    except OSError as error:
        print(
            f"cannot write in {request['stage']}: {error.strerror or error}; free some space or choose another --out"
        )
        return 1
    except (PapermillException, DeadKernelError) as error:  # the executed notebook tells which cell
        print(f"{type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    end_with_parent()
    code = main(json.loads(sys.argv[1]))
    print(LAST_LINE + json.dumps({"peak_memory_bytes": own_peak() + children_peak()}), flush=True)
    sys.exit(code)
