"""learn2learn's MAML, the ecosystem's own, against our two engines: same tasks, same start, same parameters."""

import contextlib
import io
import warnings

import pytest
import torch
import torch.nn.functional as F

from tp4lib.data import drawn_characters as synthetic
from tp4lib.data.omniglot import Tasks
from tp4lib.linear_limit import LinearLimit
from tp4lib.maml.fomaml import LinearFOMAML
from tp4lib.maml.reference import ReferenceMAML


@pytest.fixture(scope="module")
def l2l():
    # Its dependency gym greets on stderr, and old packages warn on import.
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        return pytest.importorskip("learn2learn")


def start(width: int) -> LinearLimit:
    return LinearLimit(784, 5, 1.0, 0.125, bias_scale=0.5, dtype=torch.float64).sample(width, seed=1)


def theirs(l2l, width: int, first_order: bool, inner_steps: int, meta_steps: int) -> list[torch.Tensor]:
    tasks = Tasks(synthetic.draw(classes=30, drawers=6), seed=5, dtype=torch.float64)
    maml = l2l.algorithms.MAML(start(width), lr=0.4, first_order=first_order)
    optimizer = torch.optim.SGD(maml.parameters(), lr=0.4)
    for _ in range(meta_steps):
        optimizer.zero_grad()
        for support_x, support_y, query_x, query_y in zip(*tasks.batch(8)):
            learner = maml.clone()
            for _ in range(inner_steps):
                learner.adapt(F.cross_entropy(learner(support_x), support_y))
            F.cross_entropy(learner(query_x), query_y).backward()
        torch.nn.utils.clip_grad_norm_(maml.parameters(), 0.5)
        optimizer.step()
    return [p.detach() for p in maml.parameters()]


@pytest.mark.parametrize(
    ("engine", "first_order", "inner_steps"),
    [
        ("inner products", True, 1),
        ("inner products", True, 3),
        ("general", True, 1),
        ("general", False, 1),
        ("general", False, 2),
    ],
)
def test_same_parameters_after_20_meta_steps(l2l, engine, first_order, inner_steps):
    tasks = Tasks(synthetic.draw(classes=30, drawers=6), seed=5, dtype=torch.float64)
    net = start(24)
    before = [p.detach().clone() for p in net.parameters()]
    if engine == "general":
        learner = ReferenceMAML(net, first_order=first_order, lr=0.4, inner_steps=inner_steps)
    else:
        learner = LinearFOMAML(net, lr=0.4, inner_steps=inner_steps)
    for _ in range(20):
        learner.outer_step(tasks.batch(8))
    expected = theirs(l2l, 24, first_order, inner_steps, meta_steps=20)
    for ours, other, at_start in zip(net.parameters(), expected, before, strict=True):
        assert (ours - at_start).abs().max() > 1e-3  # it has moved
        torch.testing.assert_close(ours.data, other, rtol=0, atol=1e-6)


def test_the_orders_differ(l2l):
    first, second = (theirs(l2l, 8, order, inner_steps=1, meta_steps=3) for order in (True, False))
    assert max((a - b).abs().max() for a, b in zip(first, second)) > 1e-4
