"""From a text file to words: opening and unpacking, splitting between white space of ASCII, hashing and counting.

The text is read in pieces and processed by array operations: no Python object is made for a word of the text.
"""

import functools
import re
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from tp4lib.base import archives
from tp4lib.base.errors import InputError
from tp4lib.word2vec import idstore

_PIECE = 1 << 19  # bytes read at a time: the arrays made from them stay in the cache
_LONGEST = 1 << 16  # bytes; a "word" longer than this is not text
_NO_TEXT = np.zeros(256, dtype=bool)
_NO_TEXT[:32] = True
_NO_TEXT[[9, 10, 11, 12, 13]] = False  # white space
_LOW_BYTES = np.array([2 ** (8 * k) - 1 for k in range(9)], dtype=np.uint64)
_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd: multiplying by it loses nothing
_TABLE_BITS = 20
_SPACES = b" \t\n\v\f\r"


def words_in(line: str) -> list[str]:
    r"""The words of a line of text, between white space of ASCII.

    >>> words_in("New\N{NO-BREAK SPACE}York  is a\ttown\n")
    ['New\xa0York', 'is', 'a', 'town']
    """
    return re.findall(f"[^{_SPACES.decode()}]+", line)


def text_pieces(file: archives.Stream, path: Path, max_bytes: int | None) -> Iterator[np.ndarray]:
    """Yield the text as uint8 arrays that end between two words, each with a space at its end."""
    left = max_bytes if max_bytes is not None else float("inf")
    rest = b""
    while left > 0 and (data := file.read(int(min(_PIECE, left)))):
        left -= len(data)
        cut = max(map(data.rfind, _SPACES))
        if cut >= 0:
            yield np.frombuffer(rest + data[: cut + 1], dtype=np.uint8)
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
        yield np.frombuffer(rest + b" ", dtype=np.uint8)


def plain_words(piece: np.ndarray, path: Path) -> np.ndarray:
    """A piece of `text_pieces` in lower case, each punctuation mark, symbol or space of Unicode in it a space.

    Letters, their marks, and digits of every script stay. There is no word segmentation: a script that is written
    without spaces between words needs it beforehand.
    """
    text = _decoded(piece, path).translate(_separators()).lower()
    return np.frombuffer(text.encode(), dtype=np.uint8)


@functools.cache
def _separators() -> dict[int, str]:
    """Every character whose category in Unicode is a kind of punctuation (P), symbol (S) or separator (Z)."""
    return {code: " " for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] in "PSZ"}


def _decoded(letters: np.ndarray, path: Path) -> str:
    try:
        return letters.tobytes().decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(
            f"{path} is not UTF-8 text; expected words between spaces; "
            "unpack or re-encode it first, or choose another --corpus"
        ) from None


class WordCounter:
    """Gives words provisional ids in order of first appearance, piece by piece.

    Words are identified by 64-bit hashes. A table with one place for each value of a hash's top bits finds most words
    by one array operation; a word whose place is taken by another one, or that is new, is looked up in a dictionary,
    once per piece.
    """

    def __init__(self, path: Path, scratch: BinaryIO) -> None:
        self.path, self.scratch = path, scratch  # the ids of the whole text, see `idstore.pieces`
        self.words: list[str] = []
        self._known: dict[int, int] = {}
        self._table_hash = np.zeros(1 << _TABLE_BITS, dtype=np.uint64)
        self._table_id = np.full(1 << _TABLE_BITS, -1, dtype=np.int32)

    def add(self, text: np.ndarray) -> None:
        """Read the words of a uint8 array that ends with white space."""
        if _NO_TEXT[text].any():
            raise InputError(
                f"{self.path} holds control characters, so it is not text; expected words between spaces; "
                "unpack it first, or choose another --corpus"
            )
        start, end = _word_bounds(text)
        if len(start) == 0:
            return
        hashes = _hash(text, start, end)
        # Most words are found by one look at the table; -1 marks those that are not.
        slot = (hashes >> np.uint64(64 - _TABLE_BITS)).astype(np.int64)
        ids = np.where(self._table_hash[slot] == hashes, self._table_id[slot], np.int32(-1))
        missing = np.flatnonzero(ids < 0)
        if len(missing):
            order = np.argsort(hashes[missing])  # equal words side by side
            ordered = hashes[missing[order]]
            run = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
            first = np.minimum.reduceat(missing[order], run)  # first occurrence of each distinct word
            distinct = np.empty(len(run), dtype=np.int32)
            for k in np.argsort(first).tolist():  # new words get their ids in order of appearance
                distinct[k] = self._id(int(ordered[run[k]]), text[start[first[k]] : end[first[k]]])
            ids[missing[order]] = np.repeat(distinct, np.diff(np.append(run, len(order))))
        idstore.append(self.scratch, ids)

    def counts(self) -> np.ndarray:
        """(words,) int64: occurrences of each word."""
        counts = np.zeros(len(self.words), dtype=np.int64)
        for ids in idstore.pieces(self.scratch):
            np.add.at(counts, ids, 1)
        return counts

    def _id(self, word_hash: int, letters: np.ndarray) -> int:
        word_id = self._known.get(word_hash)
        if word_id is None:
            word_id = self._known[word_hash] = len(self.words)
            self.words.append(_decoded(letters, self.path))
            slot = word_hash >> (64 - _TABLE_BITS)
            if self._table_id[slot] < 0:
                self._table_hash[slot], self._table_id[slot] = word_hash, word_id
        return word_id


def _word_bounds(text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where words start and end (exclusive) in a uint8 array that ends with white space."""
    is_letter = text > 32
    change = np.flatnonzero(is_letter[1:] != is_letter[:-1]) + 1
    if is_letter[0]:
        change = np.concatenate([[0], change])
    return change[0::2], change[1::2]


def _hash(text: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(words,) uint64, from eight letters at a time; different for different words of up to eight bytes.

    Two of a million longer words collide with probability about 1e12 / 2^65, 3e-8.
    """
    padded = np.concatenate([text, np.zeros(8, dtype=np.uint8)])
    # The 8 bytes from each byte on, as one number: a view whose rows overlap.
    eight = np.ndarray(len(text) + 1, dtype="<u8", buffer=padded, strides=(1,))
    length = end - start
    hashes = (eight[start] & _LOW_BYTES[np.minimum(length, 8)]) * _MIX
    done = 8
    while len(longer := np.flatnonzero(length > done)):
        more = eight[start[longer] + done] & _LOW_BYTES[np.minimum(length[longer] - done, 8)]
        hashes[longer] = ((hashes[longer] ^ (hashes[longer] >> np.uint64(29))) + more) * _MIX
        done += 8
    return hashes
