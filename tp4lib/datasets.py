"""Find a data set, download and verify it, or fall back to what ships with the environment.

`find` looks in ``data_dir``, then in ``$TP4_DATA``, then in the cache; then it downloads the official archive (to a
temporary file, checked, then renamed) unless ``TP4_OFFLINE=1``; then it takes the embedded default. The result says
which one it is, so that no figure can pass off a stand-in as the real thing.
"""

import contextlib
import hashlib
import http.client
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tp4lib import paths
from tp4lib.errors import InputError
from tp4lib.files import atomic_path
from tp4lib.progress import bar

EMBEDDED = "embedded"
"""As ``data_dir`` or ``$TP4_DATA``: take the embedded default, whatever else is there."""

_TIMEOUT = 20.0  # seconds without a byte before a try is given up
_PATIENCE, _SLOWEST = 60.0, 60_000  # so many bytes have to come in so many seconds
_TRIES, _PAUSE = 3, 1.0  # tries where the server or the line failed; seconds between them, doubled each time
_MOST = 1 << 30  # bytes; the largest official file has a third of that
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Remote:
    """One official file: where it is, what it is called here, and its digest as ``"sha256:..."`` or ``"md5:..."``."""

    url: str
    filename: str
    digest: str


@dataclass(frozen=True)
class Dataset:
    """What `find` knows of a data set.

    Attributes:
        files: for each way to hold it, the file names (any of a tuple) that must all be there, and its title.
        remotes: official downloads, into the cache folder.
        folder: sub-folder that may hold the files (``omniglot/images_background.zip``), or "".
        embedded: title of the embedded default.
    """

    name: str
    licence: str
    files: tuple[tuple[tuple[str, ...], str], ...]
    remotes: tuple[Remote, ...]
    embedded: str
    folder: str = ""
    synthetic: bool = False


DATASETS = {
    "text8": Dataset(
        "text8",
        "CC BY-SA 3.0",
        (
            (("text8",), "text8, English Wikipedia (2006)"),
            (("text8.zip",), "text8, English Wikipedia (2006)"),
            (("text8.gz",), "text8, English Wikipedia (2006)"),
            (("wiki8",), "wiki8, a later English Wikipedia dump in text8 format"),
            (("wiki8.xz",), "wiki8, a later English Wikipedia dump in text8 format"),
        ),
        (
            Remote(
                "http://mattmahoney.net/dc/text8.zip",
                "text8.zip",
                "sha256:a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
            ),
        ),
        "206 pages of English Wikipedia (gensim's test data, cleaned to text8 format)",
    ),
    "fil9": Dataset(
        "fil9",
        "CC BY-SA 3.0",
        (
            (("fil9",), "fil9, English Wikipedia (2006)"),
            (("fil9.xz",), "fil9, English Wikipedia (2006)"),
            (("enwik9.zip",), "fil9, English Wikipedia (2006)"),
        ),
        (
            Remote(
                "http://mattmahoney.net/dc/enwik9.zip",
                "enwik9.zip",
                "sha256:99cdb5ac84392252d3f0912ccedd195bc95bd80cbef3b0cdf2eee4ad9a3b7a51",
            ),
        ),
        "206 pages of English Wikipedia (gensim's test data, cleaned to text8 format)",
    ),
    "questions": Dataset(
        "questions",
        "Apache 2.0",
        ((("questions-words.txt",), "questions-words, 19,544 analogy questions"),),
        (),
        "questions-words, 19,544 analogy questions (gensim's test data)",
    ),
    "omniglot": Dataset(
        "omniglot",
        "MIT",
        (
            (("images_background.zip", "images_evaluation.zip"), "Omniglot, 1,623 handwritten characters"),
            (("images_background", "images_evaluation"), "Omniglot, 1,623 handwritten characters"),
        ),
        (
            Remote(
                "https://github.com/brendenlake/omniglot/raw/master/python/images_background.zip",
                "images_background.zip",
                "md5:68d2efa1b9178cc56df9314c21c6e718",
            ),
            Remote(
                "https://github.com/brendenlake/omniglot/raw/master/python/images_evaluation.zip",
                "images_evaluation.zip",
                "md5:6b91aef0f799c5bb55b94e3f2daec811",
            ),
        ),
        "synthetic characters, drawn by this program",
        folder="omniglot",
        synthetic=True,
    ),
    "cifar10": Dataset(
        "cifar10",
        "research use",
        (
            (("cifar-10-python.tar.gz",), "CIFAR-10"),
            (("cifar-10-batches-py",), "CIFAR-10"),
            (("cifar10_6k.npz",), "CIFAR-10, a sample of 5,000 + 1,000 images"),
        ),
        (
            Remote(
                "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
                "cifar-10-python.tar.gz",
                "sha256:6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            ),
        ),
        "scikit-learn's 8 x 8 handwritten digits",
    ),
}


@dataclass(frozen=True)
class Found:
    """A data set that is there.

    Attributes:
        path: a file, the folder that holds the files, or None where the embedded default is made in memory.
        source: "data_dir", "TP4_DATA", "cache", "download" or "embedded".
        synthetic: it was drawn by a program, and has to be labelled so wherever it is shown.
    """

    name: str
    path: Path | None
    source: str
    title: str
    synthetic: bool = False

    @property
    def is_embedded(self) -> bool:
        return self.source == EMBEDDED

    def describe(self) -> str:
        """One line for people: what it is and where it came from, without a path of this machine."""
        came = {
            "data_dir": "data_dir",
            "TP4_DATA": "$TP4_DATA",
            "cache": "the cache",
            "download": "the official download",
        }
        return f"{self.name}: {self.title} [{came.get(self.source, 'embedded default')}]"

    def sha256(self) -> str | None:
        """Digest of the file (or of the digests of the folder's archives); None where it is made in memory."""
        if self.path is None:
            return None
        if self.path.is_file():
            return digest(self.path)
        parts = sorted(p for p in self.path.iterdir() if p.is_file())
        return hashlib.sha256("".join(digest(p) for p in parts).encode()).hexdigest()


def find(name: str, data_dir: str | Path | None = None) -> Found:
    """Find the data set ``name`` (a key of `DATASETS`); see the module's text for the order of places.

    Raises:
        InputError: the name is unknown; ``data_dir`` was named but does not exist or does not hold the data set.
    """
    found = find_local(name, data_dir)
    forced = EMBEDDED in (str(data_dir), os.environ.get("TP4_DATA"))
    if found.is_embedded and DATASETS[name].remotes and not forced and not offline():
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
        if not os.path.isdir(data_dir):  # as Path.is_dir, which raises where a name is too long
            raise InputError(
                f"no data folder {data_dir}; expected a folder; choose another --data-dir, or leave it out"
            )
        if found := _look(dataset, Path(data_dir), "data_dir"):
            return found
        if dataset.remotes:
            names = " or ".join(" + ".join(files) for files, _ in dataset.files)
            raise InputError(
                f"{data_dir} holds no {name}; expected {names}; choose another --data-dir, or leave it out"
            )
    environment = os.environ.get("TP4_DATA")
    if environment == EMBEDDED:
        return _embedded(dataset)
    if environment:
        if not os.path.isdir(environment):
            raise InputError(
                f"TP4_DATA={environment} is not a folder; expected one; unset TP4_DATA or correct it"
            )
        if found := _look(dataset, Path(environment), "TP4_DATA"):
            return found
    return _look(dataset, paths.cache_dir(), "cache") or _embedded(dataset)


def fetch(name: str) -> Found:
    """Download the official files of ``name`` into the cache, verify them, and return what `find` would.

    Raises:
        InputError: nothing to download, offline, or a download failed; nothing half-written is left.
    """
    dataset = _dataset(name)
    if not dataset.remotes:
        raise InputError(
            f"{name} has no download; expected one of {', '.join(_downloadable())}; it comes with gensim"
        )
    if offline():
        raise InputError(
            f"cannot download {name}: TP4_OFFLINE=1 is set; unset it, or put the files in $TP4_DATA"
        )
    folder = paths.cache_dir() / dataset.folder
    folder.mkdir(parents=True, exist_ok=True)
    for remote in dataset.remotes:
        target = folder / remote.filename
        if not (target.is_file() and matches(target, remote.digest)):
            download(remote.url, target, remote.digest)
    found = _look(dataset, paths.cache_dir(), "download")
    assert found is not None, "the files just downloaded are one of the data set's own forms"
    return found


def download(url: str, target: Path, expected: str) -> None:
    """Download ``url`` to ``target`` atomically; keep it only if its digest is ``expected`` (``"sha256:..."``).

    What another try may cure (a stall, a broken line, an error of the server's own) is tried three times. Only http and
    https are spoken, also where a server redirects to; proxies are taken from the environment.

    Raises:
        InputError: unreachable, stalled, cut short, an HTTP error, or other bytes than expected.
    """
    hint = f"try again, or put {target.name} in a folder named by TP4_DATA"
    for part in target.parent.glob(f".{target.name}.*.part"):  # left by a download that was killed
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > 3600:
                part.unlink()
    for attempt in range(1, _TRIES + 1):
        desc = f"download {target.name}" + (f" (try {attempt} of {_TRIES})" if attempt > 1 else "")
        try:
            with atomic_path(target) as part:
                _transfer(url, part, desc)
                if not matches(part, expected):
                    raise InputError(
                        f"{url} does not have the expected {expected.split(':')[0]} digest; {hint}"
                    )
            return
        except _Broken as broken:
            if attempt == _TRIES or not broken.may_pass:
                tries = f" in {attempt} tries" if attempt > 1 else ""
                raise InputError(f"cannot download {url}{tries}: {broken}; {hint}") from None
        time.sleep(_PAUSE * 2 ** (attempt - 1))


class _Broken(Exception):
    """A transfer that failed, and whether another try may go better."""

    def __init__(self, reason: object, may_pass: bool) -> None:
        super().__init__(" ".join(str(reason).split())[:300] or type(reason).__name__)
        self.may_pass = may_pass


def _transfer(url: str, part: Path, desc: str) -> None:
    try:
        with _opener().open(url, timeout=_TIMEOUT) as response, open(part, "wb") as file:
            told = response.headers.get("Content-Length", "")
            size = int(told) if told.isascii() and told.isdigit() else None
            if (size or 0) > _MOST:
                raise _Broken(f"{size:,} bytes; at most {_MOST:,} are expected", False)
            with bar(total=size, desc=desc, unit="B") as progress:
                _copy(response, file, _MOST if size is None else size, progress.update)
            received = file.tell()
    except urllib.error.HTTPError as error:
        error.close()
        raise _Broken(f"{error.code} {error.reason}", error.code >= 500 or error.code in (408, 429)) from None
    except urllib.error.URLError as error:  # no connection was made: not the moment to insist
        raise _Broken(error.reason, False) from None
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(error, not isinstance(error, http.client.InvalidURL)) from None
    except ValueError as error:  # not an address
        raise _Broken(error, False) from None
    if size is not None and received != size:
        raise _Broken(f"cut short at {received} of {size} bytes", True)


def _copy(
    response: http.client.HTTPResponse, file: BinaryIO, most: int, report: Callable[[int], object]
) -> None:
    since, recent, left = time.monotonic(), 0, most
    while left and (chunk := response.read1(min(_CHUNK, left))):
        file.write(chunk)
        report(len(chunk))
        left, recent = left - len(chunk), recent + len(chunk)
        if (passed := time.monotonic() - since) > _PATIENCE:
            if recent < _SLOWEST:
                raise _Broken(f"stalled: {recent:,} bytes in {passed:.0f} seconds", True)
            since, recent = time.monotonic(), 0


def _opener() -> urllib.request.OpenerDirector:
    """urllib's own, without the handlers of file:, ftp: and data: addresses."""
    request, opener = urllib.request, urllib.request.OpenerDirector()
    for handler in (
        request.ProxyHandler,
        request.UnknownHandler,
        request.HTTPHandler,
        request.HTTPSHandler,
        request.HTTPDefaultErrorHandler,
        request.HTTPRedirectHandler,
        request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def verify(found: Found) -> str:
    """ "ok" where every file with a known official digest has it, "differs" where one does not, else "no digest"."""
    if found.path is None or found.is_embedded:
        return "no digest"
    folder = found.path if found.path.is_dir() else found.path.parent
    known = [(folder / remote.filename, remote.digest) for remote in DATASETS[found.name].remotes]
    known = [(path, expected) for path, expected in known if path.is_file()]
    if not known:
        return "no digest"
    return "ok" if all(matches(path, expected) for path, expected in known) else "differs"


def offline() -> bool:
    """Whether downloads are switched off by ``TP4_OFFLINE=1``."""
    return os.environ.get("TP4_OFFLINE", "") not in ("", "0")


def digest(path: Path, algorithm: str = "sha256") -> str:
    """Hexadecimal digest of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def matches(path: Path, expected: str) -> bool:
    """Whether the file has the digest ``expected``, written ``"algorithm:hex"``."""
    algorithm, _, value = expected.partition(":")
    return digest(path, algorithm) == value


def _dataset(name: str) -> Dataset:
    if name not in DATASETS:
        raise InputError(f"unknown data set {name!r}; expected one of {', '.join(DATASETS)}; see `tp4 data`")
    return DATASETS[name]


def _downloadable() -> list[str]:
    return [name for name, dataset in DATASETS.items() if dataset.remotes]


def _look(dataset: Dataset, folder: Path, source: str) -> Found | None:
    for place in dict.fromkeys((folder / dataset.folder, folder)):
        for files, title in dataset.files:
            if all((place / file).exists() for file in files):
                path = place / files[0] if len(files) == 1 else place
                if path.name == "enwik9.zip":
                    path = _cleaned(path, paths.cache_dir() / "fil9")
                return Found(dataset.name, path, source, title)
    return None


def _embedded(dataset: Dataset) -> Found:
    path = None
    if dataset.name in ("text8", "fil9"):
        dump = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
        path = paths.cache_dir() / "wiki-slice.txt"
        if not path.is_file():
            path = _cleaned(_gensim_test_data(dump), path)
    elif dataset.name == "questions":
        path = _gensim_test_data("questions-words.txt")
    return Found(dataset.name, path, EMBEDDED, dataset.embedded, dataset.synthetic)


def _cleaned(dump: Path, target: Path) -> Path:
    from tp4lib.word2vec.corpus import (
        clean_wikipedia,  # a dump is cleaned by the module that knows the format
    )

    if not target.is_file():
        clean_wikipedia(dump, target)
    return target


def _gensim_test_data(name: str) -> Path:
    try:
        from gensim.test.utils import datapath
    except ImportError:
        raise InputError(
            f"the embedded {name} comes with gensim, which is not installed; "
            "run `pip install gensim`, or put the data in a folder named by TP4_DATA"
        ) from None
    return Path(datapath(name))
