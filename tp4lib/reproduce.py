"""Run the numbered notebooks, some at once if asked to, and gather what they report."""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tp4lib import device as devices
from tp4lib import gallery, paths, provenance
from tp4lib.datasets import EMBEDDED
from tp4lib.errors import InputError
from tp4lib.execution import Executor, Outcome, clock
from tp4lib.files import alone_in, atomic_path, write_json
from tp4lib.notebook_source import source_digest, store_outputs
from tp4lib.report import PRESETS

# Wall-clock limits per notebook, generous: a run on a loaded machine must not be cut off.
TIMEOUTS = {"ci": 15 * 60, "laptop": 3 * 3600, "paper": 48 * 3600}
# Every library that starts threads of its own, so that notebooks that run at once do not take each other's cores.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


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
    workers: int = 1,
    threads: int = 1,
    timeout: float | None = None,
    in_place: bool = False,
    resume: bool = False,
    say: Callable[[str], None] = print,
) -> list[Outcome]:
    """Execute notebooks at ``preset``, ``workers`` at once; a failure is recorded and the others still run.

    Leaves in ``out``: the executed notebooks, ``<notebook>/`` with figures (SVG, PNG), ``metrics.json`` and, last of
    all, ``run.json``; all of them merged in ``metrics.json``, and ``index.html``. Sub-folders of ``<notebook>/`` hold
    checkpoints: a run that is killed and started again goes on from them, and they are removed once the notebook has
    run to its end. At preset ``ci`` the embedded data are used unless ``data_dir`` is given, so that the run depends on
    nothing outside the environment.

    Args:
        data_dir: where real data are; the notebooks see it as ``$TP4_DATA``.
        workers: notebooks at once; the numbers do not depend on it.
        threads: CPU threads of each notebook; the numbers depend on it a little, by the order of sums.
        timeout: seconds a notebook may take; default `TIMEOUTS`.
        in_place: also write the executed notebook, with the digest of its source, over the one it came from.
        resume: keep the notebooks that an earlier run with the same arguments and sources has finished in ``out``.
        say: receives the progress line of each notebook.

    Raises:
        InputError: unknown preset, a folder that does not exist or cannot be written, or in which another run works.
    """
    where = _checked(preset, data_dir, device, workers, threads)
    environment = _environment(preset, out, data_dir, where, threads)
    asked = {"seed": seed, "preset": preset, "device": where, "threads": threads}
    same = {**asked, "commit": provenance.commit().get("commit"), "data": environment.get("TP4_DATA")}
    identities = {
        source: same | {"source": source_digest(json.loads(source.read_text("utf-8")))} for source in selected
    }
    executor = Executor(environment, timeout or TIMEOUTS[preset])
    outcomes: dict[Path, Outcome] = {}
    heads = {source: f"[{k}/{len(selected)}] {source.stem}" for k, source in enumerate(selected, 1)}

    def tick() -> None:
        running = ", ".join(f"{name} {clock(seconds)}" for name, seconds in executor.running().items())
        _status(f"{len(outcomes)} of {len(selected)} done; running: {running}" if running else "")

    with alone_in(out):
        for source in selected:
            if resume and (outcome := _finished(out / source.stem, identities[source])) is not None:
                outcomes[source] = outcome
                say(f"{heads[source]}  kept from the run before")
            else:
                _clear(out, source.stem)
        gather(out, workers, **asked)
        todo = [source for source in selected if source not in outcomes]
        parameters = {"preset": preset, "seed": seed, "device": device}
        with (
            _removed(out, ".*.part.ipynb"),
            contextlib.closing(executor.each(todo, out, parameters, workers, tick)) as coming,
        ):
            for source, outcome in coming:
                outcomes[source] = outcome
                disk = _tidy(out, source.stem, done=outcome.error is None)
                if in_place and outcome.error is None:
                    store_outputs(out / source.name, source, preset)
                ended = {**outcome.told(), "disk_bytes": disk}
                write_json(out / source.stem / "run.json", identities[source] | ended)
                gather(out, workers, **asked)
                _status("")
                say(f"{heads[source]}  {outcome}")
        _status("")
    return [outcomes[source] for source in selected]


def _checked(preset: str, data_dir: Path | None, device: str, workers: int, threads: int) -> str:
    """The device that ``device`` means here; refuses what cannot run before anything is written."""
    if preset not in PRESETS:
        raise InputError(f"unknown preset {preset!r}; expected one of {', '.join(PRESETS)}; try --preset ci")
    if data_dir is not None and not os.path.isdir(data_dir):
        raise InputError(
            f"no data folder {data_dir}; expected a folder; choose another --data-dir, or leave it out"
        )
    if workers < 1 or threads < 1:
        raise InputError(f"workers {workers}, threads {threads}; expected at least 1; try --workers 2")
    return str(devices.resolve(device))


def _environment(preset: str, out: Path, data_dir: Path | None, device: str, threads: int) -> dict[str, str]:
    data = str(data_dir.resolve()) if data_dir is not None else EMBEDDED if preset == "ci" else None
    return {
        "TP4_COMMAND": f"tp4 reproduce --preset {preset}",  # unless the command line has told more
        **os.environ,
        "TP4_OUT": str(out.resolve()),
        "TP4_DEVICE": device,
        "MPLBACKEND": "agg",
        "PYTHONWARNINGS": "ignore",
        **dict.fromkeys(_THREADS, str(threads)),
        **({"TP4_DATA": data} if data is not None else {}),
    }


def gather(out: Path, workers: int, **asked: Any) -> dict[str, Any]:
    """Merge the notebooks' ``metrics.json`` under ``out`` into one, draw ``index.html`` from it, return the merge.

    A notebook counts once its ``run.json`` is there: that is written when all else is.

    Args:
        workers: how many ran at once.
        asked: for `tp4lib.provenance.record`.
    """
    reports, runs, failed = {}, {}, {}
    for path in sorted(out.glob("[0-9][0-9]_*/run.json")):
        name, this = path.parent.name, json.loads(path.read_text("utf-8"))
        runs[name] = {key: this[key] for key in ("seconds", "ok", "peak_memory_bytes", "disk_bytes")}
        if this["error"]:
            failed[name] = this["error"]
        if (report := path.parent / "metrics.json").is_file():
            reports[name] = json.loads(report.read_text("utf-8"))
    data = {json.dumps(each, sort_keys=True): each for report in reports.values() for each in report["data"]}
    merged = {
        **provenance.record(**asked),
        "data": list(data.values()),
        "notebooks": reports,
        "runs": runs,
        "runner": {"workers": workers},
    }
    write_json(out / "metrics.json", merged)
    with atomic_path(out / "index.html") as part:
        part.write_text(gallery.index_page(reports, runs, failed), encoding="utf-8")
    return merged


@contextlib.contextmanager
def _removed(folder: Path, pattern: str) -> Iterator[None]:
    """Remove at the end, however it comes, what notebooks that were ended had begun to write."""
    try:
        yield
    finally:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def _status(line: str) -> None:
    """On a terminal, one line that is written over; nothing elsewhere."""
    if sys.stdout.isatty():
        columns = shutil.get_terminal_size().columns
        sys.stdout.write(f"\r\x1b[K{line[: columns - 1]}")
        sys.stdout.flush()


def _clear(out: Path, name: str) -> None:
    """Results of an earlier run must not pass for this one's; its checkpoints, in sub-folders, may serve."""
    for stale in (out / f"{name}.ipynb", out / f".{name}.part.ipynb", *(out / name).glob("*.*")):
        if stale.is_file():
            stale.unlink()


def _tidy(out: Path, name: str, done: bool) -> int:
    """The bytes that a run left behind; once it is done its checkpoints go."""
    report = out / name
    report.mkdir(exist_ok=True)
    files = [file for file in (out / f"{name}.ipynb", *report.rglob("*")) if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    if done:
        for checkpoints in filter(Path.is_dir, report.glob("*")):
            shutil.rmtree(checkpoints)
    return size


def _finished(report: Path, identity: dict[str, Any]) -> Outcome | None:
    """The outcome of an earlier run, if it went well and would be the same now."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        run = json.loads((report / "run.json").read_text("utf-8"))
        if run["ok"] and {key: run.get(key) for key in identity} == identity:
            return Outcome(report.name, run["seconds"], None, run["peak_memory_bytes"])
    return None
