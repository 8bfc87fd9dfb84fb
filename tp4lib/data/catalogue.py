"""Find a data set, download and verify it, or fall back to what ships with the environment.

`find` looks in ``data_dir``, then in ``$TP4_DATA``, then in the cache; then it downloads the official archive (to a
temporary file, checked, then renamed) unless ``TP4_OFFLINE=1``; then it takes the embedded default. The result says
which one it is, so that no figure can pass off a stand-in as the real thing.
"""

import functools
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tp4lib.base import archives, environment, paths
from tp4lib.base.errors import InputError
from tp4lib.data.contents import matches
from tp4lib.data.download import download
from tp4lib.data.listing import DATASETS, Dataset, Form
from tp4lib.data.wikipedia import clean_wikipedia

EMBEDDED = "embedded"
"""As ``data_dir`` or ``$TP4_DATA``: take the embedded default, whatever else is there."""


@dataclass(frozen=True)
class Found:
    """A data set that is there.

    Attributes:
        path: a file, the folder that holds the files, or None where the embedded default is made in memory.
        source: "data_dir", "TP4_DATA", "cache", "download" or "embedded".
        title: what it is in words, by its content: see `tp4lib.data.contents`.
        synthetic: it was drawn by a program, and has to be labelled so wherever it is shown.
        sha256: over all content that is read; None where it is made in memory and not yet made.
        counts: of what is in it, such as ``{"characters": 1623, "alphabets": 50, "drawings": 32460}``.
        official: whether it is the official download, by its digest; None where no official digest is known.
        licence: under which it comes: that of the real data set, or of what stands in for it.
        held: what was read of it on the way, for its own reader.
    """

    name: str
    path: Path | None
    source: str
    title: str
    synthetic: bool = False
    sha256: str | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    official: bool | None = None
    licence: str | None = None
    held: Any = field(default=None, repr=False, compare=False)

    @property
    def is_embedded(self) -> bool:
        return self.source == EMBEDDED

    def describe(self) -> str:
        """One line for people: what it is and where it came from, without a path of this machine."""
        came = _CAME.get(self.source, self.source)
        return f"{self.name}: {self.title} [{came}]"


_CAME = {
    "TP4_DATA": "$TP4_DATA",
    "cache": "the cache",
    "download": "the official download",
    EMBEDDED: "embedded default",
}


def find(name: str, data_dir: str | Path | None = None) -> Found:
    """Find the data set ``name`` (a key of `DATASETS`); see the module's text for the order of places.

    Raises:
        InputError: the name is unknown; ``data_dir`` was named but does not exist or does not hold the data set.
    """
    found = find_local(name, data_dir)
    forced = EMBEDDED in (str(data_dir), os.environ.get("TP4_DATA"))
    if found.is_embedded and DATASETS[name].remotes and not forced and not environment.flag("TP4_OFFLINE"):
        try:
            return fetch(name)
        except InputError as error:
            print(f"tp4: {error}; going on with {found.title}", file=sys.stderr)
    return found


def find_local(name: str, data_dir: str | Path | None = None) -> Found:
    """`find` without any download: what is there now, else the embedded default."""
    dataset = _dataset(name)
    if str(data_dir) == EMBEDDED:
        return _embedded(dataset)
    if data_dir is not None:
        _require_folder(data_dir, f"no data folder {data_dir}", "choose another --data-dir, or leave it out")
        if found := _look(dataset, Path(data_dir), "data_dir"):
            return found
        if dataset.remotes:
            names = " or ".join(" + ".join(form.files) for form in dataset.forms)
            raise InputError(
                f"{data_dir} holds no {name}; expected {names}; choose another --data-dir, or leave it out"
            )
    folder = named_folder()
    if folder == EMBEDDED:
        return _embedded(dataset)
    if folder:
        if found := _look(dataset, Path(folder), "TP4_DATA"):
            return found
        _tell_if_useless(folder)
    places = (_look(dataset, place, "cache") for place in paths.cache_places())
    return next(filter(None, places), None) or _embedded(dataset)


def named_folder() -> str | None:
    """What ``$TP4_DATA`` names: a folder, `EMBEDDED`, or None where it is not set.

    Raises:
        InputError: it names something else.
    """
    folder = os.environ.get("TP4_DATA") or None
    if folder and folder != EMBEDDED:
        _require_folder(folder, f"TP4_DATA={folder}", "unset TP4_DATA or correct it")
    return folder


def require_any(folder: str | Path, told: str) -> None:
    """Refuse a folder, named by ``told``, that holds no data set: a run would take stand-ins without a word."""
    advice = f"choose another {told}, or leave it out"
    _require_folder(folder, f"no data folder {folder}", advice)
    if not _holds_any(folder):
        raise InputError(
            f"no data set in {folder}; expected files of {', '.join(DATASETS)}, as `tp4 data` names them; {advice}"
        )


def _require_folder(folder: str | Path, name: str, advice: str) -> None:
    if not os.path.isdir(folder):  # as Path.is_dir, which raises where a name is too long
        raise InputError(f"{name}: it is {archives.what_is(folder)}; expected a folder; {advice}")


def _holds_any(folder: str | Path) -> bool:
    return any(_places(dataset, Path(folder)) for dataset in DATASETS.values())


@functools.cache  # once is enough
def _tell_if_useless(folder: str) -> None:
    """A line on stderr where a folder that the user named holds no data set at all: its name may be misspelt."""
    if not _holds_any(folder):
        print(
            f"tp4: TP4_DATA={folder} holds none of {', '.join(DATASETS)}; going on without it; correct it, or unset "
            "TP4_DATA",
            file=sys.stderr,
        )


def fetch(name: str) -> Found:
    """Download the official files of ``name`` into the cache, verify them, and return what `find` would.

    Raises:
        InputError: nothing to download, offline, or a download failed; nothing half-written is left.
    """
    dataset = _dataset(name)
    if not dataset.remotes:
        downloadable = ", ".join(each.name for each in DATASETS.values() if each.remotes)
        raise InputError(f"{name} has no download; expected one of {downloadable}; it comes with gensim")
    if environment.flag("TP4_OFFLINE"):
        raise InputError(
            f"cannot download {name}: TP4_OFFLINE is set; unset it, or put the files in $TP4_DATA"
        )
    folder = paths.cache_dir() / dataset.folder
    folder.mkdir(parents=True, exist_ok=True)
    for filename, (url, digest) in dataset.remotes.items():
        target = folder / filename
        if not (target.is_file() and matches(target, digest)):
            download(url, target, digest)
    found = _look(dataset, paths.cache_dir(), "download")
    assert found is not None, "the files just downloaded are one of the data set's own forms"
    return found


def verify(found: Found) -> str:
    """ "ok" where what was found has the official digest, "differs" where not, else "no digest" (none is known)."""
    return {True: "ok", False: "differs", None: "no digest"}[found.official]


def _dataset(name: str) -> Dataset:
    if name not in DATASETS:
        raise InputError(f"unknown data set {name!r}; expected one of {', '.join(DATASETS)}; see `tp4 data`")
    return DATASETS[name]


def _look(dataset: Dataset, folder: Path, source: str) -> Found | None:
    """The data set in the first of its forms that ``folder`` holds.

    Raises:
        InputError: something of the right name is there, but is not a file (or a folder); or it cannot be read.
    """
    places = _places(dataset, folder)
    if not places:
        _require_nothing_odd(dataset, folder)
        return None
    path, form = places[0]
    read = dataset.read(path, {filename: digest for filename, (_, digest) in dataset.remotes.items()})
    # Of an unpacked text8 the MD5 is known, which takes another reading.
    known = form.known == f"sha256:{read['sha256']}" or (
        form.known.startswith("md5:") and matches(path, form.known)
    )
    if read["official"] or known:
        read["title"] = form.title
    if path.name == "enwik9.zip":
        path = _cleaned(path, paths.cache_dir() / f"fil9-{read['sha256'][:32]}")
    return Found(dataset.name, path, source, licence=dataset.licence, **read)


def _places(dataset: Dataset, folder: Path) -> list[tuple[Path, Form]]:
    """Where the data set is in ``folder``: a file, or the folder that holds the files; the best form first."""
    return [
        (place / form.files[0] if len(form.files) == 1 else place, form)
        for place in dict.fromkeys((folder / dataset.folder, folder))
        for form in dataset.forms
        if all(_is_there(place, name) for name in form.files)
    ]


def _is_there(place: Path, name: str) -> bool:
    return (os.path.isdir if name.endswith("/") else os.path.isfile)(place / name)


def _require_nothing_odd(dataset: Dataset, folder: Path) -> None:
    """Refuse to pass over what has the name of a data file in silence: a folder, a pipe, a link that leads nowhere."""
    for place in dict.fromkeys((folder / dataset.folder, folder)):
        for name in dict.fromkeys(name for form in dataset.forms for name in form.files):
            if os.path.lexists(path := place / name.rstrip("/")) and not _is_there(place, name):
                expected = "a folder" if name.endswith("/") else "a file"
                raise InputError(
                    f"{path} is {archives.what_is(path)}; expected {expected} with the data set {dataset.name}; "
                    "move it away, or choose another folder"
                )


def _embedded(dataset: Dataset) -> Found:
    path, (title, licence) = None, dataset.embedded
    if dataset.name in ("text8", "fil9"):
        dump = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
        places = [place / "wiki-slice.txt" for place in paths.cache_places()]
        path = next((place for place in places if place.is_file()), None)
        path = path or _cleaned(_gensim_test_data(dump), paths.cache_dir() / "wiki-slice.txt")
    elif dataset.name == "questions":
        path = _gensim_test_data("questions-words.txt")
    read = {} if path is None else dataset.read(path, {})
    return Found(
        dataset.name, path, EMBEDDED, **read | {"title": title}, synthetic=dataset.synthetic, licence=licence
    )


def _cleaned(dump: Path, target: Path) -> Path:
    if not target.is_file():
        clean_wikipedia(dump, target)
    return target


def _gensim_test_data(name: str) -> Path:
    place = find_spec("gensim")  # to import it takes more than a second
    if place is None:
        raise InputError(
            f"the embedded {name} comes with gensim, which is not installed; expected the packages that tp4 declares; "
            "run `make install`, or put the data in a folder named by TP4_DATA"
        )
    return Path(place.origin).parent / "test" / "test_data" / name
