"""Run one notebook in processes of its own and say how it went; any number at once, from threads."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tp4lib.collection.kernel_process import PARENT
from tp4lib.collection.manifest import read_json
from tp4lib.collection.notebook_process import LAST_LINE
from tp4lib.collection.report import ASKED
from tp4lib.collection.staging import Stage

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_JUPYTER = Path(__file__).resolve().parent / "_jupyter"


@dataclass(frozen=True)
class Outcome:
    """How one notebook went: ``error`` is None, or the failing cell's source and what it raised.

    ``peak_memory`` is in bytes, of papermill's process and the kernel together; None where they were ended from here.
    """

    notebook: str
    seconds: float
    error: str | None = None
    peak_memory: int | None = None

    def __str__(self) -> str:
        memory = f"  {self.peak_memory / 2**20:,.0f} MiB" if self.peak_memory else ""
        error = f"\n{self.error}" if self.error else ""
        return f"{'FAILED' if self.error else 'ok'}  {clock(self.seconds)}{memory}{error}"

    def told(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "ok": self.error is None,
            "error": self.error,
            "seconds": round(self.seconds, 1),
            "peak_memory_bytes": self.peak_memory,
        }


class Executor:
    """Starts notebooks, and can end all that run.

    Args:
        environment: of the notebooks' processes.
        limit: seconds that each may take.
    """

    def __init__(self, environment: dict[str, str], limit: float) -> None:
        path = os.pathsep.join(filter(None, (str(_JUPYTER), environment.get("JUPYTER_PATH"))))
        # Our own kernel first: a user's "python3" may be of another environment.
        self._environment = environment | {"JUPYTER_PATH": path, PARENT: str(os.getpid())}
        self._limit = limit
        self._lock = threading.Lock()
        self._running: dict[subprocess.Popen[str], tuple[str, float]] = {}
        self._stopped = False

    def execute(self, stage: Stage, parameters: dict[str, Any]) -> Outcome:
        """Run the notebook in ``stage`` and wait for it; the results stay in the stage."""
        asked = {"notebook": stage.name, "preset": parameters["preset"], "seed": parameters["seed"]}
        folder, out = (os.path.abspath(place) for place in (stage.folder, stage.out))
        request = {"stage": folder, "cwd": out, "parameters": parameters}
        started = time.monotonic()
        with self._lock:
            if self._stopped:
                raise KeyboardInterrupt
            process = subprocess.Popen(
                [sys.executable, "-m", "tp4lib.collection.notebook_process", json.dumps(request)],
                env=self._environment | {"TP4_OUT": folder, ASKED: json.dumps(asked)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # Ctrl-C reaches us alone: we end it
            )
            self._running[process] = stage.name, started
        with process:
            try:
                output, _ = process.communicate(timeout=self._limit)
            except subprocess.TimeoutExpired:
                _end(process)
                return Outcome(
                    stage.name,
                    time.monotonic() - started,
                    f"{stage.name} ran longer than {clock(self._limit)} and was ended; "
                    "raise it with --timeout SECONDS",
                )
            finally:
                with self._lock:
                    del self._running[process]
        log, _, last = output.rpartition(LAST_LINE)
        peak = json.loads(last)["peak_memory_bytes"] if log or last != output else None
        if process.returncode:
            log = _COLOUR.sub("", log or output).strip()
            error = _failure(stage.executed, log, peak) or f"{stage.name} could not be run:\n{log[-2000:]}"
        else:
            error = _unfinished(stage.executed) or _unreported(stage.report, stage.name)
        return Outcome(stage.name, time.monotonic() - started, error, peak)

    def each(
        self, work: Mapping[Path, Callable[[], Outcome]], workers: int, tick: Callable[[], None]
    ) -> Iterator[tuple[Path, Outcome]]:
        """Do the work of each notebook, that of ``workers`` at once; yield each with its outcome as it ends.

        ``tick`` is called every second. Closing the generator, or whatever is raised in it, ends those that run.
        """
        with ThreadPoolExecutor(workers) as pool:
            futures = {pool.submit(self._unless_stopped, do): source for source, do in work.items()}
            try:
                waiting = set(futures)
                while waiting:
                    done, waiting = wait(waiting, timeout=1, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield futures[future], future.result()
                    tick()
            finally:
                for future in futures:
                    future.cancel()
                self.stop()

    def _unless_stopped(self, do: Callable[[], Outcome]) -> Outcome:
        if self._stopped:
            raise KeyboardInterrupt
        return do()

    def running(self) -> dict[str, float]:
        """The notebooks that run now, and since how many seconds."""
        now = time.monotonic()
        with self._lock:
            return {name: now - started for name, started in self._running.values()}

    def stop(self) -> None:
        """End all that run; start no more."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            _end(process)


def clock(seconds: float) -> str:
    """``m:ss`` or ``h:mm:ss``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _failure(executed: Path, log: str, peak: int | None) -> str | None:
    """The source of the cell that failed in an executed notebook, and its error, as text."""
    last = ""
    for cell in _code_cells(executed):
        head, papermill = _head(cell), cell["metadata"]["papermill"]
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                trace = _COLOUR.sub("", "\n".join(output["traceback"])).splitlines()
                tail = "\n".join(f"    {line}" for line in trace[-12:])
                return f"{head}  {output['ename']}: {output['evalue']}\n{tail}"
        if papermill["exception"]:  # IPython refused the cell, as it does an unknown magic, and printed why
            printed = "".join("".join(o["text"]) for o in cell["outputs"] if o.get("name") == "stderr")
            return f"{head}  {_COLOUR.sub('', printed).strip() or 'IPython refused this cell'}"
        if papermill["status"] != "pending":
            last = head
    if "Kernel died" in log:
        held = f" (it held up to {peak / 2**20:,.0f} MiB)" if peak else ""
        return f"{last}  the kernel died in this cell{held}, most often because memory ran out; try a smaller size"
    return None


def _unfinished(executed: Path) -> str | None:
    """The cell at which a notebook ended without an error, as by ``sys.exit(0)``."""
    for cell in _code_cells(executed):
        if any(output["output_type"] == "error" for output in cell["outputs"]):
            return (
                f"{_head(cell)}  the notebook ended itself in this cell; expected it to run to its last cell"
            )
    return None


def _unreported(folder: Path, name: str) -> str | None:
    """Why what a notebook reported is not enough; that it is of the preset and seed asked for, `Report` sees to."""
    report = read_json(folder / "metrics.json")
    if report is None:
        return (
            "the notebook ran to its end but reported nothing; expected report.save() in its last cell; "
            f'add it, after report = Report("{name}", preset, seed)'
        )
    if not report["metrics"]:
        return (
            "the notebook reported no number; expected at least one; "
            "add report.metric(key, value) before report.save()"
        )
    return None


def _code_cells(executed: Path) -> list[dict[str, Any]]:
    notebook = read_json(executed) or {"cells": []}
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def _head(cell: dict[str, Any]) -> str:
    code = "\n".join(f"    {line}" for line in "".join(cell["source"]).splitlines())
    return f"  cell [{cell['execution_count'] or ' '}]:\n{code}\n"
