"""The corpus reader against plain Python, sampling against its laws, the dump cleaner against its rules."""

import bz2
import gzip
import hashlib
import lzma
import zipfile
from collections import Counter

import numpy as np
import pytest
from gensim.test.utils import datapath
from hypothesis import given, settings
from hypothesis import strategies as st

from tp4lib.base import text as texts
from tp4lib.base.errors import InputError
from tp4lib.data.wikipedia import clean_wikipedia
from tp4lib.word2vec import words as words_module
from tp4lib.word2vec.blocks import Ahead, AliasTable, Sampler
from tp4lib.word2vec.corpus import Corpus, Vocabulary, keep_probability


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("TP4_PROGRESS", "0")


def plain(text: str, min_count: int, max_vocab: int | None = None):
    """Words, counts and ids by dictionaries; most frequent first, ties in order of first appearance."""
    words = text.split()
    counted = [(w, n) for w, n in Counter(words).most_common() if n >= min_count][:max_vocab]
    index = {w: i for i, (w, _) in enumerate(counted)}
    return [w for w, _ in counted], [n for _, n in counted], [index[w] for w in words if w in index]


def zipf_text(size: int, seed: int = 0) -> str:
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    lexicon = ["".join(rng.choice(letters, rng.integers(1, 30))) for _ in range(3000)]
    lexicon += ["naïve", "été", "a" * 200]
    rank = np.minimum(rng.zipf(1.2, size) - 1, len(lexicon) - 1)
    return " ".join(lexicon[i] for i in rank)


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [("", None), (".xz", lzma.open), (".gz", gzip.open), (".bz2", bz2.open), (".zip", None)],
)
def test_load_equals_counting_by_hand(tmp_path, monkeypatch, suffix, pack):
    monkeypatch.setattr(words_module, "_PIECE", 1000)  # many pieces, so that words meet their ends
    text = zipf_text(20_000)
    path = tmp_path / f"text{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("text", text)
    else:
        with (pack or open)(path, "wb") as file:
            file.write(text.encode())
    size = len(text.encode())
    assert size > 200_000  # more than an unpacker gives at once
    with texts.open_text(path) as file:
        assert [len(file.read(n)) for n in (2, size - 3, 0, 9, 1)] == [2, size - 3, 0, 1, 0]
    words, counts, ids = plain(text, 5)
    corpus = Corpus.load(path)
    assert corpus.vocab.words == words
    assert corpus.vocab.counts.tolist() == counts
    assert corpus.ids.dtype == np.int32
    assert corpus.ids.tolist() == ids
    assert corpus.raw_tokens == 20_000
    assert corpus.vocab.index[words[7]] == 7


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ab \n\tz", max_size=12), min_size=1), st.integers(1, 40))
def test_any_white_space_and_any_cut(tmp_path_factory, parts, piece):
    text = "x " + " ".join(parts) + " y"
    path = tmp_path_factory.mktemp("any") / "text"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words_module, "_PIECE", piece)
        corpus = Corpus.load(path, min_count=1)
    assert (corpus.vocab.words, corpus.vocab.counts.tolist(), corpus.ids.tolist()) == plain(text, 1)


def test_words_that_agree_in_their_first_or_last_letters_stay_apart(tmp_path):
    stem = "abcdefgh" * 3
    words = (
        [stem[:k] for k in range(1, 25)]
        + ["x" + stem[:k] for k in range(25)]
        + [stem[:8] + "z", stem[:16] + "z"]
    )
    (tmp_path / "text").write_text(" ".join(words))
    assert Corpus.load(tmp_path / "text", min_count=1).vocab.words == words


def test_max_vocab_and_max_bytes(tmp_path):
    text = zipf_text(5000, seed=1)
    path = tmp_path / "text"
    path.write_text(text)
    corpus = Corpus.load(path, min_count=1, max_vocab=50)
    assert (corpus.vocab.words, corpus.vocab.counts.tolist(), corpus.ids.tolist()) == plain(text, 1, 50)
    size = len(text.encode())
    for cut in (1000, 1001, 1002, 1003, size, size + 10):
        kept = text.encode()[:cut]
        if cut < size and text.encode()[cut : cut + 1] != b" " and not kept.endswith(b" "):
            kept = kept[: kept.rfind(b" ")]  # a word cut in two is left out
        assert Corpus.load(path, min_count=1, max_bytes=cut).raw_tokens == len(kept.split())


def test_from_words_equals_load(tmp_path):
    text = zipf_text(2000, seed=2)
    (tmp_path / "text").write_text(text)
    loaded, made = Corpus.load(tmp_path / "text", min_count=3), Corpus.from_words(text.split(), min_count=3)
    assert loaded.vocab.words == made.vocab.words
    assert loaded.ids.tolist() == made.ids.tolist()


@pytest.mark.parametrize(
    ("content", "name", "says"),
    [
        (b"", "text", "no words"),
        (b"  \n ", "text", "no words"),
        (b"one two three four", "text", "min-count 1"),
        (b"a b \x00\x01\x02 c", "text", "not text"),
        (b"caf\xe9 au lait", "text", "UTF-8"),
        (b"x" * 100_000, "text", "word of more than"),
        (b"not an archive at all", "text.xz", "cannot read"),
        (b"not an archive at all", "text.gz", "cannot read"),
        (b"not an archive at all", "text.bz2", "cannot read"),
        (b"not an archive at all", "text.zip", "cannot read"),
        (lzma.compress(b"good words here " * 9999)[:-40], "text.xz", "cannot read"),
    ],
)
def test_bad_files_are_named(tmp_path, content, name, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        Corpus.load(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_missing_file_folder_and_bad_numbers(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        Corpus.load(tmp_path / "none")
    with pytest.raises(InputError, match="is a folder"):
        Corpus.load(tmp_path)
    with pytest.raises(InputError, match="min_count = 0"):
        Corpus.load(tmp_path / "none", min_count=0)
    with pytest.raises(InputError, match="no word twice"):
        Vocabulary(["a", "a"], np.array([1, 1]))


def test_keep_probability_is_the_formula_and_at_most_one():
    counts, t = np.array([1, 10, 1000, 100_000]), 1e-3
    f = counts / 200_000
    expected = (np.sqrt(f / t) + 1) * t / f
    assert np.allclose(keep_probability(counts, 200_000, t)[2:], expected[2:])
    assert keep_probability(counts, 200_000, t)[:2].tolist() == [1.0, 1.0]
    assert keep_probability(counts, 200_000, 0).tolist() == [1.0] * 4


@pytest.fixture(scope="module")
def sampled():
    rng = np.random.default_rng(0)
    ids = np.minimum(rng.zipf(1.3, 200_000) - 1, 199)
    corpus = Corpus.from_words([str(i) for i in ids])
    return corpus, Sampler(corpus.vocab, corpus.ids, window=5, num_negatives=3, subsample=1e-3, seed=1)


def test_subsampling_keeps_each_word_as_often_as_it_should(sampled):
    corpus, sampler = sampled
    kept = sum(
        np.bincount(sampler.block(0, k).tokens, minlength=len(corpus.vocab)) for k in range(sampler.blocks)
    )
    p = keep_probability(corpus.vocab.counts, len(corpus.ids), 1e-3)
    error = (kept - p * corpus.vocab.counts) / np.sqrt(np.maximum(corpus.vocab.counts * p * (1 - p), 1))
    assert np.abs(error).max() < 5  # standard deviations
    assert np.all(kept[p == 1] == corpus.vocab.counts[p == 1])


def test_windows_are_uniform_and_stay_inside(sampled):
    block = sampled[1].block(0, 0)
    here = np.arange(len(block))
    inside = slice(5, -5)
    reach = (here - block.first)[inside]
    assert np.array_equal(reach, (block.last - here - 1)[inside])
    share = np.bincount(reach, minlength=6)[1:] / len(reach)
    assert np.abs(share - 0.2).max() < 5 * np.sqrt(0.16 / len(reach))
    assert block.first.min() == 0
    assert block.last.max() == len(block)


def test_negatives_follow_counts_to_the_three_quarters(sampled):
    corpus, _ = sampled
    q = corpus.vocab.counts**0.75
    draws = AliasTable(q).draw(np.random.default_rng(3), (500_000,))
    expected = 500_000 * q / q.sum()
    chi2 = ((np.bincount(draws, minlength=len(q)) - expected) ** 2 / expected).sum()
    assert abs(chi2 - (len(q) - 1)) < 5 * np.sqrt(2 * len(q))


def test_randomness_depends_on_seed_epoch_and_block_alone(sampled):
    corpus, sampler = sampled
    again = Sampler(corpus.vocab, corpus.ids, window=5, num_negatives=3, subsample=1e-3, seed=1)
    again.block(1, 2)
    one, two = sampler.block(0, 3), again.block(0, 3)
    assert np.array_equal(one.negatives, two.negatives)
    assert np.array_equal(one.first, two.first)
    assert not np.array_equal(one.tokens[:99], sampler.block(1, 3).tokens[:99])


def test_blocks_drawn_ahead_are_the_same(sampled):
    _, sampler = sampled
    ahead = Ahead(sampler)
    for epoch, number in [(0, 0), (0, 1), (0, 0), (0, sampler.blocks - 1), (0, 1)]:
        one, other = ahead.block(epoch, number), sampler.block(epoch, number)
        assert all(np.array_equal(getattr(one, each), getattr(other, each)) for each in vars(one))


def test_rates_fall_linearly_to_a_ten_thousandth(sampled):
    corpus, _ = sampled
    sampler = Sampler(corpus.vocab, corpus.ids, lr=0.5, epochs=2, subsample=0, batch_size=1)
    rates = np.concatenate([sampler.block(e, k).rates for e in range(2) for k in range(sampler.blocks)])
    expected = 0.5 * np.maximum(1 - np.arange(len(rates)) / len(rates), 1e-4)
    assert np.allclose(rates, expected)


RULES = [
    ("Hello, World", " hello world"),
    ("in 1984 or 20", " in one nine eight four or two zero"),
    ("see [[Moon|the moon]] and [[Sun]]", " see the moon and sun"),
    ("[http://example.org/a?b=1 a page] here", " a page here"),
    ("[[Image:x.png|thumb|left|100px|A caption]]", " a caption"),
    ("[[Category:Old things|*]]", " old things"),
    ("[[de:Mond]] stays out, [[zh-yue:x]] too", " stays out too"),
    ("a {{icon}} b {| table |} c", " a b c"),
    ("fact&lt;ref name=x&gt;a book&lt;/ref&gt; more", " fact more"),
    ("line&lt;br /&gt;break &amp;nbsp; &amp;amp; end", " linebreak end"),
    ("caf\u00e9 na\u00efve", " caf na ve"),
    ("'''bold''' ''italics'' == Head ==", " bold italics head"),
]


@pytest.mark.parametrize(("markup", "expected"), RULES)
def test_cleaning_rules(tmp_path, markup, expected):
    dump, out = tmp_path / "dump.xml", tmp_path / "out"
    dump.write_text(f'<page><title>T</title><text xml:space="preserve">{markup}</text><sha1>x</sha1></page>')
    assert clean_wikipedia(dump, out) == len(expected)
    assert out.read_text() == expected


def test_redirects_and_everything_outside_text_are_dropped(tmp_path):
    dump = tmp_path / "dump.xml"
    dump.write_text(
        "<page><title>A</title><text >#REDIRECT [[B]]</text></page><page><text >kept</text><id>7</id></page>"
    )
    clean_wikipedia(dump, tmp_path / "out")
    assert (tmp_path / "out").read_text() == " kept"


def test_a_file_without_text_leaves_nothing(tmp_path):
    (tmp_path / "dump.xml").write_text("just words")
    with pytest.raises(InputError, match="MediaWiki"):
        clean_wikipedia(tmp_path / "dump.xml", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["dump.xml"]


def test_a_real_dump_comes_out_as_the_published_recipe_gives_it(tmp_path):
    """The digest is that of what the published Perl recipe makes of the same slice."""
    dump = datapath("enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2")
    clean_wikipedia(dump, tmp_path / "out")
    digest = hashlib.sha256((tmp_path / "out").read_bytes()).hexdigest()
    assert digest == "0cf035b28f92b01ff2dd0880909f6087bfb48bc8b8c726b793bccdad5c56a13c"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("text", r"the string 'text', whose items are letters; .*try text\.split\(\)"),
        ([], "without words"),
        (["one"], "1 words of the text occur 1 times or more"),
        (["one", "one"], "1 words of the text"),
        (["one", ""], "the word ''"),
        (["one", "two words"], "the word 'two words'"),
        (["one", "two\n"], r"the word 'two\\n'"),
        (["one", 2], "the word 2"),
    ],
)
def test_from_words_takes_a_list_of_words(words, says):
    with pytest.raises(InputError, match=says) as caught:
        Corpus.from_words(words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "counts", "says"),
    [
        ([], [], "without words"),
        ("ab", [1, 2], "the string 'ab'"),
        (["a", "b"], [1], "counts"),
        (["a", "b"], [1, 0], "counts"),
        (["a", "b"], [1, 1.5], "counts"),
    ],
)
def test_a_vocabulary_has_words_and_counts(words, counts, says):
    with pytest.raises(InputError, match=says):
        Vocabulary(words, np.array(counts))


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "5", np.nan])
@pytest.mark.parametrize("name", ["min_count", "max_vocab", "max_bytes"])
def test_sizes_have_one_check(tmp_path, name, value):
    (tmp_path / "text").write_text("a b " * 50)
    with pytest.raises(InputError, match=f"{name} = .*; expected a whole number >= "):
        Corpus.load(tmp_path / "text", **{name: value})


@pytest.mark.parametrize("name", ["window", "num_negatives", "batch_size", "epochs", "block_tokens"])
@pytest.mark.parametrize("value", [0, 2.5, True, None, 10**30])
def test_so_do_those_of_a_sampler(sampled, name, value):
    corpus, _ = sampled
    if name == "block_tokens" and value == 10**30:
        pytest.skip("a block may be as long as one likes")
    with pytest.raises(InputError, match=f"{name} = "):
        Sampler(corpus.vocab, corpus.ids, **{name: value})


def test_spaces_of_ascii_separate_words_and_no_others(tmp_path):
    """By a text, and by a line: a space of Unicode is a letter to both."""
    line = "a\u00a0b c\td\u2003e\x0bf\x0cg\u3000h\ri\u0085j\u2028k"
    (tmp_path / "text").write_bytes(f"{line}\n".encode() * 2)
    words = ["a\u00a0b", "c", "d\u2003e", "f", "g\u3000h", "i\u0085j\u2028k"]
    assert Corpus.load(tmp_path / "text", min_count=1).vocab.words == words
    assert words_module.words_in(line) == words


def test_windows_reach_across_line_ends(tmp_path):
    texts = ("a b c d e f " * 20, "a b c\nd e f\n" * 20)
    found = []
    for text in texts:
        (tmp_path / "text").write_text(text)
        corpus = Corpus.load(tmp_path / "text", min_count=1)
        found.append(Sampler(corpus.vocab, corpus.ids, window=3, subsample=0).block(0, 0))
    assert np.array_equal(found[0].first, found[1].first)
    assert np.array_equal(found[0].last, found[1].last)
