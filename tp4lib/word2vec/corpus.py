"""From text to word ids: streaming reader, vocabulary, subsampling probabilities.

A corpus is plain text with words between white space (text8 format, say), packed or not; ``tokenize="words"`` makes
such a text of any other, in lower case and without punctuation. White space is that of ASCII: space, tab and line ends;
any other space of Unicode is a letter, here as in questions (`words_in`). A line end is an ordinary space: windows
reach across it, unlike in gensim, fastText and the word2vec program, which take each line as a sentence.
"""

import functools
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tp4lib.base.checks import real, whole
from tp4lib.base.errors import InputError
from tp4lib.base.progress import bar
from tp4lib.base.text import open_text
from tp4lib.word2vec.settings import TOKENIZERS
from tp4lib.word2vec.words import Numbering, decoded, plain_words, text_pieces

__all__ = ["Corpus", "Vocabulary", "keep_probability", "open_text"]

_WORD = re.compile(r"[^\x00-\x20]+")


@dataclass(frozen=True)
class Vocabulary:
    """Words and how often they occur, most frequent first; words of equal count stay in order of first appearance.

    Args:
        words: the words; their place in the list is their id. None is empty, or holds white space or
            control characters of ASCII.
        counts: (|V|,) int64, occurrences in the corpus, positive.

    >>> Vocabulary(["the", "cat"], np.array([7, 2])).index["cat"]
    1
    """

    words: list[str]
    counts: np.ndarray
    index: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _require_words(self.words, "a vocabulary")
        counts = np.asarray(self.counts)
        if counts.dtype.kind not in "iu" or counts.shape != (len(self.words),) or counts.min() < 1:
            raise InputError(
                f"counts {str(self.counts)[:40]} of {len(self.words)} words; expected a whole number >= 1 for each; "
                "count the words of a text"
            )
        object.__setattr__(self, "counts", counts.astype(np.int64))
        object.__setattr__(self, "index", {word: i for i, word in enumerate(self.words)})
        if len(self.index) != len(self.words):
            raise InputError(
                f"{len(self.words)} words, {len(self.index)} of them different; expected no word twice; give each once"
            )

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of words and counts, in hexadecimal."""
        seen = hashlib.sha256("\n".join(self.words).encode("utf-8", "surrogatepass"))
        seen.update(self.counts.astype("<i8"))
        return seen.hexdigest()

    def __len__(self) -> int:
        return len(self.words)


@dataclass(frozen=True)
class Corpus:
    """A text as word ids. Windows reach across the ends of lines, see the text of this module.

    Attributes:
        vocab: the `Vocabulary` kept.
        ids: (tokens,) int32, the text with the words outside the vocabulary left out; not to be changed.
        path: the file it came from, or None.
        raw_tokens: words in the text, in the vocabulary or not.
    """

    vocab: Vocabulary
    ids: np.ndarray
    path: Path | None = None
    raw_tokens: int = 0

    @classmethod
    def load(
        cls,
        path: str | Path,
        min_count: int = 5,
        max_vocab: int | None = None,
        max_bytes: int | None = None,
        tokenize: str = "whitespace",
    ) -> "Corpus":
        """Read a text file (plain, .xz, .gz, .bz2 or .zip) and keep the words that are frequent enough.

        Args:
            min_count: a word is kept if it occurs at least this often.
            max_vocab: keep at most this many words, the most frequent ones.
            max_bytes: read only this many bytes of the (unpacked) text; a word cut in two by the end is left out.
            tokenize: "whitespace", words are what stands between spaces; or "words", in lower case and without
                punctuation, see `tp4lib.word2vec.words.plain_words`.
        """
        path = Path(path)
        whole("min_count", min_count, example=5)
        if max_vocab is not None:
            whole("max_vocab", max_vocab, least=2, example=5000)
        if max_bytes is not None:
            whole("max_bytes", max_bytes, example=10**6)
        if tokenize not in TOKENIZERS:
            raise InputError(
                f"unknown tokenizer {tokenize!r}; expected one of {', '.join(TOKENIZERS)}; try --tokenize words"
            )
        numbering, pieces = Numbering(), []
        with open_text(path) as file, bar(desc=f"read {path.name}", unit="B", total=None) as progress:
            progress.unit_scale = True
            for piece in text_pieces(file, path, max_bytes):
                plain = plain_words(piece, path) if tokenize == "words" else piece
                pieces.append(numbering.of(plain.split()))  # bytes are split at the white space of ASCII
                progress.update(len(piece))
        if not numbering:
            raise InputError(f"{path} has no words; expected text with words between spaces; check --corpus")
        words = [decoded(word, path) for word in numbering]
        return _most_frequent(words, np.concatenate(pieces), min_count, max_vocab, path)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the ids, in hexadecimal."""
        return hashlib.sha256(np.ascontiguousarray(self.ids)).hexdigest()

    @classmethod
    def from_words(cls, words: Sequence[str], min_count: int = 1) -> "Corpus":
        """The corpus of a short list of words, for examples and tests.

        >>> Corpus.from_words("a b a c a b".split()).ids.tolist()
        [0, 1, 0, 2, 0, 1]
        """
        whole("min_count", min_count, example=5)
        numbering = Numbering()
        numbers = numbering.of(_require_words(words, "a text"))
        return _most_frequent(list(numbering), numbers, min_count, None, None)


def _most_frequent(
    words: list[str], numbers: np.ndarray, min_count: int, max_vocab: int | None, path: Path | None
) -> Corpus:
    """The corpus of a text given as ``numbers`` of ``words``, in order of their first appearance."""
    counts = np.bincount(numbers)
    order = np.argsort(-counts, kind="stable")
    kept = order[: int((counts >= min_count).sum())][:max_vocab]
    if len(kept) < 2:
        raise InputError(
            f"{len(kept)} words of {path or 'the text'} occur {min_count} times or more (the most frequent: "
            f"{counts.max()} times); expected 2 words at least; try --min-count 1 or a longer text"
        )
    rank = np.full(len(words), -1, dtype=np.int32)  # -1: the word is left out
    rank[kept] = np.arange(len(kept), dtype=np.int32)
    ids = rank[numbers]
    vocab = Vocabulary([words[i] for i in kept], counts[kept])
    return Corpus(vocab, ids[ids >= 0], path, len(numbers))


def keep_probability(counts: np.ndarray, total: float, t: float) -> np.ndarray:
    """Probability with which an occurrence of a word survives subsampling.

    ``p = min(1, (sqrt(f / t) + 1) t / f)`` with ``f = counts / total``: frequent words are thinned out.
    Source: section 9.1 and appendix of the paper; the formula is the one of the word2vec program.

    Args:
        counts: (|V|,) occurrences, positive, of ``total`` of all words together.
        t: threshold frequency, 1e-4 in the paper, at most 1; 0 keeps everything.

    >>> keep_probability(np.array([1, 400]), 1000, 0.1).round(4).tolist()
    [1.0, 0.75]
    """
    counts = np.asarray(counts, dtype=np.float64)
    t = real("subsample", t, least=0, most=1, example=1e-4)
    if t == 0:
        return np.ones_like(counts)
    f = counts / total
    return np.minimum(1.0, (np.sqrt(f / t) + 1.0) * t / f)


def _require_words(words: Sequence[str], what: str) -> list[str]:
    """The words as a list, if each of them is one that a text can hold."""
    if isinstance(words, str):
        raise InputError(
            f"{what} of the string {words[:20]!r}, whose items are letters; expected a list of words; try "
            "text.split()"
        )
    words = list(words)
    if not words:
        raise InputError(f"{what} without words; expected a list of words; try ['one', 'two', 'one']")
    for word in words:
        if not (isinstance(word, str) and _WORD.fullmatch(word)):
            raise InputError(
                f"{what} with the word {repr(word)[:40]}; expected strings without white space and control "
                "characters; try text.split()"
            )
    return words
