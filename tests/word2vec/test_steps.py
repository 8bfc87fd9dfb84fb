"""CBOW at every width against theory, a transcription, autograd and enumeration; engines against the reference."""

import itertools
import math

import numpy as np
import pytest
import torch

import tp4lib.base.device
from tp4lib.base.divergence import is_diverged
from tp4lib.base.errors import InputError
from tp4lib.data import catalogue as datasets
from tp4lib.word2vec import CBOW, Corpus
from tp4lib.word2vec import analogies as analogy
from tp4lib.word2vec.baselines import kernel_limit_embeddings, ntk_start
from tp4lib.word2vec.blocks import Block, Sampler
from tp4lib.word2vec.model import parse_width
from tp4lib.word2vec.settings import StepSettings
from tp4lib.word2vec.steps import lines, products
from tp4lib.word2vec.steps import on_numba as fast
from tp4lib.word2vec.steps.on_torch import torch_steps
from tp4lib.word2vec.steps.reference import reference_steps
from tp4lib.word2vec.vectors import save_vectors

FLOAT64 = torch.float64
needs_numba = pytest.mark.skipif(fast.numba is None, reason="numba is not installed")


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("TP4_PROGRESS", "0")


def make_corpus(size: int = 1500, words: int = 40, seed: int = 0) -> Corpus:
    """Text in which a word says something about the next one, with words of very different counts."""
    rng = np.random.default_rng(seed)
    ids = [0]
    for jump, noise in zip(rng.random(size), np.minimum(rng.zipf(1.3, size) - 1, words - 1)):
        ids.append((3 * ids[-1] + 1) % words if jump < 0.5 else int(noise))
    return Corpus.from_words([f"w{i}" for i in ids])


def make_blocks(corpus: Corpus, **options) -> list[Block]:
    settings = dict(window=4, num_negatives=5, subsample=1e-2, lr=0.3, seed=5, block_tokens=600) | options
    sampler = Sampler(corpus.vocab, corpus.ids, **settings)
    return [sampler.block(0, k) for k in range(sampler.blocks)]


def run(model: CBOW, blocks: list[Block], settings: StepSettings | None = None, steps=torch_steps) -> CBOW:
    """Train on all blocks, and make sure that this is training: what a diverging run computes is an accident."""
    for block in blocks:
        loss, positions = steps(model, block, settings or StepSettings())
        seen = 1 + block.weight * block.negatives.shape[1]  # the target, and the negatives of a position
        assert not is_diverged(loss / max(positions, 1), seen * math.log(2))
    return model


def transcription(E: np.ndarray, R: np.ndarray, block: Block, wd: float) -> float:
    """The sequential algorithm, one position after the other, by loops over plain vectors."""
    loss = 0.0
    for i, w in enumerate(block.tokens):
        rate = block.rates[i]
        context = [block.tokens[j] for j in range(block.first[i], block.last[i]) if j != i]
        h = sum(E[c] for c in context) / len(context)
        error = np.zeros_like(h)
        change, touches = {}, {}
        for m, label in [(w, 1.0)] + [(m, 0.0) for m in block.negatives[i] if m != w]:
            p = 1 / (1 + np.exp(-h @ R[m]))
            loss -= np.log(p if label else 1 - p)
            error += (label - p) * R[m]
            change[m] = change.get(m, 0.0) + (label - p) * h
            touches[m] = touches.get(m, 0) + 1
        for m in change:
            R[m] = R[m] * (1 - rate * wd) ** touches[m] + rate * change[m]
        for c in set(context):
            times = context.count(c)
            E[c] = E[c] * (1 - rate * wd) ** times + rate * error * times / len(context)
    return loss


@pytest.mark.parametrize("width", [7, "inf"])
@pytest.mark.parametrize("engine", [torch_steps, pytest.param(fast.numba_steps, marks=needs_numba)])
def test_batches_of_one_are_the_sequential_algorithm(width, engine):
    corpus = make_corpus(500, words=12)  # few words, so that windows and negatives repeat them
    blocks = make_blocks(corpus, batch_size=1, subsample=0)
    model = CBOW(len(corpus.vocab), width, seed=2, dtype=FLOAT64)
    E, R = model.embeddings.numpy().copy(), model.readout.numpy().copy()
    for block in blocks:
        loss, positions = engine(model, block, StepSettings(wd=0.03))
        assert loss == pytest.approx(transcription(E, R, block, wd=0.03), rel=1e-10)
        assert positions == len(block)
    assert np.abs(model.embeddings.numpy() - E).max() < 1e-10
    assert np.abs(model.readout.numpy() - R).max() < 1e-10
    assert np.abs(E).max() > 0.1


@pytest.mark.parametrize("shared", [None, 6])
def test_a_step_is_the_gradient_of_the_loss(shared):
    corpus = make_corpus(60)
    (block,) = make_blocks(corpus, batch_size=1000, shared=shared, subsample=0)
    assert block.batches == 1
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(len(corpus.vocab), 6, generator=generator, dtype=FLOAT64) for _ in range(2)]
    model = CBOW.from_start(*start)
    torch_steps(model, block, StepSettings(wd=0.0))
    E, R = (x.clone().requires_grad_() for x in start)
    total = 0.0
    for i, w in enumerate(block.tokens.tolist()):
        context = [int(block.tokens[j]) for j in range(block.first[i], block.last[i]) if j != i]
        h = E[context].mean(0)
        total = total - torch.nn.functional.logsigmoid(h @ R[w])
        for m in block.negatives[0 if shared else i].tolist():
            if m != w:
                total = total - block.weight * torch.nn.functional.logsigmoid(-(h @ R[m]))
    dE, dR = torch.autograd.grad(total, (E, R))
    rate = block.rates[0]
    assert torch.allclose(model.embeddings, start[0] - rate * dE, rtol=0, atol=1e-12)
    assert torch.allclose(model.readout, start[1] - rate * dR, rtol=0, atol=1e-12)


def test_shared_negatives_have_the_same_expected_step_by_enumeration():
    """Over all draws, each with its probability: K = 2 shared by 3 positions, against k = 1 fresh one for each."""
    q = np.array([0.4, 0.3, 0.2, 0.1])
    tokens, first, last = np.array([0, 1, 2]), np.array([0, 0, 1]), np.array([2, 3, 3])
    generator = torch.Generator().manual_seed(1)
    start = [torch.randn(4, 3, generator=generator, dtype=FLOAT64) for _ in range(2)]

    def expected(shape: tuple[int, int], shared: bool, weight: float) -> torch.Tensor:
        mean = torch.zeros(2, 4, 3, dtype=FLOAT64)
        for draw in itertools.product(range(4), repeat=shape[0] * shape[1]):
            negatives = np.array(draw).reshape(shape)
            block = Block(tokens, first, last, negatives, shared, weight, 3, np.array([0.1]))
            model = run(CBOW.from_start(*start), [block], StepSettings(wd=0.0))
            mean += q[list(draw)].prod() * torch.stack([model.embeddings, model.readout])
        return mean

    fresh = expected((3, 1), False, 1.0)
    assert torch.allclose(expected((1, 2), True, 0.5), fresh, rtol=0, atol=1e-12)
    assert (fresh - torch.stack(start)).abs().max() > 1e-2


@needs_numba
@pytest.mark.parametrize("window_gradient", ["mean", "sum"])
@pytest.mark.parametrize(("batch_size", "shared"), [(1, None), (32, 32), (7, 50)])
def test_numba_equals_the_reference(batch_size, shared, window_gradient, monkeypatch):
    corpus = make_corpus(1200)
    blocks = make_blocks(corpus, batch_size=batch_size, shared=shared)
    settings = StepSettings(wd=0.02, window_gradient=window_gradient, input_rate=0.7)
    reference = run(CBOW(len(corpus.vocab), 50, dtype=FLOAT64), blocks, settings)
    for tile in (512, 8):
        monkeypatch.setattr(fast, "TILE", tile)
        model = CBOW(len(corpus.vocab), 50, dtype=FLOAT64)
        for block in blocks:
            fast.numba_steps(model, block, settings)
        assert torch.allclose(model.embeddings, reference.embeddings, rtol=0, atol=1e-12)
        assert torch.allclose(model.readout, reference.readout, rtol=0, atol=1e-12)


@needs_numba
@pytest.mark.parametrize("width", [70, "inf"])
@pytest.mark.parametrize("sizes", [dict(batch_size=32, shared=24), dict(batch_size=1)])
@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64])
def test_any_number_of_threads_gives_the_same_bits(width, sizes, dtype, monkeypatch):
    monkeypatch.setattr(fast, "LEAST", 1)  # share even the smallest step
    monkeypatch.setattr(fast, "TILE", 32)
    corpus = make_corpus(4000, words=150)
    blocks = make_blocks(corpus, **sizes)
    seen = set()
    for cores in (1, 2, 4, 3, 1):
        model = CBOW(len(corpus.vocab), width, dtype=dtype)
        losses = [fast.numba_steps(model, block, StepSettings(wd=0.02), cores)[0] for block in blocks]
        seen.add((*losses, model.embeddings.numpy().tobytes(), model.readout.numpy().tobytes()))
    assert len(seen) == 1
    team, tried = fast.Team(3), CBOW(len(corpus.vocab), width, dtype=dtype)
    for block in blocks:
        team(tried, block, StepSettings(wd=0.02))
    assert min(team.pace.values()) > 0  # both ways were tried
    assert torch.equal(tried.embeddings, model.embeddings)


@needs_numba
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("B", "K", "n"), [(32, 24, 496), (1, 1, 1), (3, 7, 21), (5, 2, 64), (4, 3, 15), (9, 23, 33)]
)
def test_products_of_small_matrices(B, K, n, dtype):
    """Whole blocks, what is left over in rows, columns and both, and matrices that are transposed or part of others."""
    rng = np.random.default_rng(0)
    columns = fast.room(n, np.dtype(dtype).itemsize)
    H, N, G = (rng.standard_normal(shape).astype(dtype) for shape in ((B, columns), (K, columns), (B, K)))
    H[:, n:] = N[:, n:] = 0  # as the step has them: the last line is filled up with zeros
    S, around = np.full((2, B + 1, K + 1), 7, dtype), np.full((K + 2, columns), 7, dtype)
    dH, dN = np.full((B, columns), np.nan, dtype), around[1:-1]
    products.inner_products(H, N, n, S[1, :B, :K])
    products.product(G, N, n, dH)
    products.product(G.T, H, n, dN)
    close = dict(rtol=0, atol=100 * np.finfo(dtype).eps * n**0.5)
    np.testing.assert_allclose(S[1, :B, :K], H.astype(float) @ N.T.astype(float), **close)
    np.testing.assert_allclose(dH[:, :n], (G.astype(float) @ N.astype(float))[:, :n], **close)
    np.testing.assert_allclose(dN[:, :n], (G.T.astype(float) @ H.astype(float))[:, :n], **close)
    assert (S[0] == 7).all()
    assert (S[1, B] == 7).all()
    assert (S[1, :, K] == 7).all()
    assert (around[[0, -1]] == 7).all()


@needs_numba
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lines_are_vectors_of_a_row(dtype):
    """Sums, differences, products, sums over a line, and the part of a line at a row's end, which touches no more."""
    size = lines.BYTES // np.dtype(dtype).itemsize
    rng = np.random.default_rng(0)
    A, B, out = rng.standard_normal((3, 4, 2 * size)).astype(dtype)
    before = out.copy()

    @fast.numba.njit
    def both(A, B, out, count, factor):
        x, y = lines.load(A, 1, 3, None), lines.load(B, 2, size, None)
        lines.store((x + y) * lines.spread(factor) - y, out, 0, size, None)
        rest = lines.load(A, 3, 2 * size - count, count)  # the row and the matrix end here
        lines.store(rest, out, 3, 2 * size - count, count)
        return lines.total(x), lines.total(rest)

    for count in range(1, size):
        out[:] = before
        sums = both(A, B, out, count, A.dtype.type(0.5))
        x, y, rest = A[1, 3 : 3 + size], B[2, size:], A[3, 2 * size - count :]
        np.testing.assert_allclose(out[0, size:], (x + y) / 2 - y, rtol=1e-5)
        np.testing.assert_allclose(sums, (x.sum(), rest.sum()), rtol=1e-4, atol=1e-5)
        assert (out[3, 2 * size - count :] == rest).all()
        out[0, size:], out[3, 2 * size - count :] = before[0, size:], before[3, 2 * size - count :]
        assert (out == before).all()


@needs_numba
@pytest.mark.parametrize(("columns", "tiles"), [(1, 1), (16, 1), (17, 2), (64, 2), (1024, 2), (3934, 8)])
def test_every_column_has_one_tile(columns, tiles):
    size, count = fast.tiling(columns)
    assert count == tiles
    assert (count - 1) * size < columns <= count * size
    assert size <= fast.TILE


@needs_numba
@pytest.mark.parametrize("broken", [0, 1])
def test_a_thread_that_fails_lets_the_others_go(monkeypatch, broken):
    block = make_blocks(make_corpus(2000), batch_size=32, shared=24)[0]
    real = fast.loops.all_batches

    def fails(part, *others):
        if part[0] == broken:
            raise MemoryError("no room")
        return real(part, *others)

    monkeypatch.setattr(fast.loops, "all_batches", fails)
    with pytest.raises(MemoryError, match="no room"):
        fast.numba_steps(CBOW(40, 512), block, StepSettings(), cores=2)


@pytest.mark.parametrize("engine", [torch_steps, pytest.param(fast.numba_steps, marks=needs_numba)])
@pytest.mark.parametrize("width", [9, "inf"])
@pytest.mark.parametrize("window_gradient", ["mean", "sum"])
@pytest.mark.parametrize(("batch_size", "shared"), [(1, None), (7, 50), (32, 24), (16, None)])
def test_every_engine_computes_the_formula(engine, width, window_gradient, batch_size, shared):
    if engine is fast.numba_steps and shared is None and batch_size > 1:
        pytest.skip("numba takes negatives per position in batches of 1")
    corpus = make_corpus(600, words=30)
    settings = StepSettings(wd=0.02, window_gradient=window_gradient, input_rate=0.7)
    model = CBOW(len(corpus.vocab), width, seed=3, dtype=FLOAT64)
    E, R = model.embeddings.numpy().copy(), model.readout.numpy().copy()
    for block in make_blocks(corpus, batch_size=batch_size, shared=shared, lr=0.1):
        E, R, expected = reference_steps(E, R, block, settings)
        loss, _ = engine(model, block, settings)
        assert loss == pytest.approx(expected, rel=1e-11)
    assert np.abs(model.embeddings.numpy() - E).max() < 1e-11
    assert np.abs(model.readout.numpy() - R).max() < 1e-11
    assert np.abs(R).max() > 0.1


@needs_numba
def test_float32_differs_from_float64_by_rounding_alone():
    corpus = make_corpus(1200)
    blocks = make_blocks(corpus, batch_size=16, shared=16)
    exact = run(CBOW(len(corpus.vocab), "inf", dtype=FLOAT64), blocks)
    for steps in (torch_steps, fast.numba_steps):
        model = run(CBOW(len(corpus.vocab), "inf"), blocks, steps=steps)
        assert (model.embeddings.double() - exact.embeddings).abs().max() < 1e-5


@pytest.mark.parametrize("shared", [None, 8])
def test_widths_approach_infinity_like_one_over_root_n(shared):
    """The same windows and negatives at all widths; RMS deviation of the logits, many runs a width."""
    corpus = make_corpus(600, words=25)
    blocks = make_blocks(corpus, batch_size=8, shared=shared, subsample=0)
    exam = blocks[0]
    infinite = run(CBOW(len(corpus.vocab), math.inf, dtype=FLOAT64), blocks)
    limit = infinite.logits(exam)
    widths, runs = (32, 128, 512, 2048), 12
    single, averaged = [], []
    for n in widths:
        logits = [
            run(CBOW(len(corpus.vocab), n, seed=s, dtype=FLOAT64), blocks).logits(exam) for s in range(runs)
        ]
        single.append(np.sqrt(np.mean([((x - limit) ** 2).mean().item() for x in logits])))
        averaged.append(((sum(logits) / runs - limit) ** 2).mean().sqrt().item())
    slope = np.polyfit(np.log(widths), np.log(single), 1)[0]
    assert abs(slope + 0.5) < 0.1, (slope, single)
    assert all(mean < 0.6 * one for mean, one in zip(averaged, single)), (averaged, single)
    assert averaged[-1] < averaged[0] / 4
    # The limit it comes to is not that of a frozen start: embeddings and logits have moved.
    assert (infinite.embeddings - torch.eye(len(corpus.vocab), dtype=FLOAT64)).abs().max() > 0.1
    assert limit.abs().max() > 1


def test_the_readouts_own_columns_stay_empty():
    """|V| columns and the 2|V| columns of the general limit give the same logits."""
    corpus = make_corpus(900)
    blocks, size = make_blocks(corpus, batch_size=8, shared=8), len(corpus.vocab)
    narrow = run(CBOW(size, "inf", dtype=FLOAT64), blocks)
    start = torch.cat([torch.eye(size, dtype=FLOAT64), torch.zeros(size, size, dtype=FLOAT64)], 1)
    wide = run(CBOW.from_start(start), blocks)
    assert torch.allclose(wide.logits(blocks[0]), narrow.logits(blocks[0]), rtol=0, atol=1e-12)
    assert not wide.embeddings[:, size:].any()
    assert not wide.readout[:, size:].any()


def test_a_finite_width_is_a_start_in_v_columns():
    """Width n > |V| is, exactly, the |V| columns of the triangular factor of its start."""
    corpus = make_corpus(900)
    blocks, size = make_blocks(corpus, batch_size=8, shared=8), len(corpus.vocab)
    finite = CBOW(size, 300, seed=4, dtype=FLOAT64)
    triangle = torch.linalg.qr(finite.embeddings.T).R.T
    reduced = run(CBOW.from_start(triangle), blocks)
    run(finite, blocks)
    assert reduced.columns == size
    assert torch.allclose(reduced.logits(blocks[0]), finite.logits(blocks[0]), rtol=0, atol=1e-10)


def test_logits_are_inner_products():
    corpus = make_corpus(200)
    blocks = make_blocks(corpus, batch_size=8, shared=8, subsample=0)
    model, block = run(CBOW(len(corpus.vocab), 5, dtype=FLOAT64), blocks), blocks[0]
    i = 20
    context = [int(block.tokens[j]) for j in range(block.first[i], block.last[i]) if j != i]
    h = model.embeddings[context].mean(0)
    assert torch.allclose(model.logits(block)[i], model.readout @ h)


@pytest.mark.parametrize("engine", [torch_steps, pytest.param(fast.numba_steps, marks=needs_numba)])
def test_rows_outside_the_batch_keep_their_bits(engine):
    corpus = make_corpus(2000, words=300)
    block = make_blocks(corpus, batch_size=16, shared=4, block_tokens=30)[0]
    model = CBOW(len(corpus.vocab), 6, dtype=FLOAT64)
    model.readout.normal_(generator=torch.Generator().manual_seed(0))
    before = CBOW.from_start(model.embeddings, model.readout)
    engine(model, block, StepSettings())
    touched_in = set(block.tokens.tolist())
    touched_out = touched_in | set(block.negatives.ravel().tolist())
    for name, touched in (("embeddings", touched_in), ("readout", touched_out)):
        moved = (getattr(model, name) != getattr(before, name)).any(1)
        assert set(torch.nonzero(moved)[:, 0].tolist()) == touched


def test_start_of_every_width():
    assert torch.equal(CBOW(4, math.inf).embeddings, torch.eye(4))
    for n in (3, 400):
        model = CBOW(500, n, seed=1, dtype=FLOAT64)
        assert model.embeddings.shape == model.readout.shape == (500, n)
        assert not model.readout.any()
        assert model.embeddings.abs().max() <= math.sqrt(3 / n)
        assert model.embeddings.var().item() * n == pytest.approx(1, rel=0.1)
    assert torch.equal(CBOW(50, 8, seed=1).embeddings, CBOW(50, 8, seed=1).embeddings)
    assert not torch.equal(CBOW(50, 8, seed=1).embeddings, CBOW(50, 8, seed=2).embeddings)


def test_in_the_ntk_parametrization_embeddings_stop_moving_and_in_mup_they_do_not():
    corpus = make_corpus(900)
    blocks = make_blocks(corpus, batch_size=8, shared=8)
    widths, moved = (64, 256, 1024), {"ntk": [], "mup": []}
    for n in widths:
        ntk, input_rate = ntk_start(len(corpus.vocab), n, seed=0, dtype=FLOAT64)
        for name, model, rate in (
            ("ntk", ntk, input_rate),
            ("mup", CBOW(len(corpus.vocab), n, dtype=FLOAT64), 1.0),
        ):
            before = model.embeddings.clone()
            run(model, blocks, StepSettings(wd=0.0, input_rate=rate))
            moved[name].append((model.embeddings - before).norm().item() / before.norm().item())
    slopes = {name: np.polyfit(np.log(widths), np.log(values), 1)[0] for name, values in moved.items()}
    assert abs(slopes["ntk"] + 0.5) < 0.1, moved
    assert abs(slopes["mup"]) < 0.1, moved


def test_kernel_limits_answer_no_analogies():
    questions = analogy.Questions.load(datasets.find("questions").path)
    words = sorted({word for question in questions.quadruples for word in question})
    score = analogy.evaluate(kernel_limit_embeddings(len(words), 512), words, questions)
    assert score.answered == score.total == 19_544
    assert score.accuracy < 1.0


def test_gensim_reads_the_vectors(tmp_path):
    gensim = pytest.importorskip("gensim")
    model = CBOW(3, 5)
    save_vectors(tmp_path / "v.bin", ["one", "été", "three"], model.embeddings)
    read = gensim.models.KeyedVectors.load_word2vec_format(str(tmp_path / "v.bin"), binary=True)
    assert read.index_to_key == ["one", "été", "three"]
    assert np.array_equal(read.vectors, model.embeddings.numpy())


def test_what_cannot_fit_is_refused_with_a_vocabulary_that_fits(monkeypatch):
    monkeypatch.setattr(tp4lib.base.device, "available_memory", lambda device: 10_000_000)
    for width in (math.inf, 900):
        with pytest.raises(InputError, match="try --max-vocab") as caught:
            CBOW(5000, width)
        largest = int(str(caught.value).split()[-1])
        assert 500 < largest < 5000
        assert CBOW(largest, width).vocab_size == largest


@pytest.mark.parametrize("width", ["wide", 0, -3, 2.5, math.nan, "", None])
def test_unknown_widths(width):
    with pytest.raises(InputError, match="unknown width"):
        parse_width(width)


def test_starts_of_two_shapes_are_refused():
    with pytest.raises(InputError, match="same shape"):
        CBOW.from_start(torch.zeros(3, 2), torch.zeros(3, 3))
    with pytest.raises(InputError, match="window gradient"):
        StepSettings(window_gradient="product")


@pytest.mark.parametrize(
    "make",
    [
        lambda: CBOW(2.5, 4),
        lambda: CBOW(0, 4),
        lambda: CBOW(True, 4),
        lambda: CBOW(5, 4, seed=-1),
        lambda: CBOW(5, 4, seed=2**63),
        lambda: CBOW(5, True),
        lambda: CBOW(5, 4.0),
        lambda: CBOW(5, "9" * 4000),
        lambda: CBOW(5, 4, dtype=torch.int64),
        lambda: StepSettings(wd=math.nan),
        lambda: StepSettings(input_rate=math.inf),
        lambda: kernel_limit_embeddings(5, 2.5),
        lambda: kernel_limit_embeddings(5, 2, seed=-1),
        lambda: ntk_start(5, 0),
    ],
)
def test_sizes_and_numbers_have_one_check(make):
    with pytest.raises(InputError, match=r"(=|dtype|width) .*; expected .*; try ") as caught:
        make()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
