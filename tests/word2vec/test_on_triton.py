"""The Triton engine: in Triton's interpreter against the reference, and through its compiler for a GPU.

Both run in processes of their own, because Triton decides at its import whether it interprets or compiles. The
first one runs `interpreted` below.
"""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.scripts import script
from tp4lib.base.errors import InputError
from tp4lib.word2vec import CBOW, Corpus
from tp4lib.word2vec.blocks import Block, Sampler
from tp4lib.word2vec.settings import StepSettings
from tp4lib.word2vec.shards import Shards
from tp4lib.word2vec.steps import on_triton as gpu
from tp4lib.word2vec.steps.on_torch import torch_steps
from tp4lib.word2vec.training import train

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="triton is not installed")

# name: words of the corpus, columns, what the sampler and the step get, the engine's tile (None: its own)
CASES = {
    "uneven batches": (40, 37, dict(batch_size=32, shared=24), dict(wd=0.02), 16),
    "a batch larger than the block": (40, 20, dict(batch_size=300, shared=20), dict(wd=0.02), None),
    "batches larger than a tile": (40, 20, dict(batch_size=100, shared=70), dict(wd=0.02), 32),
    "batches of one": (40, 20, dict(batch_size=1, shared=5, block_tokens=12), dict(wd=0.02), None),
    "few words, again and again": (6, 20, dict(batch_size=40, shared=9, subsample=0), dict(wd=0.02), 16),
    "sum, another input rate": (40, 20, dict(batch_size=50, shared=7),
                                dict(window_gradient="sum", input_rate=0.7), None),
    "no decay": (40, 20, dict(batch_size=50, shared=64), dict(wd=0.0), None),
    "a wide window": (40, 20, dict(batch_size=50, shared=7, window=20), dict(wd=0.02), None),
}  # fmt: skip


def blocks(words: int, **options) -> tuple[int, list[Block]]:
    rng = np.random.default_rng(0)
    ids = np.minimum(rng.zipf(1.3, 240) - 1, words - 1)
    corpus = Corpus.from_words([f"w{i}" for i in ids])
    given = dict(window=4, num_negatives=5, subsample=1e-1, lr=0.3, seed=5, block_tokens=130) | options
    sampler = Sampler(corpus.vocab, corpus.ids, **given)
    return len(corpus.vocab), [sampler.block(0, k) for k in range(sampler.blocks)][:1]


def start(vocab_size: int, columns: int, dtype: torch.dtype = torch.float64, room: int = 0) -> CBOW:
    """A model with something in both matrices, in rows of ``columns + room`` numbers, the last of them zeros."""
    generator = torch.Generator().manual_seed(1)
    rows = 0.5 * torch.randn(2, vocab_size, columns + room, generator=generator, dtype=torch.float64)
    rows[:, :, columns:] = 0
    model = CBOW.from_start(rows[0, :, :columns], rows[1, :, :columns])
    model.embeddings, model.readout = (x[:, :columns] for x in rows.to(dtype))
    return model


def difference(a: CBOW, b: CBOW) -> float:
    return max(
        (getattr(a, x).double() - getattr(b, x).double()).abs().max().item()
        for x in ("embeddings", "readout")
    )


def trained(model: CBOW, asked: list[Block], settings: StepSettings, steps) -> list[float]:
    return [float(steps(model, block, settings)[0]) for block in asked]


def interpreted() -> dict:
    """What the tests below look at."""
    result = {}
    tile = gpu.POSITIONS, gpu.COLUMNS
    for name, (words, columns, options, more, size) in CASES.items():
        gpu.POSITIONS, gpu.COLUMNS = (size, 16) if size else tile
        vocab_size, asked = blocks(words, **options)
        settings = StepSettings(**more)
        reference, model = start(vocab_size, columns), start(vocab_size, columns)
        expected = trained(reference, asked, settings, torch_steps)
        losses = trained(model, asked, settings, gpu.triton_steps)
        result[name] = [
            difference(model, reference),
            np.abs(np.subtract(losses, expected)).max(),
            expected[0],
        ]
    gpu.POSITIONS, gpu.COLUMNS = tile

    vocab_size, asked = blocks(40, batch_size=50, shared=24)
    settings = StepSettings(wd=0.02)
    exact, single, padded = (
        start(vocab_size, 20),
        start(vocab_size, 20, torch.float32),
        start(vocab_size, 20, room=12),
    )
    same = start(vocab_size, 20, room=12)
    trained(same, asked, settings, torch_steps)
    trained(exact, asked, settings, torch_steps)
    trained(single, asked, settings, gpu.triton_steps)
    trained(padded, asked, settings, gpu.triton_steps)
    size = max(exact.embeddings.abs().max().item(), exact.readout.abs().max().item())
    result["float32"], result["padded rows"] = difference(single, exact) / size, difference(padded, same)
    after, old = (
        m.embeddings.as_strided((vocab_size, 12), (32, 1), 20)
        for m in (padded, start(vocab_size, 20, room=12))
    )
    result["room"] = (after - old).abs().max().item()

    # Scores far beyond those whose exponential a float holds: the loss has to be exact there, too.
    large = [start(vocab_size, 20) for _ in range(2)]
    for model in large:
        model.readout *= 1000
    expected, got = (
        trained(model, asked, settings, steps)[0]
        for model, steps in zip(large, (torch_steps, gpu.triton_steps))
    )
    result["large scores"] = [expected / len(asked[0]), abs(got / expected - 1)]

    # Rate 0, by which kernels are compiled before training, changes no bit.
    still, before = (start(vocab_size, 256, torch.bfloat16) for _ in range(2))
    gpu.triton_steps(still, replace(asked[0], rates=0 * asked[0].rates), settings)
    result["rate 0"] = difference(still, before)

    # bfloat16: one batch, from numbers that it holds exactly, over 256 columns.
    one = Block(*(getattr(asked[0], x)[:50] for x in ("tokens", "first")), np.minimum(asked[0].last[:50], 50),
                asked[0].negatives[:1], True, asked[0].weight, 50, asked[0].rates[:1], seed=3)  # fmt: skip
    half = [start(vocab_size, 256, torch.bfloat16) for _ in range(3)]
    full = CBOW.from_start(half[0].embeddings.double(), half[0].readout.double())
    before = CBOW.from_start(full.embeddings, full.readout)
    other = Block(**(one.__dict__ | dict(seed=4)))
    for model, block in zip(half, (one, one, other)):
        gpu.triton_steps(model, block, settings)
    torch_steps(full, one, settings)
    result["same seed"] = difference(half[0], half[1])
    result["other seed"] = difference(half[0], half[2])
    for name in ("embeddings", "readout"):
        old, new, got = (getattr(m, name).double() for m in (before, full, half[0]))
        moved = (new != old).any(1)
        visible = moved[:, None] & (
            new.abs() > 0.05
        )  # next to 0 the spacing is less than the error of float32
        spacing = 2.0 ** (new.abs().clamp_min(1e-30).log2().floor() - 7)
        error = ((got - new) / spacing)[visible]
        result[f"rounding of {name}"] = [
            error.abs().max().item(), error.mean().item(), error.std().item(), error.numel(),
            float((got - old)[~moved].abs().sum()),
        ]  # fmt: skip
    return result


def ranks() -> dict:
    """This rank's share of the columns against one rank's."""
    shards = Shards.join(torch.device("cpu"))
    vocab_size, asked = blocks(40, batch_size=100, shared=24)
    reference, own = start(vocab_size, 37), shards.columns(37)
    expected = trained(reference, asked, StepSettings(wd=0.02), torch_steps)
    model = start(vocab_size, 37)
    model.shards = shards
    model.embeddings, model.readout = model.embeddings[:, own], model.readout[:, own]
    model.embeddings, model.readout = model.embeddings.contiguous(), model.readout.contiguous()
    losses = trained(model, asked, StepSettings(wd=0.02), gpu.triton_steps)
    part = CBOW.from_start(reference.embeddings[:, own], reference.readout[:, own])
    shards.leave()
    return dict(difference=difference(model, part), loss=np.abs(np.subtract(losses, expected)).max())


def compiled() -> dict:
    """Compile the kernels for compute capability 9.0, as they are launched: what `benchmarks/triton_code.py` tells."""
    code = script("triton_code")
    return {name: asdict(made) for name, made in code.compile_all(os.environ["STORED"]).items()}


def launched() -> dict:
    """For each kernel the patterns of alignment among the addresses that it is given, over blocks of all kinds."""
    from tp4lib.word2vec.steps import triton_code as kernels

    patterns: dict[str, set] = {}

    def watched(name, kernel):
        def launch(*arguments, **options):
            tensors = [x for x in arguments if isinstance(x, torch.Tensor)]
            patterns.setdefault(name, set()).add(tuple(x.data_ptr() % 16 == 0 for x in tensors))
            return kernel[grid[0]](*arguments, **options)

        grid = []

        class Watched:
            def __getitem__(self, size):
                grid[:] = [size]
                return launch

        return Watched()

    for name in ("forward", "gradients", "update"):
        setattr(kernels, name, watched(name, getattr(kernels, name)))
    for words, columns, options, more, _ in CASES.values():
        vocab_size, asked = blocks(words, **options)
        trained(CBOW(vocab_size, columns), asked, StepSettings(**more), gpu.triton_steps)
    return {name: [list(pattern) for pattern in found] for name, found in patterns.items()}


def run(what: str, **environment: str) -> subprocess.Popen:
    here = Path(__file__)
    variables = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | environment
    variables["PYTHONPATH"] = str(here.parents[2])  # where `tests` is
    return subprocess.Popen(
        [sys.executable, str(here), what],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result_of(process: subprocess.Popen) -> dict:
    out, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-3000:]
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def measured():
    return result_of(run("interpreted", TRITON_INTERPRET="1"))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_it_equals_the_reference(measured, case):
    parameters, loss, expected = measured[case]
    assert parameters < 1e-11
    assert loss < 1e-10 * expected  # torch's softplus is linear from 20 on, which is 2e-9 off


def test_the_cases_hold_what_they_should():
    _, asked = blocks(6, **CASES["few words, again and again"][2])
    assert any(np.isin(b.tokens[:40], b.negatives[0]).any() for b in asked), "negatives equal to targets"
    assert any(len(set(b.tokens[:40])) < 40 for b in asked), "targets twice in a batch"
    assert any(len(set(b.tokens[b.first[9] : b.last[9]])) < b.last[9] - b.first[9] for b in asked)
    _, asked = blocks(40, **CASES["batches larger than a tile"][2])
    assert any(not np.isin(b.tokens[:100], b.negatives[0]).all() for b in asked), (
        "targets that are no negatives"
    )
    assert any(len(set(b.negatives[0])) < 70 for b in asked), "negatives drawn twice"
    assert any(len(b) % b.batch_size for b in asked), "a last batch that is smaller"


def test_compiling_changes_nothing(measured):
    assert measured["rate 0"] == 0.0


def test_float32_and_padded_rows(measured):
    assert measured["float32"] < 1e-5
    assert measured["padded rows"] < 1e-11
    assert measured["room"] == 0.0, "nothing but zeros is written past the columns"


def test_the_loss_is_exact_however_large_the_scores(measured):
    """So that every engine sees a diverging run at the same block."""
    loss, error = measured["large scores"]
    assert loss > 500
    assert error < 1e-9


@pytest.mark.parametrize("name", ["embeddings", "readout"])
def test_bfloat16_is_rounded_to_a_neighbour_without_bias(measured, name):
    largest, mean, spread, size, untouched = measured[f"rounding of {name}"]
    assert size > 2_000
    assert largest < 1 + 1e-2
    assert abs(mean) < 5 * spread / np.sqrt(size)
    assert spread > 0.2, "at random, not to nearest"
    assert untouched == 0.0
    assert measured["same seed"] == 0.0
    assert measured["other seed"] > 0.0


@pytest.mark.slow
def test_two_ranks_compute_what_one_does():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    both = dict(TRITON_INTERPRET="1", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    for got in [result_of(p) for p in [run("ranks", RANK=str(r), **both) for r in range(2)]]:
        assert got["difference"] < 1e-11
        assert got["loss"] < 1e-8


@pytest.mark.slow
@pytest.mark.parametrize(
    "stored",
    ["float32", pytest.param("bfloat16", marks=pytest.mark.skipif(
        "TP4_HEAVY" not in os.environ, reason="another minute of compiling; set TP4_HEAVY=1"))],
)  # fmt: skip
def test_it_compiles_for_a_gpu(stored, tmp_path):
    """Code that the interpreter runs may still not compile, or need more memory than a multiprocessor has."""
    import triton

    if not (Path(triton.__file__).parent / "backends/nvidia/bin/ptxas").exists():
        pytest.skip("this triton brings no assembler for NVIDIA GPUs")
    for kernel, made in result_of(run("compiled", STORED=stored, TRITON_CACHE_DIR=str(tmp_path))).items():
        assert made["instructions"] > 100, kernel
        assert made["shared"] <= 227 * 1024, kernel


@pytest.mark.slow
def test_no_kernel_is_compiled_twice():
    """Triton compiles one for each pattern of alignment; 32 of them took the first minutes once."""
    for kernel, patterns in result_of(run("launched", TRITON_INTERPRET="1")).items():
        assert len(patterns) == 1, kernel
        assert all(patterns[0]), kernel


def test_it_has_to_be_possible(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    corpus = Corpus.from_words(["a", "b", "c", "a", "b", "a", "b", "c"] * 9)
    with pytest.raises(InputError, match="triton engine needs triton and a C compiler, a GPU"):
        train(corpus, 4, epochs=1, engine="triton", device="cpu")


if __name__ == "__main__":
    print(
        json.dumps(
            dict(interpreted=interpreted, ranks=ranks, compiled=compiled, launched=launched)[sys.argv[1]]()
        )
    )
