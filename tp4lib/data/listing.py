"""The data sets there are: names of files, digests, licences, official downloads."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tp4lib.data import contents, drawings


@dataclass(frozen=True)
class Form:
    """One way to hold a data set.

    Attributes:
        files: names that must all be there, a folder's with "/" at its end.
        title: of the content that is official, or has the digest
        known: ``"sha256:..."`` or ``"md5:..."``.
    """

    files: tuple[str, ...]
    title: str
    known: str = ""


@dataclass(frozen=True)
class Dataset:
    """What `find` knows of a data set.

    Attributes:
        forms: the ways to hold it, the preferred one first.
        read: finds out what the files of a form hold, see `tp4lib.data.contents.text`.
        remotes: official downloads, into the cache folder: by the name of the file its address, and its digest as
            ``"sha256:..."`` or ``"md5:..."``.
        folder: sub-folder that may hold the files (``omniglot/images_background.zip``), or "".
        embedded: title of the embedded default, and under which licence it comes.
    """

    name: str
    licence: str
    forms: tuple[Form, ...]
    read: Callable[..., dict[str, Any]]
    remotes: dict[str, tuple[str, str]]
    embedded: tuple[str, str]
    folder: str = ""
    synthetic: bool = False


_TEXT8, _FIL9 = "text8, English Wikipedia (2006)", "fil9, English Wikipedia (2006)"
_WIKI8 = "wiki8, a later English Wikipedia dump in text8 format"
_GENSIMS = "206 pages of English Wikipedia (gensim's test data, cleaned to text8 format)"
_QUESTIONS = "questions-words, 19,544 analogy questions"
DIGITS = ("scikit-learn's 8 x 8 handwritten digits", "CC BY 4.0")
"""Title and licence: of the UCI Machine Learning Repository, "Optical recognition of handwritten digits"."""
# Digests of what is no official download.
_TEXT8_PLAIN = "md5:3bea1919949baf155f99411df5fada7e"
_WIKI8_PLAIN = "sha256:90ed1ce0d0a678b55a6ade95037a849137b514ba94903876cbd692d80a471997"
_WIKI8_XZ = "sha256:128c3bb5a7a75b7cc4a0867a6d54b3cfe48001d884586cceb269e7c4092ae41d"
_GENSIMS_QUESTIONS = "sha256:8c29b3332afc46f3fb8be04cb5297bf96f39aa7131272dff57869b4485b22a36"
_CIFAR10_SAMPLE = "sha256:1452c17917533f7040a83b9e3d137ea5119a32166f0fc971739dbed5ac6efe49"

DATASETS = {
    "text8": Dataset(
        "text8",
        "CC BY-SA 3.0",
        (
            Form(("text8",), _TEXT8, _TEXT8_PLAIN),
            Form(("text8.zip",), _TEXT8),
            Form(("text8.gz",), _TEXT8),
            Form(("wiki8",), _WIKI8, _WIKI8_PLAIN),
            Form(("wiki8.xz",), _WIKI8, _WIKI8_XZ),
        ),
        contents.text,
        {
            "text8.zip": (
                "http://mattmahoney.net/dc/text8.zip",
                "sha256:a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
            )
        },
        (_GENSIMS, "CC BY-SA 3.0"),
    ),
    "fil9": Dataset(
        "fil9",
        "CC BY-SA 3.0",
        (Form(("fil9",), _FIL9), Form(("fil9.xz",), _FIL9), Form(("enwik9.zip",), _FIL9)),
        contents.text,
        {
            "enwik9.zip": (
                "http://mattmahoney.net/dc/enwik9.zip",
                "sha256:99cdb5ac84392252d3f0912ccedd195bc95bd80cbef3b0cdf2eee4ad9a3b7a51",
            )
        },
        (_GENSIMS, "CC BY-SA 3.0"),
    ),
    "questions": Dataset(
        "questions",
        "Apache 2.0",
        (Form(("questions-words.txt",), _QUESTIONS, _GENSIMS_QUESTIONS),),
        contents.questions,
        {},
        (f"{_QUESTIONS} (gensim's test data)", "Apache 2.0"),
    ),
    "omniglot": Dataset(
        "omniglot",
        "MIT",
        tuple(
            Form(files, "Omniglot, 1,623 handwritten characters")
            for files in itertools.product(*((f"{part}.zip", f"{part}/") for part in drawings.PARTS))
        ),
        contents.omniglot,
        {
            f"{part}.zip": (
                f"https://github.com/brendenlake/omniglot/raw/master/python/{part}.zip",
                f"md5:{md5}",
            )
            for part, md5 in zip(
                drawings.PARTS, ("68d2efa1b9178cc56df9314c21c6e718", "6b91aef0f799c5bb55b94e3f2daec811")
            )
        },
        ("synthetic characters, drawn by this program", "MIT, as this program"),
        folder="omniglot",
        synthetic=True,
    ),
    "cifar10": Dataset(
        "cifar10",
        "research use",
        (
            Form(("cifar-10-python.tar.gz",), "CIFAR-10"),
            Form(("cifar-10-batches-py/",), "CIFAR-10"),
            Form(("cifar10_6k.npz",), "CIFAR-10, a sample of 5,000 + 1,000 images", _CIFAR10_SAMPLE),
        ),
        contents.cifar10,
        {
            "cifar-10-python.tar.gz": (
                "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
                "sha256:6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            )
        },
        DIGITS,
    ),
}
