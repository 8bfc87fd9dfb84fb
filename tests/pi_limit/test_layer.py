"""Rows of a pi-limit: growth, compression, storage, checkpoints."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tp4lib.activations import dual
from tp4lib.base import checkpoint
from tp4lib.base.errors import InputError
from tp4lib.pi_limit import layer as rows_module
from tp4lib.pi_limit.layer import Rows
from tp4lib.pi_limit.network import PiMLP

F64 = torch.float64


def drawn(n: int, r: int, o: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, r, generator=generator, dtype=F64), torch.randn(
        n, o, generator=generator, dtype=F64
    )


def filled(n: int = 60, r: int = 4, o: int = 3, name: str = "relu", **options) -> Rows:
    rows = Rows(dual(name), r, o, **dict(dtype=F64) | options)
    rows.append(*drawn(n, r, o))
    return rows


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(0, 900), min_size=1, max_size=6), name=st.sampled_from(["relu", "tanh"]))
def test_appending_in_parts_is_appending_at_once(sizes, name):
    B, A = drawn(sum(sizes), 3, 2)
    whole, parts = Rows(dual(name), 3, 2, dtype=F64), Rows(dual(name), 3, 2, dtype=F64)
    whole.append(B, A)
    for b, a in zip(B.split(sizes), A.split(sizes)):
        parts.append(b, a)
    g = drawn(4, 3, 1, seed=1)[0]
    assert torch.allclose(whole(g), parts(g), atol=1e-12)
    assert torch.allclose(parts(g), dual(name)(g, B) @ A)
    assert torch.allclose(parts.B, B)
    assert torch.allclose(parts.A, A)


def test_memory_grows_by_half_and_never_beyond_the_bound():
    rows = Rows(dual("relu"), 3, 2, dtype=F64, max_rows=1800)
    held = []
    for step in range(30):
        rows.append(*drawn(200, 3, 2, seed=step))
        held.append(len(rows._A))
        assert len(rows) <= 1800
    assert held[0] == 1024
    assert max(held) == 1800
    assert len(rows.compressions) > 5
    assert all(c.after == 900 for c in rows.compressions)


@pytest.mark.parametrize("storage", [None, torch.bfloat16])
@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_what_is_asked_of_the_memory_is_what_is_taken(monkeypatch, storage, name):
    asked = []
    monkeypatch.setattr(rows_module, "require_memory", lambda needed, *_: asked.append(needed))
    rows = Rows(dual(name), 3, 5, dtype=torch.float32, storage=storage)
    for step, held in ((1, 1024), (1023, 1024), (1, 1536), (511, 1536), (3000, 4536), (1, 6804)):
        rows.append(*(part.float() for part in drawn(step, 3, 5)))
        buffers = (rows._psi, rows._scale, rows._rho, rows._A)
        assert [len(buffer) for buffer in buffers] == [held] * 4
        assert asked[-1] == sum(buffer.nbytes for buffer in buffers)
    assert len(asked) == 4


def test_compression_of_redundant_rows_is_exact():
    """In 3 dimensions the quadratic kernel has 1 + 5 functions: any few rows carry all the others."""
    rows = filled(60, 3, 2, "quadratic")
    g = drawn(10, 3, 1, seed=1)[0]
    before = rows(g)
    report = rows.compress(12)
    assert (report.before, report.after, len(rows)) == (60, 12, 12)
    assert report.error < 1e-5
    assert torch.allclose(rows(g), before, rtol=1e-4, atol=1e-4)


def test_the_reported_error_is_the_distance_in_function_space():
    rows = filled(60, 4, 3)
    whole = copy.deepcopy(rows)
    report = rows.compress(40)
    difference = copy.deepcopy(whole)
    difference.append(rows.B, -rows.A)
    assert report.error == pytest.approx(difference.norm() / whole.norm(), rel=1e-6)
    assert 0.001 < report.error < 0.5
    # Least squares: no other coefficients on the same rows are nearer.
    for seed in range(3):
        nudged = copy.deepcopy(difference)
        nudged.append(rows.B, 1e-2 * drawn(40, 4, 3, seed)[1])
        assert nudged.norm() > difference.norm()
    # Cauchy-Schwarz: outputs move by at most error |W| sqrt K(g, g).
    g = drawn(50, 4, 1, seed=2)[0]
    bound = report.error * whole.norm() * dual("relu")(g, g).diagonal().sqrt()
    assert ((whole(g) - rows(g)).norm(dim=1) <= bound * (1 + 1e-9)).all()


def test_bounded_training_stays_near_the_unbounded():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 3, generator=generator, dtype=F64)
    y = torch.stack([x[:, 0] * x[:, 1], x[:, 2].abs()], dim=1)
    free = PiMLP(3, 2, rank=6, depth=2, bias_scale=1.0, dtype=F64)
    bound = PiMLP(3, 2, rank=6, depth=2, bias_scale=1.0, dtype=F64, max_rows=150)
    for step in range(150):
        batch = torch.arange(10 * (step % 6), 10 * (step % 6) + 10)
        for net in (free, bound):
            net.loss_step(x[batch], y[batch], 0.1)
    assert [len(layer) for layer in free.layers] == [1506, 1500]
    assert all(len(layer) <= 150 for layer in bound.layers)
    assert bound.nbytes < 0.15 * free.nbytes
    change = (free(x) - bound(x)).norm() / free(x).norm()
    assert change < 0.02


def test_bfloat16_rows_take_half_the_memory_and_give_nearly_the_same_function():
    whole, half = (filled(2000, 64, 64, storage=s, dtype=torch.float32) for s in (None, torch.bfloat16))
    g = drawn(20, 64, 1, seed=1)[0].float()
    assert half.nbytes < 0.53 * whole.nbytes
    assert (half(g) - whole(g)).norm() < 0.01 * whole(g).norm()
    assert half(g).dtype == torch.float32


def test_state_dict_holds_the_rows_in_use_and_restores_any_number(tmp_path):
    x, y = drawn(8, 3, 2)
    net = PiMLP(3, 2, rank=4, depth=2, bias_scale=1.0, dtype=F64)
    for _ in range(5):
        net.loss_step(x, y, 0.1, weight_decay=0.1)
    state = net.state_dict()
    assert state["layers.0.A"].shape == (44, 4)
    checkpoint.save(tmp_path / "pi.npz", state, {})
    arrays, _ = checkpoint.load(tmp_path / "pi.npz")
    other = PiMLP(3, 2, rank=4, depth=2, bias_scale=1.0, dtype=F64, seed=7)
    other.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
    before = copy.deepcopy(net)
    for _ in range(3):
        assert torch.equal(
            net.loss_step(x, y, 0.1, weight_decay=0.1), other.loss_step(x, y, 0.1, weight_decay=0.1)
        )
    assert torch.equal(net(x), other(x))
    assert not torch.equal(before(x), net(x))  # a deep copy has rows of its own
    del state["layers.1.rho"]
    with pytest.raises(RuntimeError, match=r"layers\.1\.rho"):
        other.load_state_dict(state)


def test_decay_of_any_length_neither_overflows_nor_underflows():
    rows = filled(10)
    g = drawn(3, 4, 1, seed=1)[0]
    start = rows(g)
    for _ in range(400):
        rows.decay(0.8)
        rows.append(*drawn(1, 4, 3))
        rows.append(drawn(1, 4, 3)[0], -drawn(1, 4, 3)[1])
    assert torch.isfinite(rows.A).all()
    assert torch.allclose(rows(g), 0.8**400 * start, atol=1e-12)


def test_bad_rows_are_refused():
    rows = filled(max_rows=90)
    with pytest.raises(InputError, match="one row a sample"):
        rows.append(torch.zeros(2, 4, dtype=F64), torch.zeros(2, 2, dtype=F64))
    with pytest.raises(InputError, match="at most half"):
        rows.append(*drawn(46, 4, 3))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_rows_that_are_not_finite_are_not_compressed(value):
    rows = filled()
    rows._A[7, 1] = value
    before = copy.deepcopy(rows)
    with pytest.raises(InputError, match="1 of 60 rows are not finite"):
        rows.compress(20)
    assert len(rows) == 60
    assert torch.equal(rows._psi[:60], before._psi[:60])  # memory beyond them is not initialized
    assert not math.isfinite(rows.norm())


def test_rows_below_the_root_of_float32_are_weighed_too():
    """Rows of 1e-25, whose squares float32 does not hold, and fifty of 1e-30: the large ones stay."""
    rows = Rows(dual("relu"), 4, 3)
    B, A = (part.float() for part in drawn(60, 4, 3))
    rows.append(B, A * torch.where(torch.arange(60) < 10, 1e-25, 1e-30)[:, None])
    rows.compress(20)
    assert all((rows.B - row).abs().sum(1).min() < 1e-5 for row in B[:10])
