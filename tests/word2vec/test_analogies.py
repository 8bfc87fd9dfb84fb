"""Analogies: gensim's answers question by question, the rule by brute force, and lines that cannot be read."""

import math

import numpy as np
import pytest
import torch
from gensim.models import KeyedVectors
from gensim.test.utils import datapath

from tp4lib.base.errors import InputError
from tp4lib.data import catalogue as datasets
from tp4lib.word2vec import Corpus, search
from tp4lib.word2vec import analogies as analogy
from tp4lib.word2vec.analogies import Questions, evaluate, nearest
from tp4lib.word2vec.training import train

QUESTIONS = datapath("questions-words.txt")


@pytest.fixture(scope="module")
def questions():
    return Questions.load(QUESTIONS)


@pytest.fixture(scope="module")
def trained():
    """Embeddings of the 3,000 most frequent words of the embedded text after one short epoch at width 32."""
    corpus = Corpus.load(datasets.find("text8", "embedded").path, min_count=1, max_vocab=3000)
    return corpus.vocab.words, train(corpus, 32, epochs=1, lr=0.2, device="cpu").model.embeddings


def _clustered(words, questions, columns=20):
    """Random embeddings in which many analogies hold: d = b - a + c and noise for a third of the questions' words."""
    generator = torch.Generator().manual_seed(0)
    rows = dict(zip(words, torch.randn(len(words), columns, generator=generator)))
    for a, b, c, d in questions.quadruples[::3]:
        a, b, c, d = (word.lower() for word in (a, b, c, d))
        if {a, b, c, d} <= rows.keys():
            rows[d] = rows[b] - rows[a] + rows[c] + 0.3 * torch.randn(columns, generator=generator)
    return torch.stack([rows[word] for word in words])


def _gensim(words, embeddings):
    vectors = KeyedVectors(embeddings.shape[1])
    vectors.add_vectors(words, embeddings.numpy().astype(np.float32))
    _, sections = vectors.evaluate_word_analogies(
        QUESTIONS, restrict_vocab=len(words), case_insensitive=True, dummy4unknown=False
    )
    return sections[:-1]


def _close_calls(words, embeddings, questions) -> set[tuple[str, ...]]:
    """Questions whose two best words score alike up to rounding: there the answer depends on the order of sums."""
    index = {word.upper(): i for i, word in reversed(list(enumerate(words)))}
    rows = torch.nn.functional.normalize(embeddings.double(), dim=1)
    asked = [tuple(word.upper() for word in q) for q in questions.quadruples]
    asked = [q for q in asked if all(word in index for word in q)]
    a, b, c = torch.tensor([[index[word] for word in q[:3]] for q in asked]).T
    scores = (rows[b] - rows[a] + rows[c]) @ rows.T
    names = np.array([word.upper() for word in words])
    for row, question in zip(scores, asked, strict=True):
        row[torch.from_numpy(np.isin(names, question[:3]))] = -torch.inf
    best = scores.topk(2).values
    close = {q for q, gap in zip(asked, best[:, 0] - best[:, 1], strict=True) if gap < 1e-5}
    assert len(close) < 1 + 0.01 * len(asked)
    return close


def _assert_same_as_gensim(words, embeddings, questions):
    ours = evaluate(embeddings, words, questions)
    close = _close_calls(words, embeddings, questions)
    theirs = _gensim(words, embeddings)
    for number, (section, peer) in enumerate(zip(ours.sections, theirs, strict=True)):
        assert section.name == peer["section"]
        correct, incorrect = [], []
        for place, of in enumerate(questions.section_of):
            if of == number and ours.answers[place] is not None:
                asked = tuple(word.upper() for word in questions.quadruples[place])
                if asked in close:
                    continue
                (correct if ours.answers[place].upper() == asked[3] else incorrect).append(asked)
        assert correct == [q for q in peer["correct"] if q not in close]
        assert incorrect == [q for q in peer["incorrect"] if q not in close]
        assert section.answered == len(peer["correct"]) + len(peer["incorrect"])
        assert 0 <= section.correct - len(correct) <= len(close)
    return ours


def test_equals_gensim_on_embeddings_where_analogies_hold(questions):
    words = sorted({word.lower() for question in questions.quadruples for word in question})[::2]
    words += [f"filler{i}" for i in range(500)]
    ours = _assert_same_as_gensim(words, _clustered(words, questions), questions)
    assert 5 < ours.accuracy < 95  # neither side is trivial
    assert ours.total == 19544


def test_equals_gensim_on_trained_embeddings(trained, questions):
    ours = _assert_same_as_gensim(*trained, questions)
    assert ours.answered > 300


def test_equals_gensim_where_words_differ_in_case_alone(questions):
    names = sorted({word for question in questions.quadruples[:400] for word in question})
    words = [*names, *(name.lower() for name in names), *(name.upper() for name in names[::2])]
    _assert_same_as_gensim(words, _clustered(words, questions, columns=6), questions)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_small_blocks_give_the_answers_of_one_large_product(monkeypatch, questions, dtype):
    some = Questions(questions.quadruples[::16], questions.section_of[::16], questions.sections)
    words = sorted({word.lower() for question in some.quadruples for word in question})
    embeddings = _clustered(words, questions, columns=24).to(dtype)
    whole = evaluate(embeddings, words, some)
    monkeypatch.setattr(analogy, "_TILE", {"cpu": (100, 70)})
    monkeypatch.setattr(analogy, "_COPY_BYTES", 4 * 24 * 64)
    close = _close_calls(words, embeddings, some)
    for question, one, other in zip(
        some.quadruples, evaluate(embeddings, words, some).answers, whole.answers, strict=True
    ):
        assert one == other or tuple(word.upper() for word in question) in close
    assert 0 < whole.correct < whole.answered


@pytest.mark.skipif(search.numba is None, reason="numba is not installed")
def test_the_compiled_loop_and_torch_give_the_same_answers(questions):
    """To the bit: both take b + c - a in this order."""
    g = torch.Generator().manual_seed(0)
    cosines = torch.rand(30, 700, generator=g)
    abc, barred = (torch.randint(0, most, (500, 3), generator=g) for most in (30, 1400))
    found = []
    for look in (search.look, analogy._look):
        score, answer = torch.full((500,), 1.0), torch.zeros(500, dtype=torch.long)
        look(cosines, abc, barred, 600, score, answer)
        found.append((score, answer))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert set(found[0][1].tolist()) > {0}


def test_the_rule_by_brute_force_in_float64(questions):
    words = sorted({word.lower() for question in questions.quadruples for word in question})
    embeddings = _clustered(words, questions).double()
    unit = (embeddings / embeddings.norm(dim=1, keepdim=True)).numpy()
    index = {word: i for i, word in enumerate(words)}
    some = Questions(questions.quadruples[::97], questions.section_of[::97], questions.sections)
    answers = evaluate(embeddings, words, some).answers
    for place, question in enumerate(some.quadruples):
        a, b, c, _ = (index[word.lower()] for word in question)
        target = unit[b] - unit[a] + unit[c]
        cosines = unit @ (target / np.linalg.norm(target))
        cosines[[a, b, c]] = -np.inf
        assert answers[place] == words[int(cosines.argmax())]


def test_gaussian_embeddings_answer_by_chance(questions):
    """Embeddings that learned nothing, as in the GP and NTK limits, are right about once in |V| questions."""
    words = sorted({word.lower() for question in questions.quadruples for word in question})
    words += [f"filler{i}" for i in range(3000 - len(words))]
    embeddings = torch.randn(3000, 256, generator=torch.Generator().manual_seed(1))
    result = evaluate(embeddings, words, questions)
    assert result.answered == result.total == 19544
    expected = result.answered / len(words)
    assert abs(result.correct - expected) < 6 * math.sqrt(
        expected
    )  # questions share words: not quite Poisson


def test_a_word_of_the_question_is_no_answer():
    embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [-1.0, 0.0]])
    asked = Questions.parse([": near", "a b c d"])
    assert evaluate(embeddings, ["a", "b", "c", "d"], asked).answers == ("d",)


def test_unknown_words_are_skipped_and_counted():
    asked = Questions.parse([": one", "a b c d", "a b c nowhere", ": two", "x y z w", ""])
    result = evaluate(torch.eye(4), list("abcd"), asked)
    assert (result.answered, result.total) == (1, 3)
    assert [(s.answered, s.total) for s in result.sections] == [(1, 2), (0, 1)]
    assert result.answers[1:] == (None, None)
    none = evaluate(torch.eye(4), list("pqrs"), asked)
    assert (none.accuracy, none.correct, none.answered, none.total) == (None, 0, 0, 3)
    assert str(none) == "none of 3 questions answered: each has a word outside the vocabulary"


def test_rows_of_zeros_are_no_obstacle():
    result = evaluate(torch.zeros(5, 3), list("abcde"), Questions.parse([": x", "a b c d"]))
    assert result.answers[0] in ("d", "e")


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ([": x", "a b c d", "a b c"], "line 3 of questions has 3 words"),
        ([": x", "a b c d e"], "line 2 of questions has 5 words"),
        (["a b c d"], "line 1 of questions is in no section"),
        ([": x"], "holds no questions"),
        ([], "holds no questions"),
    ],
)
def test_malformed_questions_are_refused_by_line(lines, named):
    with pytest.raises(InputError, match=named):
        Questions.parse(lines)


def test_other_bad_input_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"missing.txt does not exist; .*--questions"):
        Questions.load(tmp_path / "missing.txt")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(InputError, match="cannot read questions"):
        Questions.load(tmp_path / "binary")
    asked = Questions.parse([": x", "a b c d"])
    with pytest.raises(InputError, match=r"\(4, 4\) for 3 words"):
        evaluate(torch.eye(4), list("abc"), asked)
    with pytest.raises(InputError, match="not finite"):
        evaluate(torch.full((4, 2), torch.nan), list("abcd"), asked)
    with pytest.raises(InputError, match="'w' is not in the vocabulary"):
        nearest(torch.eye(4), list("abcd"), "w")


def test_nearest_equals_gensim(trained):
    words, embeddings = trained
    vectors = KeyedVectors(embeddings.shape[1])
    vectors.add_vectors(words, embeddings.numpy())
    for word in ("city", "one", "language"):
        theirs = vectors.most_similar(word, topn=8)
        ours = nearest(embeddings, words, word, 8)
        assert [w for w, _ in ours] == [w for w, _ in theirs]
        assert np.allclose([s for _, s in ours], [s for _, s in theirs], atol=1e-5)
