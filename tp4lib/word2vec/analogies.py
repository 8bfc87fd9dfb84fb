"""Word analogies: how good embeddings are, over the whole vocabulary, in bounded memory.

A question "a is to b as c is to d" is answered by the word whose embedding is nearest, by cosine, to the unit vectors'
``b - a + c``; the three words of the question are no answers. The score of a word x is

    s(x) = cos(b, x) - cos(a, x) + cos(c, x),

so that all questions together need no more than the cosines between the words they use (about a thousand) and the
vocabulary. These come as one matrix product for each block of the vocabulary, (W, n) by (n, block), for any number of
questions and for any number of columns, the |V| columns of width infinity included.

Source: the task is that of Table 3 (section 9.1 of the paper); its questions and rule are those of Mikolov et al. 2013.
"""

import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tp4lib.base.checks import whole
from tp4lib.base.errors import InputError
from tp4lib.base.text import require_file
from tp4lib.word2vec import search
from tp4lib.word2vec.corpus import Vocabulary
from tp4lib.word2vec.shards import ALONE, Shards
from tp4lib.word2vec.words import words_in

_LARGEST = 1 << 26  # bytes of a file of questions; the usual one has 600,000
_COPY_BYTES = 1 << 28  # of the unit rows of a block of the vocabulary
# Words of the vocabulary and questions handled at a time: scores that stay in a CPU's cache, or fill a GPU.
_TILE = {"cpu": (4096, 128), "cuda": (32768, 2048)}


@dataclass(frozen=True)
class Questions:
    """Analogy questions in sections.

    Attributes:
        quadruples: (a, b, c, d) words as the file has them.
        section_of: for each question, the place of its section in ``sections``.
        sections: names, in the order of the file.
    """

    quadruples: tuple[tuple[str, str, str, str], ...]
    section_of: tuple[int, ...]
    sections: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.quadruples)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of all questions and their sections, in hexadecimal."""
        asked = zip(self.section_of, self.quadruples, strict=True)
        lines = (f"{self.sections[section]}\t{' '.join(words)}" for section, words in asked)
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()

    @functools.cached_property
    def in_capitals(self) -> tuple[list[str], Tensor]:
        """The different words, in capitals, and the places of each question's four among them: (Q, 4)."""
        places: dict[str, int] = {}
        rows = [[places.setdefault(word.upper(), len(places)) for word in row] for row in self.quadruples]
        return list(places), torch.tensor(rows)

    @classmethod
    def load(cls, path: str | Path) -> "Questions":
        """Read the format of questions-words.txt: ``: name`` opens a section, other lines hold four words.

        Words are what stands between white space of ASCII, as in a corpus (`tp4lib.word2vec.words.words_in`).
        """
        require_file(path, "text such as questions-words.txt", "--questions")
        try:
            if os.path.getsize(path) > _LARGEST:
                raise ValueError(f"it has more than {_LARGEST:,} bytes")
            lines = Path(path).read_text("utf-8-sig").split("\n")
        except (OSError, ValueError) as error:
            raise InputError(
                f"cannot read questions {path}: {error}; expected text such as questions-words.txt; check the path"
            ) from None
        return cls.parse(lines, str(path))

    @classmethod
    def parse(cls, lines: Iterable[str], name: str = "questions") -> "Questions":
        """Read questions from lines; ``name`` stands in error messages.

        >>> Questions.parse([": capitals", "Athens Greece Oslo Norway"]).quadruples
        (('Athens', 'Greece', 'Oslo', 'Norway'),)
        """
        quadruples, section_of, sections = [], [], []
        for number, line in enumerate(lines, 1):
            words = words_in(line)
            if not words:
                continue
            if words[0].startswith(":"):
                sections.append(line.strip().lstrip(":").strip())
            elif len(words) != 4 or not sections:
                why = "is in no section" if len(words) == 4 else f"has {len(words)} words"
                raise InputError(
                    f"line {number} of {name} {why}: {' '.join(words)[:60]!r}; expected a section line ': name', then "
                    "lines of four words; correct the line"
                )
            else:
                quadruples.append(tuple(words))
                section_of.append(len(sections) - 1)
        if not quadruples:
            raise InputError(f"{name} holds no questions; expected lines of four words; check the file")
        return cls(tuple(quadruples), tuple(section_of), tuple(sections))


@dataclass(frozen=True)
class Section:
    """Result of one section: questions answered correctly, answered (all four words known), and asked."""

    name: str
    correct: int
    answered: int
    total: int


@dataclass(frozen=True)
class Accuracy:
    """Result of `evaluate`.

    Attributes:
        correct, answered, total: as in a `Section`, of all; sections: of each.
        answers: for every question of the file the word that was answered, or None where a word is unknown.
    """

    correct: int
    answered: int
    total: int
    sections: tuple[Section, ...]
    answers: tuple[str | None, ...]

    @property
    def accuracy(self) -> float | None:
        """Correct answers in percent of the answered questions; None where none could be answered."""
        return 100.0 * self.correct / self.answered if self.answered else None

    def __str__(self) -> str:
        return told(self.accuracy, self.answered, self.total)


def told(accuracy: float | None, answered: int, total: int) -> str:
    """A line that reports an accuracy.

    >>> told(None, 0, 7)
    'none of 7 questions answered: each has a word outside the vocabulary'
    """
    if accuracy is None:
        return f"none of {total} questions answered: each has a word outside the vocabulary"
    return f"{accuracy:.2f} % of {answered} questions ({total} in all)"


def asked_by(evaluate: Callable[..., Any] | None) -> str | None:
    """Identify what an evaluation asks, for comparing two runs: None without one, the digest of the `Questions` of a
    ``partial(evaluate, questions=...)``, and "a function" for any other.

    >>> asked_by(functools.partial(evaluate, questions=Questions.parse([": a", "b c d e"])))[:6]
    '31d426'
    """
    questions = getattr(evaluate, "keywords", {}).get("questions")
    if evaluate is None or isinstance(questions, Questions):
        return questions and questions.digest
    return "a function"


def evaluate(
    embeddings: torch.Tensor,
    vocab: Vocabulary | Sequence[str],
    questions: Path | str | Questions,
    shards: Shards = ALONE,
) -> Accuracy:
    """Answer analogy questions by ``argmax_x cos(b, x) - cos(a, x) + cos(c, x)`` over the whole vocabulary.

    Case does not count; of words that differ in case alone, the first in the vocabulary stands for all. Questions with
    a word outside the vocabulary are skipped. These are the rules of gensim's ``evaluate_word_analogies`` with
    ``restrict_vocab`` set to the whole vocabulary, ``case_insensitive=True`` and ``dummy4unknown=False``.

    Args:
        embeddings: (|V|, columns), any float type, any device; a row of zeros is at cosine 0 from everything.
        vocab: a `Vocabulary`, or its words.
        questions: a file such as questions-words.txt, or `Questions` read before.
        shards: the ranks that share the columns; all get the same answer.

    >>> plane = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [-1.0, 1.0]])
    >>> asked = Questions.parse([": turn", "east northeast north northwest"])
    >>> str(evaluate(plane, ["east", "northeast", "north", "northwest"], asked))
    '100.00 % of 1 questions (1 in all)'
    """
    words = list(getattr(vocab, "words", vocab))
    if embeddings.dim() != 2 or len(words) != len(embeddings):
        raise InputError(
            f"embeddings of shape {tuple(embeddings.shape)} for {len(words)} words; expected (words, columns); "
            "give the vocabulary they were trained with"
        )
    if not isinstance(questions, Questions):
        questions = Questions.load(questions)
    folded: dict[str, int] = {}
    same = torch.tensor([folded.setdefault(word.upper(), i) for i, word in enumerate(words)])
    different, places = questions.in_capitals
    ids = torch.tensor([folded.get(word, -1) for word in different])[places]  # (Q, 4), unknown words -1
    known = (ids >= 0).all(dim=1).nonzero()[:, 0]
    asked = ids[known]
    best = _answers(embeddings, asked[:, :3], same, shards) if len(known) else asked[:, 0]
    right = same[best] == asked[:, 3]
    answers = dict(zip(known.tolist(), [words[answer] for answer in best.tolist()], strict=True))
    section_of, size = torch.tensor(questions.section_of), len(questions.sections)
    parts = (section_of[known][right], section_of[known], section_of)  # correct, answered, all
    tally = torch.stack([torch.bincount(part, minlength=size) for part in parts], 1)
    sections = tuple(map(Section, questions.sections, *tally.T.tolist()))
    return Accuracy(*tally.sum(0).tolist(), sections, tuple(map(answers.get, range(len(questions)))))


def nearest(
    embeddings: torch.Tensor, vocab: Vocabulary | Sequence[str], word: str, count: int = 10
) -> list[tuple[str, float]]:
    """The ``count`` words nearest to ``word`` by cosine, with their cosines, nearest first.

    >>> nearest(torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 4.0]]), ["east", "north", "between"], "east", 1)[0][0]
    'between'
    """
    words = list(getattr(vocab, "words", vocab))
    count = whole("count", count, example=10)
    if word not in words:
        raise InputError(
            f"{word!r} is not in the vocabulary; expected one of its {len(words)} words; try {words[0]!r}"
        )
    place = words.index(word)
    row, _ = _unit(embeddings[place : place + 1])
    blocks = _blocks(embeddings, embeddings.shape[1])
    cosines = torch.cat([(_unit(block)[0] @ row.T)[:, 0] for _, block in blocks])
    cosines[place] = -torch.inf
    top = torch.topk(cosines, min(count, len(words) - 1))
    return [(words[i], value) for i, value in zip(top.indices.tolist(), top.values.tolist(), strict=True)]


def _answers(embeddings: torch.Tensor, abc: torch.Tensor, same: torch.Tensor, shards: Shards) -> torch.Tensor:
    """(Q,) ids nearest to ``b - a + c`` for ``abc`` (Q, 3), other than the words equal to a, b or c up to case."""
    device = embeddings.device
    used, place = torch.unique(abc, return_inverse=True)
    rows, norms = _unit(embeddings[used.to(device)], shards)  # (W, n)
    if not bool(torch.isfinite(norms).all()):
        raise InputError("an embedding is not finite; expected finite numbers; train with a smaller --lr")
    barred = _aliases(same)[abc].flatten(1).to(device)  # (Q, 3 x aliases)
    place = place.to(device)
    score = torch.full((len(abc),), -torch.inf, dtype=rows.dtype, device=device)
    answer = torch.zeros(len(abc), dtype=torch.long, device=device)
    see = search.look if search.numba and device.type == "cpu" else _look
    # Ranks may hold a column more or less, but have to go through the same blocks.
    columns = -(-int(shards.sum(torch.tensor(embeddings.shape[1], device=device))) // shards.size)
    for start, block in _blocks(embeddings, columns):
        cosines = shards.sum(rows @ _unit(block, shards)[0].T)  # (W, words of the block)
        see(cosines, place, barred, start, score, answer)
    return answer.cpu()


def _look(cosines: Tensor, abc: Tensor, barred: Tensor, start: int, score: Tensor, answer: Tensor) -> None:
    """`search.look` in torch: for a GPU, and where numba is missing."""
    step, end = _TILE[cosines.device.type][1], start + cosines.shape[1]
    for low in range(0, len(abc), step):
        a, b, c = abc[low : low + step].T
        s = torch.index_select(cosines, 0, b)  # (questions, words of the block)
        s += torch.index_select(cosines, 0, c)
        s -= torch.index_select(cosines, 0, a)
        some = barred[low : low + step]
        question, which = torch.nonzero((some >= start) & (some < end), as_tuple=True)
        s[question, some[question, which] - start] = -torch.inf
        top, where = s.max(1)
        better = top > score[low : low + step]
        score[low : low + step][better] = top[better]
        answer[low : low + step][better] = where[better] + start


def _aliases(same: torch.Tensor) -> torch.Tensor:
    """(|V|, A) for every word the words equal to it up to case, itself among them, repeated to fill the row.

    >>> _aliases(torch.tensor([0, 1, 0])).tolist()  # the words "US", "we", "us"
    [[0, 2], [1, 1], [2, 2]]
    """
    others = torch.nonzero(same != torch.arange(len(same)))[:, 0]
    table = [torch.arange(len(same))]
    while len(others):  # a column more holds, for each word that has others like it, the first that is left
        owner, first = torch.unique(same[others], return_inverse=True)
        taken = torch.full((len(owner),), len(same)).scatter_reduce(0, first, others, "amin")
        table.append(torch.arange(len(same)))
        table[-1][owner] = taken
        others = others[~torch.isin(others, taken)]
    return torch.stack(table, 1)


def _blocks(embeddings: torch.Tensor, columns: int) -> Iterable[tuple[int, torch.Tensor]]:
    """Consecutive rows with the place of the first, as many at a time as `_TILE` and `_COPY_BYTES` allow."""
    rows = max(1, min(_TILE[embeddings.device.type][0], _COPY_BYTES // (4 * max(1, columns))))
    return ((start, embeddings[start : start + rows]) for start in range(0, len(embeddings), rows))


def _unit(rows: torch.Tensor, shards: Shards = ALONE) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows over their norms, in float32 at least, and the norms; zero rows stay zero."""
    rows = rows if rows.dtype == torch.float64 else rows.float()
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    if shards.size > 1:
        norms = shards.sum(norms.square()).sqrt()
    return rows / norms.clamp_min(torch.finfo(rows.dtype).tiny), norms
