"""Run the numbered notebooks, some at once if asked to, and gather what they report.

A notebook's new results grow beside the old ones and take their place once they are whole (`staging`); nothing that
this program did not write is replaced or removed (`manifest`).
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
import platform
import re
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from tp4lib.base import paths
from tp4lib.base.errors import InputError
from tp4lib.base.files import alone_in, digest, write_json
from tp4lib.collection import gallery
from tp4lib.collection.execution import Executor, Outcome, clock
from tp4lib.collection.manifest import Manifest, read_json
from tp4lib.collection.notebook_source import read_notebook, source_digest, store_outputs
from tp4lib.collection.plan import TIMEOUTS, Plan
from tp4lib.collection.presets import require_sizes
from tp4lib.collection.staging import Stage, stages
from tp4lib.data import catalogue as datasets
from tp4lib.data import provenance
from tp4lib.data.catalogue import EMBEDDED


def notebooks(names: Sequence[str] = ()) -> list[Path]:
    """The notebooks that ``names`` select, in order; all of the collection by default.

    A number ("04", "4") or a name ("04_word2vec_limit") is of the collection; what holds a "/" or ends in ".ipynb" is
    the path of a file, and that file is meant.

    Raises:
        InputError: a name fits none, or there is no such file.
    """
    everything = _collection()
    if not names:
        return everything
    chosen: list[Path] = []
    for name in names:
        found = _file(name) if "/" in name or name.endswith(".ipynb") else _of_collection(name, everything)
        if not any(os.path.realpath(found) == os.path.realpath(other) for other in chosen):
            chosen.append(found)
    return chosen


def result_name(source: Path) -> str:
    """The name of a notebook's results: the file's; of another file with a name of the collection's, with its folder's.

    So a student's ``alice/00_start_here.ipynb`` leaves ``00_start_here@alice``, beside the collection's own results.
    """
    taken = {path.stem: path for path in _collection()}.get(source.stem)
    if taken is None or os.path.realpath(taken) == os.path.realpath(source):
        return source.stem
    return f"{source.stem}@{Path(os.path.abspath(source)).parent.name}"


def run(selected: Sequence[Path], plan: Plan, say: Callable[[str], None] = print) -> list[Outcome]:
    """Execute notebooks, ``plan.workers`` at once; a failure is recorded and the others still run.

    Leaves in ``plan.out``: the executed notebooks, ``<notebook>/`` with figures (SVG, PNG, PDF, CSV), ``metrics.json``
    and ``run.json``; all of them merged in ``metrics.json``, and ``index.html``. They are replaced once the new ones
    are whole: a notebook that fails, or is killed, leaves the old ones, and the page says that they are older
    (`staging`).

    Raises:
        InputError: an argument that cannot work; a folder that cannot be written, holds somebody else's files under the
            names of the results, or in which another run works.
    """
    device = plan.check()
    _require_own_names(selected)
    _require_apart(selected, plan.out)
    this = _Run(plan, device, say)
    this.read(selected)
    with alone_in(plan.out):
        return this.execute(selected)


def gather(out: Path, workers: int, **asked: Any) -> dict[str, Any]:
    """Merge the notebooks' results under ``out`` into ``metrics.json``, draw ``index.html`` from it, return the merge.

    Besides what `tp4lib.data.provenance.record` tells:

    - ``notebooks``: the ``metrics.json`` of each notebook with whole results;
    - ``runs``: how the last run of each came to its end; after a failure ``results_of`` is the ``run.json`` of the
      older results under ``notebooks``, or null where there are none;
    - ``unfinished``: runs that were begun and came to no end, each with ``begun`` and ``results_of``;
    - ``mixed``: where the results are of several runs, the presets, seeds, versions and commits that differ; the
      preset or seed of the merge as a whole is then null.

    Args:
        workers: how many ran at once.
        asked: for `tp4lib.data.provenance.record`; holds where there are no results yet.
    """
    reports, runs, unfinished = {}, {}, {}
    for stage in stages(out):
        whole, failed = stage.whole(), stage.failed()
        report = read_json(stage.results / "metrics.json") if whole else None
        if isinstance(report, dict) and "metrics" in report:
            reports[stage.name] = report
        if failed:
            runs[stage.name] = {**failed, "results_of": whole}
        elif whole:
            runs[stage.name] = whole
        if begun := stage.begun():
            unfinished[stage.name] = {"begun": begun, "results_of": whole}
    data = {repr(sorted(each.items())): each for report in reports.values() for each in report["data"]}
    merged = {
        **provenance.record(**asked),
        "data": list(data.values()),
        "notebooks": reports,
        "runs": runs,
        "unfinished": unfinished,
        "runner": {"workers": workers},
    }
    merged |= _of_all(reports, merged)
    Manifest(out).write_json("metrics.json", merged)
    with Manifest(out).atomic_path("index.html") as part:
        part.write_text(gallery.index_page(merged), encoding="utf-8", errors="replace")
    return merged


class _Run:
    """One call of `run`: the notebooks it still has to run, and what became of the others."""

    def __init__(self, plan: Plan, device: str, say: Callable[[str], None]) -> None:
        self.plan, self.say = plan, say
        environment = plan.environment(device)
        self.asked = {"seed": plan.seed, "preset": plan.preset, "device": device, "threads": plan.threads}
        # What else the numbers depend on: data, code, versions.
        self.given = {"data": environment.get("TP4_DATA"), **_library()}
        self.executor = Executor(environment, plan.timeout or TIMEOUTS[plan.preset])
        self.outcomes: dict[Path, Outcome] = {}
        self.notebooks: dict[Path, dict[str, Any]] = {}
        self.contents: dict[Path, bytes] = {}  # their files as they were read
        self.unreadable: dict[Path, str] = {}  # what is no notebook, and why
        self._lock = threading.Lock()  # of the folder's own files

    def read(self, selected: Sequence[Path]) -> None:
        """Read the notebooks, once; refuse a preset that one of them has no sizes for."""
        for source in selected:
            try:
                self.notebooks[source] = read_notebook(source)
                self.contents[source] = source.read_bytes()
            except InputError as error:
                self.unreadable[source] = str(error)
        require_sizes({source.stem: each for source, each in self.notebooks.items()}, self.plan.preset)

    def execute(self, selected: Sequence[Path]) -> list[Outcome]:
        stages_of = {source: Stage(self.plan.out, result_name(source)) for source in selected}
        self._heads = {
            source: f"[{k}/{len(selected)}] {each.name}"
            for k, (source, each) in enumerate(stages_of.items(), 1)
        }
        self._put_in_order(list(stages_of.values()))
        todo: dict[Path, Callable[[], Outcome]] = {}
        for source, stage in stages_of.items():
            if source in self.unreadable:
                stage.begin(self.asked | self.given)
                self._end(source, stage, Outcome(stage.name, 0.0, self.unreadable[source]))
            elif not self._is_kept(source, stage):
                todo[source] = functools.partial(self._one, stage, self.notebooks[source])
        self._gather()
        try:
            with contextlib.closing(self.executor.each(todo, self.plan.workers, self._tick)) as coming:
                for source, outcome in coming:
                    self._end(source, stages_of[source], outcome)
        finally:
            _status("")
        return [self.outcomes[source] for source in selected]

    def _put_in_order(self, chosen: Sequence[Stage]) -> None:
        """Complete what earlier runs have left, and refuse what cannot work."""
        Manifest(self.plan.out).require(["metrics.json", "index.html"])
        names = [stage.name for stage in chosen]
        for stage in stages(self.plan.out):
            try:
                stage.recover()
            except InputError:
                if stage.name in names:
                    raise
        for stage in chosen:
            stage.require_free()

    def _is_kept(self, source: Path, stage: Stage) -> bool:
        """Whether the results of an earlier run stand for this one's (--resume)."""
        outcome = _finished(stage, self._identity(self.notebooks[source])) if self.plan.resume else None
        if outcome is None:
            return False
        self.outcomes[source] = self._stored(source, stage, outcome)
        self.say(f"{self._heads[source]}  kept from the run before")
        return True

    def _identity(self, notebook: dict[str, Any]) -> dict[str, Any]:
        """All that the numbers of a notebook depend on."""
        return self.asked | self.given | {"source": source_digest(notebook)}

    def _one(self, stage: Stage, notebook: dict[str, Any]) -> Outcome:
        """Begin a notebook and run it."""
        stage.begin(self._identity(notebook))
        write_json(stage.source, notebook)
        self._gather()
        parameters = {"preset": self.plan.preset, "seed": self.plan.seed, "device": self.plan.device}
        return self.executor.execute(stage, parameters)

    def _end(self, source: Path, stage: Stage, outcome: Outcome) -> None:
        """Exchange the results of a notebook that went well, record a failure, and tell."""
        told = {**outcome.told(), "disk_bytes": stage.disk_bytes()}
        if outcome.error is None:
            try:
                with self._lock:
                    stage.finish(told)
                outcome = self._stored(source, stage, outcome)
            except (InputError, OSError) as error:
                outcome = dataclasses.replace(outcome, error=f"{error}; the results wait in {stage.folder}")
        if outcome.error is not None and stage.folder.is_dir():
            stage.fail({**told, **outcome.told()})
        self.outcomes[source] = outcome
        self._gather()
        _status("")
        came_to = f"\n  as far as it came: {stage.executed}" if stage.executed.is_file() else ""
        self.say(f"{self._heads[source]}  {outcome}{came_to}")

    def _stored(self, source: Path, stage: Stage, outcome: Outcome) -> Outcome:
        """With --in-place, the outcome of storing the outputs in the notebook that they came from."""
        if not self.plan.in_place:
            return outcome
        if source.read_bytes() != self.contents[source]:
            error = f"{source} was changed while it ran: its outputs were not stored in it; run it again"
            return dataclasses.replace(outcome, error=error)
        store_outputs(stage.out / f"{stage.name}.ipynb", source, self.plan.preset)
        return outcome

    def _gather(self) -> None:
        with self._lock:
            gather(self.plan.out, self.plan.workers, **self.asked)

    def _tick(self) -> None:
        running = ", ".join(f"{name} {clock(seconds)}" for name, seconds in self.executor.running().items())
        done = f"{len(self.outcomes)} of {len(self._heads)} done"
        _status(f"{done}; running: {running}" if running else "")


def _collection() -> list[Path]:
    return sorted(paths.shared("notebooks").glob("[0-9][0-9]_*.ipynb"))


def _of_collection(name: str, everything: Sequence[Path]) -> Path:
    number = name.zfill(2) if re.fullmatch(r"[0-9]{1,2}", name) else None
    fits = [path for path in everything if path.stem == name or path.stem.split("_")[0] == number]
    if not fits:
        known = ", ".join(path.stem for path in everything)
        raise InputError(
            f"no notebook {name!r}; expected a number or a name of {known}, or the path of a file; "
            "try `tp4 reproduce 04`"
        )
    return fits[0]


def _file(name: str) -> Path:
    """The path that ``name`` is; what is wrong with the file itself is told when it is read."""
    path = Path(name)
    if not os.path.lexists(path) or path.suffix != ".ipynb":
        raise InputError(
            f"no notebook at {name}; expected a file that is there and ends in .ipynb, or a number or name of the "
            "collection; try `tp4 reproduce 04`"
        )
    return path


def _require_own_names(selected: Sequence[Path]) -> None:
    """Results of one name would overwrite each other."""
    seen: dict[str, Path] = {}
    for source in selected:
        if (other := seen.setdefault(result_name(source), source)) is not source:
            raise InputError(
                f"{other} and {source} have one name, and so would their results; expected different names; "
                "rename one, or run them one after the other with different --out"
            )


def _require_apart(selected: Sequence[Path], out: Path) -> None:
    """An executed notebook must not take the place of its source."""
    for source in selected:
        executed = out / f"{result_name(source)}.ipynb"
        if executed.exists() and source.exists() and executed.samefile(source):
            raise InputError(
                f"{out} holds the notebooks themselves; expected another folder; choose one with --out DIR"
            )


def _library() -> dict[str, str]:
    """What numbers depend on besides arguments, sources and data: digests of our code, and of all versions here."""
    package = Path(__file__).resolve().parent.parent  # tp4lib
    files = sorted([*package.rglob("*.py"), *package.rglob("*.mplstyle")])
    told = "".join(f"{file.relative_to(package)} {digest(file)}\n" for file in files)
    versions = sorted(f"{each.name}=={each.version}" for each in metadata.distributions())
    packages = "\n".join([platform.python_version(), *versions])
    return {
        "library": hashlib.sha256(told.encode()).hexdigest(),
        "packages": hashlib.sha256(packages.encode()).hexdigest(),
    }


def _finished(stage: Stage, identity: dict[str, Any]) -> Outcome | None:
    """The outcome of an earlier run, if it went well, its results are all there, and they would be the same now."""
    run, report = stage.whole(), read_json(stage.results / "metrics.json")
    if not run or not report or {key: run.get(key) for key in identity} != identity:
        return None
    ours = Manifest(stage.results).is_ours
    there = all(map(ours, run["files"])) and (stage.out / f"{stage.name}.ipynb").is_file()
    if there and _same_data(report, identity["data"]):
        return Outcome(stage.name, run["seconds"], None, run["peak_memory_bytes"])
    return None


def _same_data(report: dict[str, Any], place: str | None) -> bool:
    """Whether the data sets of a report are those that a run would find now, byte for byte."""
    for told in report["data"]:
        if told["name"] not in datasets.DATASETS:  # a package's own, whose version has been compared
            if place == told.get("source") == EMBEDDED:
                continue
            return False
        try:
            found = provenance.source(datasets.find_local(told["name"], place))
        except InputError:
            return False
        if any(found[key] != told.get(key) for key in ("title", "sha256")):
            return False
    return True


def _of_all(reports: dict[str, Any], merged: dict[str, Any]) -> dict[str, Any]:
    """The preset and seed of all reports, null where they differ, and under ``mixed`` what differs."""
    found: dict[str, list[Any]] = {"preset": [], "seed": [], "version": [], "commit": []}
    for report in reports.values():
        environment = report.get("environment", {})
        version = environment.get("versions", {}).get("tp4lib")
        for key, value in (
            ("preset", report.get("preset")), ("seed", report.get("seed")),
            ("version", version), ("commit", environment.get("commit")),
        ):  # fmt: skip
            found[key] += [value] * (value not in found[key])
    mixed = {key: sorted(values, key=str) for key, values in found.items() if len(values) > 1}
    of_all = {key: None if key in mixed else (found[key] or [merged[key]])[0] for key in ("preset", "seed")}
    return {**of_all, "mixed": mixed}


def _status(line: str) -> None:
    """On a terminal, one line that is written over; nothing elsewhere."""
    if sys.stdout.isatty():
        columns = shutil.get_terminal_size().columns
        sys.stdout.write(f"\r\x1b[K{line[: columns - 1]}")
        sys.stdout.flush()
