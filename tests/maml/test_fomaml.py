"""The inner-product engine against `torch.func` over tasks, and the loop that trains with it."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tp4lib.base.divergence import Diverged
from tp4lib.base.errors import InputError
from tp4lib.data import drawn_characters as synthetic
from tp4lib.data.omniglot import Batch, Characters, Tasks
from tp4lib.linear_limit import LinearLimit
from tp4lib.maml import models, train
from tp4lib.maml.fomaml import LinearFOMAML
from tp4lib.maml.reference import ReferenceMAML


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return synthetic.draw(classes=24, drawers=6)


def tasks64(images: np.ndarray, **options) -> Tasks:
    return Tasks(images, dtype=torch.float64, **options)


def random_tasks(count: int, ways: int, shots: int, queries: int, d_in: int) -> Batch:
    """Tasks of Gaussian inputs, small enough to hold a weight matrix for each."""
    generator = torch.Generator().manual_seed(4)
    per_class = shots + queries
    x = torch.randn(count, ways * per_class, d_in, generator=generator, dtype=torch.float64)
    y = torch.arange(ways).repeat(per_class).expand(count, -1)
    return Batch(x, y, torch.zeros_like(y), ways * shots, ways)


def network(width: float, bias_scale: float = 1.5, ways: int = 5, d_in: int = 784) -> LinearLimit:
    limit = LinearLimit(d_in, ways, 0.7, 0.4, bias_scale, dtype=torch.float64)
    net = limit if width == math.inf else limit.sample(int(width), seed=1)
    if net.b is not None:
        with torch.no_grad():
            net.b.normal_(generator=torch.Generator().manual_seed(2))
    return net


@pytest.mark.parametrize("width", [3, 50, math.inf])
@pytest.mark.parametrize("bias_scale", [0.0, 1.5])
@pytest.mark.parametrize(("inner_steps", "shots", "queries"), [(1, 1, 1), (3, 2, 4)])
def test_inner_products_equal_a_weight_matrix_per_task(width, bias_scale, inner_steps, shots, queries):
    net = network(width, bias_scale, ways=4, d_in=30)
    batch = random_tasks(6, 4, shots, queries, d_in=30)
    fast = LinearFOMAML(net, inner_steps=inner_steps)
    general = ReferenceMAML(net, inner_steps=inner_steps)
    for ours, theirs in zip(fast.gradients(batch), general.gradients(batch), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    for steps in (0, 1, 20):
        torch.testing.assert_close(
            fast.predict(batch, steps), general.predict(batch, steps), rtol=1e-10, atol=1e-10
        )
        assert torch.equal(fast.evaluate(batch, steps), general.evaluate(batch, steps))


def test_a_meta_step_is_clipped_sgd_on_the_sum_over_tasks(images):
    tasks = tasks64(images)
    batch = tasks.batch(8)
    for clip, lr in ((None, 0.3), (0.5, 0.3), (1e9, 0.3)):
        net = network(20)
        before = [p.detach().clone() for p in net.parameters()]
        learner = LinearFOMAML(net, lr=lr, clip=clip)
        gradients = [g.clone() for g in learner.gradients(batch)]
        reference = [nn.Parameter(p.clone()) for p in before]
        for p, g in zip(reference, gradients):
            p.grad = g.clone()
        norm = nn.utils.clip_grad_norm_(reference, clip if clip is not None else math.inf)
        assert norm > 0.5  # the case clip = 0.5 does clip
        torch.optim.SGD(reference, lr=lr).step()
        learner.outer_step(batch)
        for p, expected in zip(net.parameters(), reference):
            torch.testing.assert_close(p.data, expected.data)


def test_the_gradient_is_summed_and_the_loss_averaged_over_tasks(images):
    tasks = tasks64(images)
    batch = tasks.batch(3)
    learner = LinearFOMAML(network(20))
    total = learner.gradients(batch)
    for t in range(3):
        one = Batch(batch.x[t : t + 1], batch.y[t : t + 1], batch.index[t : t + 1], 5, 5)
        total = [a - b for a, b in zip(total, learner.gradients(one))]
    assert max(g.abs().max() for g in total) < 1e-12
    query_y = batch.y[:, 5:]
    logits = learner.predict(batch, 1)
    assert learner.outer_step(batch).item() == pytest.approx(
        F.cross_entropy(logits.reshape(-1, 5), query_y.reshape(-1)).item()
    )


def test_second_order_is_the_derivative_of_the_query_loss(images):
    """Second-order MAML follows the true gradient of the loss after adaptation; first order does not."""
    tasks = tasks64(images)
    batch = tasks.batch(4)
    module = nn.Sequential(nn.Linear(784, 6), nn.Tanh(), nn.Linear(6, 5)).double()

    def loss(first_order: bool = False) -> float:
        logits = ReferenceMAML(module, first_order=first_order).predict(batch, 2)
        return 4 * F.cross_entropy(logits.reshape(-1, 5), batch.y[:, 5:].reshape(-1)).item()

    second = ReferenceMAML(module, first_order=False, inner_steps=2).gradients(batch)
    first = ReferenceMAML(module, first_order=True, inner_steps=2).gradients(batch)
    generator = torch.Generator().manual_seed(0)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in module.parameters()]
    eps = 1e-5
    values = []
    for sign in (1, -2):
        with torch.no_grad():
            for p, u in zip(module.parameters(), direction):
                p.add_(sign * eps * u)
        values.append(loss())
    slope = (values[0] - values[1]) / (2 * eps)
    along = [sum((g * u).sum().item() for g, u in zip(gs, direction)) for gs in (second, first)]
    assert along[0] == pytest.approx(slope, rel=1e-6)
    assert abs(along[1] - slope) > 1e-3 * abs(slope)


def test_training_learns_features_that_transfer():
    tasks, validation, test = train.split_tasks(characters(synthetic.draw(classes=80, drawers=10)))
    learner = LinearFOMAML(models.linear_network(math.inf))
    held_out = train.batches(test, 2048)
    before = train.accuracy(learner, held_out, inner_steps=20)
    history = train.fit(learner, tasks, train.batches(validation, 256), meta_steps=200, epoch_steps=50)
    after = train.accuracy(learner, held_out, inner_steps=20)
    assert len(history.epochs) == 4
    assert after.mean > before.mean + 3 * (before.se + after.se), (before, after)


def test_validation_characters_are_rotated_where_asked_and_test_characters_never():
    drawn = characters(synthetic.draw(classes=80, drawers=4))
    upright, rotated = (train.split_tasks(drawn, rotate_validation=asked) for asked in (False, True))
    for part, times in ((0, 1), (1, 4), (2, 1)):
        assert rotated[part].classes == times * upright[part].classes
    count = len(upright[1].table)
    assert torch.equal(rotated[1].table[:count], upright[1].table)
    quarter = upright[1].table.view(count, 28, 28).rot90(1, (1, 2)).reshape(count, -1)
    assert torch.equal(rotated[1].table[count : 2 * count], quarter)


def characters(images: np.ndarray) -> Characters:
    return Characters(images, [f"synthetic/{c}" for c in range(len(images))], "synthetic", synthetic=True)


def short_run(tmp_path, images, meta_steps=35, resume=False, learner=None, settings=None, **options):
    tasks, validation, _ = train.split_tasks(characters(images), ways=3)
    if learner is None:
        learner = LinearFOMAML(models.linear_network(16, ways=3), lr=0.2)
    history = train.fit(
        learner, tasks, train.batches(validation, 40), meta_steps=meta_steps, epoch_steps=10,
        meta_batch=4, save_to=tmp_path / "checkpoint.npz", resume=resume, settings=settings, **options,
    )  # fmt: skip
    return learner, history


class Killed(Exception):
    pass


class KilledAfter(LinearFOMAML):
    steps = 23

    def outer_step(self, batch):
        self.steps -= 1
        if self.steps < 0:
            raise Killed
        return super().outer_step(batch)


def test_a_killed_run_resumes_to_the_same_numbers(tmp_path, images):
    whole, expected = short_run(tmp_path / "..", images)
    with pytest.raises(Killed):
        short_run(tmp_path, images, learner=KilledAfter(models.linear_network(16, ways=3), lr=0.2))
    resumed, history = short_run(tmp_path, images, resume=True)
    assert [e["meta_steps"] for e in history.epochs] == [10, 20, 30, 35]
    assert history.epochs == expected.epochs
    assert history.best_epoch == expected.best_epoch
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    # Resuming what is finished changes nothing.
    again, history = short_run(tmp_path, images, resume=True)
    assert history.epochs == expected.epochs
    assert torch.equal(again.network.U, whole.network.U)


def test_resuming_under_other_settings_is_refused_by_name(tmp_path, images):
    short_run(tmp_path, images, settings={"lr": 0.2})
    with pytest.raises(InputError, match=r"lr = 0.2, now lr = 0.3"):
        short_run(tmp_path, images, resume=True, settings={"lr": 0.3})
    with pytest.raises(InputError, match="meta_steps = 35, now meta_steps = 45"):
        short_run(tmp_path, images, meta_steps=45, resume=True, settings={"lr": 0.2})


class Scripted:
    recordable = False
    """A meta-model whose validation accuracies and losses are given."""

    def __init__(self, accuracies, losses=None):
        self.accuracies, self.losses = accuracies, losses or [1.0] * len(accuracies)
        self.clock = torch.zeros((), dtype=torch.float64)

    def outer_step(self, batch):
        self.clock = self.clock + 1
        return torch.tensor(self.losses[int(self.clock) - 1])

    def evaluate(self, batch, inner_steps=1):
        return torch.full((len(batch.x),), self.accuracies[int(self.clock) - 1])

    def state_dict(self):
        return {"clock": self.clock}

    def load_state_dict(self, state):
        self.clock = state["clock"].clone()


def scripted(images, accuracies, losses=None, **options):
    tasks, validation, _ = train.split_tasks(characters(images))
    model = Scripted(accuracies, losses)
    history = train.fit(
        model, tasks, train.batches(validation, 8), meta_steps=len(accuracies), epoch_steps=1, meta_batch=2, **options
    )  # fmt: skip
    return model, history


@pytest.fixture(scope="module")
def enough() -> np.ndarray:
    return synthetic.draw(classes=60, drawers=3)


def test_the_best_epoch_is_kept(enough):
    model, history = scripted(enough, [0.2, 0.6, 0.4, 0.6, 0.5])
    assert history.best_epoch == 2  # the first of equals
    assert model.clock == 2
    assert history.best["val_accuracy"] == pytest.approx(60)
    assert not history.stopped


def test_patience_stops_on_a_plateau_and_says_so(enough):
    model, history = scripted(enough, [0.2, 0.6, 0.4, 0.5, 0.5, 0.9], patience=3)
    assert len(history.epochs) == 5
    assert history.stopped == "no better epoch in the last 3"
    assert model.clock == 2


def test_divergence_is_detected(enough):
    with pytest.raises(InputError, match=r"diverged in epoch 3: the query loss is nan.*smaller --lr"):
        scripted(enough, [0.2] * 4, losses=[1.0, 1.0, math.nan, 1.0])
    # 6 log 5 = 9.657
    with pytest.raises(
        Diverged, match=r"epoch 3: the query loss is 9.7 at meta-step \d+; expected .* 9.657 at most"
    ):
        scripted(enough, [0.2] * 4, losses=[1.0, 1.0, 9.7, 200.0])
    _, history = scripted(enough, [0.2] * 4, losses=[1.0, 1.0, 9.6, 1.0])
    assert len(history.epochs) == 4


def test_accuracy_has_a_standard_error_over_tasks(images):
    class Alternate:
        def evaluate(self, batch, inner_steps=1):
            return (torch.arange(len(batch.x)) % 2).float()

    score = train.accuracy(Alternate(), train.batches(Tasks(images), 100, meta_batch=30), 1)
    assert (score.mean, score.tasks) == (50, 100)
    assert score.se == pytest.approx(100 * 0.5 / math.sqrt(99))


def test_a_part_with_fewer_classes_than_ways(images):
    with pytest.raises(InputError, match=r"characters for tasks of 5 ways"):
        train.split_tasks(characters(images))


def test_settings_are_the_papers_and_go_to_the_nearest_width():
    assert set(models.SETTINGS) == set(models.WIDTHS)
    assert models.settings(32) == models.Hyperparameters(0.4, 1, 0.125, 0.5)
    assert models.settings(math.inf).lr == 0.1
    assert models.settings(40) == models.settings(32)
    assert models.settings(100_000) == models.settings(8192)
    with pytest.raises(InputError, match="width 0"):
        models.settings(0)
    json.dumps([vars(s) for s in models.SETTINGS.values()])
