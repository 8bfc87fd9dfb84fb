"""Run the numbered notebooks through papermill, each in a process of its own, and gather what they report."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tp4lib import gallery, paths
from tp4lib.datasets import EMBEDDED
from tp4lib.errors import InputError
from tp4lib.files import atomic_path, out_dir, write_json
from tp4lib.notebook_source import KEY, source_digest
from tp4lib.report import PRESETS

# Wall-clock limits per notebook, generous: a run on a loaded machine must not be cut off.
TIMEOUTS = {"ci": 15 * 60, "laptop": 3 * 3600, "paper": 48 * 3600}
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Outcome:
    """How one notebook went: ``error`` is None, or the failing cell's source and what it raised."""

    notebook: str
    seconds: float
    error: str | None = None


def notebooks(names: Sequence[str] = ()) -> list[Path]:
    """The numbered notebooks that ``names`` select (a number such as "04", a name or a path), in order; all by default.

    Raises:
        InputError: a name fits none.
    """
    everything = sorted(paths.shared("notebooks").glob("[0-9][0-9]_*.ipynb"))
    if not names:
        return everything
    chosen = []
    for name in names:
        stem = Path(name).stem
        fits = [path for path in everything if path.stem == stem or path.stem.split("_")[0] == stem.zfill(2)]
        if not fits:
            known = ", ".join(path.stem for path in everything)
            raise InputError(
                f"no notebook {name!r}; expected a number or a name of {known}; try `tp4 reproduce 04`"
            )
        chosen += [fit for fit in fits if fit not in chosen]
    return chosen


def run(
    selected: Sequence[Path],
    preset: str,
    out: Path,
    *,
    data_dir: Path | None = None,
    device: str = "auto",
    seed: int = 0,
    timeout: float | None = None,
    in_place: bool = False,
    say: Callable[[str], None] = print,
) -> list[Outcome]:
    """Execute notebooks at ``preset`` one after the other; a failure is recorded and the others still run.

    Leaves in ``out``: the executed notebooks, ``<notebook>/`` with figures (SVG, PNG) and ``metrics.json``, all metrics
    merged in ``metrics.json``, and ``index.html``. Sub-folders of ``<notebook>/`` hold checkpoints: a run that is
    killed and started again goes on from them, and they are removed once the notebook has run to its end. At preset
    ``ci`` the embedded data are used unless ``data_dir`` is given, so that the run depends on nothing outside the
    environment.

    Args:
        data_dir: where real data are; the notebooks see it as ``$TP4_DATA``.
        timeout: seconds a notebook may take; default `TIMEOUTS`.
        in_place: also write the executed notebook, with the digest of its source, over the one it came from.
        say: receives the progress line of each notebook.

    Raises:
        InputError: unknown preset, a folder that does not exist or cannot be written.
    """
    if preset not in PRESETS:
        raise InputError(f"unknown preset {preset!r}; expected one of {', '.join(PRESETS)}; try --preset ci")
    if data_dir is not None and not os.path.isdir(data_dir):
        raise InputError(
            f"no data folder {data_dir}; expected a folder; choose another --data-dir, or leave it out"
        )
    out = out_dir(out)
    limit = timeout or TIMEOUTS[preset]
    environment = os.environ | {
        "TP4_OUT": str(out.resolve()),
        "MPLBACKEND": "agg",
        "PYTHONWARNINGS": "ignore",
    }
    environment["TP4_COMMAND"] = f"tp4 reproduce --preset {preset}"
    if data_dir is not None:
        environment["TP4_DATA"] = str(data_dir.resolve())
    elif preset == "ci":
        environment["TP4_DATA"] = EMBEDDED
    outcomes = []
    for place, source in enumerate(selected, 1):
        head = f"[{place}/{len(selected)}] {source.stem}"
        with _ticker(head, say) as elapsed:
            error = _execute(source, out, preset, device, seed, environment, limit)
            outcomes.append(Outcome(source.stem, elapsed(), error))
        say(f"{head}  {'FAILED' if error else 'ok'}  {_clock(outcomes[-1].seconds)}")
        if error:
            say(error)
        elif in_place:
            _commit_outputs(out / source.name, source, preset)
    gather(out, outcomes)
    return outcomes


def gather(out: Path, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Merge the notebooks' ``metrics.json`` under ``out`` into one, draw ``index.html`` from it, return the merge."""
    reports = {
        path.parent.name: json.loads(path.read_text("utf-8"))
        for path in sorted(out.glob("[0-9][0-9]_*/metrics.json"))
    }
    runs = {o.notebook: {"seconds": round(o.seconds, 1), "ok": o.error is None} for o in outcomes}
    failed = {outcome.notebook: outcome.error for outcome in outcomes if outcome.error}
    merged = {"notebooks": reports, "runs": runs}
    write_json(out / "metrics.json", merged)
    with atomic_path(out / "index.html") as part:
        part.write_text(gallery.index_page(reports, runs, failed), encoding="utf-8")
    return merged


def _execute(
    source: Path, out: Path, preset: str, device: str, seed: int, environment: dict[str, str], limit: float
) -> str | None:
    """Run one notebook in a process group of its own, so that a timeout ends its kernel too."""
    target, report = out / source.name, out / source.stem
    for stale in [target, *report.glob("*.*")]:  # results of an earlier run must not pass for this one's
        if stale.is_file():
            stale.unlink()
    command = [
        *(sys.executable, "-m", "papermill", str(source), str(target), "--cwd", str(out)),
        *("--kernel", "python3", "--language", "python", "--no-progress-bar", "--no-log-output"),
        *("-p", "preset", preset, "-p", "seed", str(seed), "-p", "device", device),
    ]
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            _end(process)
            return f"{source.stem} ran longer than {_clock(limit)} and was ended; raise it with --timeout SECONDS"
        except BaseException:
            _end(process)
            raise
    if process.returncode == 0:
        for checkpoints in filter(Path.is_dir, report.glob("*")):
            shutil.rmtree(checkpoints)
        return None
    return (
        _failure(target, output)
        or f"{source.stem} could not be run:\n{_COLOUR.sub('', output).strip()[-2000:]}"
    )


def _end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _failure(executed: Path, log: str) -> str | None:
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
        return f"{last}  the kernel died in this cell, most often because memory ran out; try a smaller size"
    return None


def _commit_outputs(executed: Path, source: Path, preset: str) -> None:
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


@contextlib.contextmanager
def _ticker(head: str, say: Callable[[str], None]) -> Any:
    """On a terminal, keep one line with the time that has passed; elsewhere say once that the notebook has started."""
    import threading

    start, done = time.monotonic(), threading.Event()

    def tick() -> None:
        while not done.wait(1):
            sys.stdout.write(f"\r{head}  running  {_clock(time.monotonic() - start)} ")
            sys.stdout.flush()

    thread = threading.Thread(target=tick, daemon=True)
    live = sys.stdout.isatty()
    if live:
        thread.start()
    try:
        yield lambda: time.monotonic() - start
    finally:
        done.set()
        if live:
            thread.join()
            sys.stdout.write("\r\x1b[K")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
