"""MAML in the pi-limit: against the linear engine, steps of SGD and a wide pi-network."""

import copy
import doctest
import json

import pytest
import torch
import torch.nn.functional as F

from tp4lib.collection.cli import main
from tp4lib.data import drawn_characters as synthetic
from tp4lib.data import omniglot
from tp4lib.data.omniglot import Batch
from tp4lib.linear_limit import LinearLimit
from tp4lib.maml import pi_fomaml as pi
from tp4lib.maml.fomaml import LinearFOMAML
from tp4lib.maml.pi_fomaml import PiFOMAML
from tp4lib.pi_limit.network import PiMLP

F64 = torch.float64


def small_batch(seed: int = 0, tasks: int = 3, d: int = 6, ways: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(tasks, 2 * ways, d, generator=generator, dtype=F64)
    y = torch.arange(ways).repeat(2).expand(tasks, -1)
    return Batch(x, y, torch.zeros_like(y), ways, ways)


@pytest.mark.parametrize("inner_steps", [1, 3])
def test_linear_full_rank_is_the_linear_engine(inner_steps):
    d, o = 6, 3
    net = PiMLP(
        d, o, d + o, 1, "identity", sigma_in=1.2, sigma_out=0.5, bias_scale=0.7, output_bias=False, dtype=F64
    )
    options = dict(inner_lr=0.3, lr=0.2, clip=0.4, inner_steps=inner_steps)
    mine = PiFOMAML(net, learn_readout=True, **options)
    theirs = LinearFOMAML(LinearLimit(d, o, 1.2, 0.5, bias_scale=0.7, dtype=F64), **options)
    for seed in range(4):
        batch = small_batch(seed)
        assert torch.allclose(mine.predict(batch, 5), theirs.predict(batch, 5), atol=1e-10)
        assert torch.allclose(mine.outer_step(batch), theirs.outer_step(batch), atol=1e-11)


@pytest.mark.parametrize("depth", [1, 2])
def test_adapting_one_task_is_a_step_of_sgd(depth):
    net = PiMLP(6, 3, 5, depth, sigma_out=1.0, bias_scale=0.5, multipliers=[0.8, *[1.2] * depth], dtype=F64)
    batch = small_batch(tasks=2)
    found = PiFOMAML(net, inner_lr=0.3).predict(batch, inner_steps=4)
    for task in range(2):
        own = copy.deepcopy(net)
        for _ in range(4):
            own.loss_step(batch.x[task, :3], batch.y[task, :3], 0.3)
        assert torch.allclose(found[task], own(batch.x[task, 3:]), atol=1e-11)


def test_a_meta_step_is_that_of_a_wide_pi_network():
    """First-order MAML with explicit weights: clone, adapt by projected SGD, step from the start along the gradient."""
    net = PiMLP(6, 3, 4, 2, sigma_hidden=2.0, sigma_out=1.0, dtype=F64)
    batch, lr, eps = small_batch(tasks=1), 20.0, 0.3
    wide = net.sample(3000)
    before = wide(batch.x[0]).detach()
    adapted = copy.deepcopy(wide)
    adapted.loss_step(batch.x[0, :3], batch.y[0, :3], eps)
    start = [w.detach().clone() for w in adapted.weights]
    adapted.loss_step(batch.x[0, 3:], batch.y[0, 3:], lr)
    with torch.no_grad():
        for weight, old, new in zip(wide.weights, start, adapted.weights):
            weight.add_(new - old)
    PiFOMAML(net, inner_lr=eps, lr=lr, clip=None, learn_readout=True).outer_step(batch)
    moved = wide(batch.x[0]).detach() - before
    assert moved.norm() > before.norm()
    assert (wide(batch.x[0]) - net(batch.x[0])).norm() < 0.15 * moved.norm()


def test_it_learns_what_to_look_at_and_one_hidden_layer_keeps_no_rows():
    characters = synthetic.draw(classes=60, drawers=8)
    tasks, fresh = omniglot.Tasks(characters[:50]), omniglot.Tasks(characters[50:], seed=1)
    learner = pi.pi_learner(rank=60)
    asked = fresh.batch(300)
    before = learner.evaluate(asked).mean()
    losses = torch.stack([learner.outer_step(tasks.batch(32)) for _ in range(150)])
    assert learner.evaluate(asked).mean() > before + 0.05
    assert losses[-20:].mean() < losses[:20].mean()
    assert [len(layer) for layer in learner.network.layers] == [0]


def test_a_deeper_network_stays_within_its_rows(monkeypatch):
    monkeypatch.setattr(pi, "MAX_ROWS", 600)
    tasks = omniglot.Tasks(synthetic.draw(classes=12, drawers=4))
    learner = pi.pi_learner(rank=30, depth=2)
    for _ in range(8):
        assert torch.isfinite(learner.outer_step(tasks.batch(32)))
    assert len(learner.network.layers[0]) <= 600
    assert len(learner.network.layers[0].compressions) > 0


def test_the_command_resumes_to_the_same_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("TP4_DATA", "embedded")

    def tp4(*arguments) -> int:
        with pytest.raises(SystemExit) as stop:
            main(["maml", "--limit", "pi", "--rank", "24", *map(str, arguments)])
        return stop.value.code

    assert tp4("--activation", "relu", "--meta-steps", 100, "--out", tmp_path) == 0
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert (found["limit"], found["rank"], found["activation"], found["width"]) == ("pi", 24, "relu", "inf")
    assert 25 < found["test_accuracy_20_steps"] < 95
    assert tp4("--activation", "relu", "--meta-steps", 100, "--out", tmp_path, "--resume") == 0
    again = json.loads((tmp_path / "metrics.json").read_text())
    assert again["test_accuracy_20_steps"] == found["test_accuracy_20_steps"]
    assert tp4("--rank", 0, "--out", tmp_path / "bad") == 2


def test_the_examples_in_the_documentation():
    results = doctest.testmod(pi)
    assert (results.attempted > 0, results.failed) == (True, 0)


def test_cross_entropy_of_a_task_is_a_mean_over_its_queries():
    """Losses are summed over tasks and averaged within: the same as the other engines."""
    net = PiMLP(6, 3, 5, 1, dtype=F64)
    batch = small_batch()
    learner = PiFOMAML(net, inner_lr=0.3)
    logits = learner.predict(batch, 1)
    mean = F.cross_entropy(logits.flatten(0, 1), batch.y[:, 3:].flatten())
    assert learner.outer_step(batch).item() == pytest.approx(mean.item())
