"""From a text file to numbered words: read in pieces, split at white space of ASCII, numbered as they appear."""

import functools
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from tp4lib.base import archives
from tp4lib.base.errors import InputError

_PIECE = 1 << 19  # bytes read at a time: the words made from them stay in the cache
_LONGEST = 1 << 16  # bytes; a "word" longer than this is not text
_SPACES = b" \t\n\v\f\r"
_NO_TEXT = bytes(set(range(32)) - set(_SPACES))


def words_in(line: str) -> list[str]:
    r"""The words of a line of text, between white space of ASCII.

    >>> words_in("New\N{NO-BREAK SPACE}York  is a\ttown\n")
    ['New\xa0York', 'is', 'a', 'town']
    """
    return re.findall(f"[^{_SPACES.decode()}]+", line)


def text_pieces(file: archives.Stream, path: Path, max_bytes: int | None) -> Iterator[bytes]:
    """Yield the text in pieces that end between two words.

    Raises:
        InputError: it holds control characters, or a "word" that is none.
    """
    left = max_bytes if max_bytes is not None else float("inf")
    rest = b""
    while left > 0 and (data := file.read(int(min(_PIECE, left)))):
        left -= len(data)
        cut = max(map(data.rfind, _SPACES))
        if cut >= 0:
            yield _text(rest + data[: cut + 1], path)
            rest = data[cut + 1 :]
        else:
            rest += data
        if len(rest) > _LONGEST:
            raise InputError(
                f"{path} has a word of more than {_LONGEST} bytes; expected text with words between spaces; "
                "check --corpus"
            )
    cut_short = left <= 0 and file.read(1) not in _SPACES  # the end of the text, b"", is in it too
    if rest and not cut_short:
        yield _text(rest, path)


def _text(piece: bytes, path: Path) -> bytes:
    if len(piece.translate(None, _NO_TEXT)) < len(piece):
        raise InputError(
            f"{path} holds control characters, so it is not text; expected words between spaces; "
            "unpack it first, or choose another --corpus"
        )
    return piece


def plain_words(piece: bytes, path: Path) -> bytes:
    """A piece of `text_pieces` in lower case, each punctuation mark, symbol or space of Unicode in it a space.

    Letters, their marks, and digits of every script stay. There is no word segmentation: a script that is written
    without spaces between words needs it beforehand.
    """
    return decoded(piece, path).translate(_separators()).lower().encode()


@functools.cache
def _separators() -> dict[int, str]:
    """Every character whose category in Unicode is a kind of punctuation (P), symbol (S) or separator (Z)."""
    return {code: " " for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] in "PSZ"}


def decoded(letters: bytes, path: Path) -> str:
    """Bytes of the text in the file ``path`` as text; what is not UTF-8 is refused."""
    try:
        return letters.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(
            f"{path} is not UTF-8 text; expected words between spaces; "
            "unpack or re-encode it first, or choose another --corpus"
        ) from None


class Numbering(dict):
    """The number of each word, given when it first appears.

    >>> Numbering().of(["so", "it", "is", "so"]).tolist()
    [0, 1, 2, 0]
    """

    def __missing__(self, word: bytes | str) -> int:
        self[word] = number = len(self)
        return number

    def of(self, words: Iterable[bytes | str]) -> np.ndarray:
        """(words,) int32."""
        return np.fromiter(map(self.__getitem__, words), np.int32)
