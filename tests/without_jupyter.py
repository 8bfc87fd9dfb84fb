"""A notebook's cells at preset ci, as they stand or edited, without Jupyter and without drawing: for their numbers.

``python -m tests.without_jupyter FILE``: FILE holds JSON, a list of runs, each a list of cells' sources. Prints a line
of JSON: of each run its metrics, or the traceback. Runs share what takes seconds to import, and nothing else: each is a
fork with a folder of its own.
"""

import json
import linecache
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from tp4lib.base import paths
from tp4lib.data.catalogue import EMBEDDED


def metrics_of(runs: list[list[str]], folder: Path) -> list[dict]:
    """The metrics of each run, as its report has them, in a process of their own that works in ``folder``."""
    asked = folder / "runs.json"
    asked.write_text(json.dumps(runs), "utf-8")
    here = {
        "TP4_DATA": EMBEDDED,
        "PYTHONPATH": str(paths.checkout()),
        "PYTHONWARNINGS": "ignore",
    }
    ran = subprocess.run(
        [sys.executable, "-m", "tests.without_jupyter", asked],
        cwd=folder,
        env=os.environ | here,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    outcomes = json.loads(ran.stdout.splitlines()[-1])
    failed = [outcome for outcome in outcomes if isinstance(outcome, str)]
    assert not failed, "\n".join(failed)
    return outcomes


def forked(cells: list[str], folder: Path) -> dict | str:
    """The metrics that the cells report, or the traceback of what they raise; they write into ``folder``."""
    with tempfile.TemporaryFile("w+") as told:
        child = os.fork()
        if child == 0:
            os.environ["TP4_OUT"] = str(folder)
            try:
                with open(os.devnull, "w") as nowhere:
                    os.dup2(nowhere.fileno(), 1)  # what cells print
                    outcome = metrics(cells)
            except BaseException:
                outcome = traceback.format_exc()
            json.dump(outcome, told)
            told.flush()
            os._exit(0)
        os.waitpid(child, 0)
        told.seek(0)
        return json.load(told)


def metrics(cells: list[str]) -> dict:
    import matplotlib.pyplot as plt

    from tp4lib import Report

    Report.show = lambda self, figure, *words, **more: plt.close(figure)
    return execute(cells, preset="ci")["report"].table().metrics


def execute(cells: list[str], **parameters: str) -> dict:
    """Run the cells one after the other, with ``parameters`` in place of those that they set; return their names."""
    names = {"__name__": "__main__", "display": lambda *_, **__: None}
    for place, code in enumerate(cells):
        name = f"<code cell {place}>"
        linecache.cache[name] = (len(code), None, code.splitlines(True), name)  # for tracebacks
        exec(compile(code, name, "exec"), names)
        if "preset" in names:  # the cell of parameters has been run
            names.update(parameters)
            parameters = {}
    return names


if __name__ == "__main__":
    import seaborn  # noqa: F401 - once, for all runs
    import torch  # noqa: F401

    wanted = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    print(json.dumps([forked(cells, Path.cwd() / str(number)) for number, cells in enumerate(wanted)]))
