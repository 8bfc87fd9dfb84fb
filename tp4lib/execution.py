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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tp4lib.lifeline import PARENT
from tp4lib.notebook_process import LAST_LINE

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

    def execute(self, source: Path, target: Path, parameters: dict[str, Any]) -> Outcome:
        """Run ``source`` in the folder of ``target``, which becomes the executed notebook; wait for it."""
        request = {"source": str(source.resolve()), "target": str(target.resolve()), "parameters": parameters}
        started = time.monotonic()
        with self._lock:
            if self._stopped:
                return Outcome(source.stem, 0.0, "was not started")
            process = subprocess.Popen(
                [sys.executable, "-m", "tp4lib.notebook_process", json.dumps(request)],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,  # Ctrl-C reaches us alone: we end it
            )
            self._running[process] = source.stem, started
        with process:
            try:
                output, _ = process.communicate(timeout=self._limit)
            except subprocess.TimeoutExpired:
                _end(process)
                return Outcome(
                    source.stem,
                    time.monotonic() - started,
                    f"{source.stem} ran longer than {clock(self._limit)} and was ended; "
                    "raise it with --timeout SECONDS",
                )
            finally:
                with self._lock:
                    del self._running[process]
        log, _, last = output.rpartition(LAST_LINE)
        peak = json.loads(last)["peak_memory_bytes"] if log or last != output else None
        error = None
        if process.returncode:
            log = _COLOUR.sub("", log or output).strip()
            error = _failure(target, log, peak) or f"{source.stem} could not be run:\n{log[-2000:]}"
        return Outcome(source.stem, time.monotonic() - started, error, peak)

    def each(
        self,
        sources: Sequence[Path],
        out: Path,
        parameters: dict[str, Any],
        workers: int,
        tick: Callable[[], None],
    ) -> Iterator[tuple[Path, Outcome]]:
        """Run ``sources`` into the folder ``out``, ``workers`` at once; yield each with its outcome as it ends.

        ``tick`` is called every second. Closing the generator, or whatever is raised in it, ends those that run.
        """
        with ThreadPoolExecutor(workers) as pool:
            futures = {
                pool.submit(self.execute, source, out / source.name, parameters): source for source in sources
            }
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
    if not executed.is_file():
        return None
    cells = [cell for cell in json.loads(executed.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    last = ""
    for cell in cells:
        code = "\n".join(f"    {line}" for line in "".join(cell["source"]).splitlines())
        head = f"  cell [{cell['execution_count'] or ' '}]:\n{code}\n"
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                trace = _COLOUR.sub("", "\n".join(output["traceback"])).splitlines()
                tail = "\n".join(f"    {line}" for line in trace[-12:])
                return f"{head}  {output['ename']}: {output['evalue']}\n{tail}"
        if cell["metadata"]["papermill"]["status"] != "pending":
            last = head
    if "Kernel died" in log:
        held = f" (it held up to {peak / 2**20:,.0f} MiB)" if peak else ""
        return f"{last}  the kernel died in this cell{held}, most often because memory ran out; try a smaller size"
    return None
