"""A sweep of any network: the same as training by hand, divergence written down, the same result object."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests import networks
from tp4lib.base.errors import InputError
from tp4lib.nn import MLP
from tp4lib.parametrization import mup
from tp4lib.scale import scale
from tp4lib.sweep import Sweep, minibatches, sweep, warmup_and_decay

X, Y = (torch.cat(parts) for parts in zip(*networks.words(8), strict=True))
HOW = dict(steps=6, batch_size=8, optimizer="adam", loss="cross_entropy")


def make(seed):
    torch.manual_seed(seed)
    return scale(networks.GPT, 32, 16, mup(2))


def test_the_same_as_training_by_hand():
    how = HOW | dict(test=(X[:16], Y[:16]), evaluate_every=3, weight_decay=0.2, schedule=warmup_and_decay)
    result = sweep(make, [2**-6, 2**-8], [0, 1], X, Y, **how)
    assert isinstance(result, Sweep)
    assert result.losses.shape == (2, 2, 7)
    assert result.evaluated_at.tolist() == [3, 6]
    net, found = make(1), []
    moves = torch.optim.AdamW(net.groups(2**-6, weight_decay=0.2))
    schedule = torch.optim.lr_scheduler.LambdaLR(moves, lambda t: warmup_and_decay(t, 6))
    for batch in minibatches(len(X), 8, 6):
        loss = F.cross_entropy(net.model(X[batch]).flatten(0, 1), Y[batch].flatten())
        found.append(loss.item())
        moves.zero_grad()
        loss.backward()
        moves.step()
        schedule.step()
    assert result.losses[1, 1, :6].tolist() == pytest.approx(found, rel=1e-6)
    with torch.no_grad():
        f = net.model(X[:16])
    assert result.test_loss[1, 1, 1] == pytest.approx(
        F.cross_entropy(f.flatten(0, 1), Y[:16].flatten()).item(), rel=1e-5
    )
    assert result.test_accuracy[1, 1, 1] == pytest.approx(
        (f.argmax(-1) == Y[:16]).double().mean().item(), rel=1e-6
    )


def test_divergence_is_written_down():
    result = sweep(make, [1e-3, 1e6], [0], X, Y, **HOW | dict(blowup=3.0, test=(X, Y)))
    assert result.stable.tolist() == [[True], [False]]
    at = int(result.diverged_at[1, 0])
    assert np.isinf(result.losses[1, 0, at:]).all()
    assert result.test_loss[1, 0, -1] == math.inf
    assert not np.isnan(result.losses).any()


def test_buffers_square_loss_and_other_losses():
    (x, y), *_ = networks.samples((2, 6, 6), 1, rows=32)
    targets = F.one_hot(y, 5).float()

    def convolutional(seed):
        torch.manual_seed(seed)
        return scale(networks.convolutional, 16, 16, mup(2))

    how = dict(steps=4, batch_size=8, optimizer="sgd", test=(x, targets))
    square = sweep(convolutional, [0.01], [0], x, targets, loss="square", **how)
    by_hand = sweep(
        convolutional, [0.01], [0], x, targets, loss=lambda f, y: ((f - y) ** 2).sum(-1).mean() / 2, **how
    )
    assert square.losses.tolist() == by_hand.losses.tolist()
    assert 0 <= square.test_accuracy[0, 0, 0] <= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(loss="hinge"), "loss = 'hinge'"),
        (dict(optimizer="lion"), "optimizer = 'lion'"),
        (dict(batch_size=1000), "batch_size = 1000"),
        (dict(y=Y[:3]), "x and y have shapes"),
    ],
)
def test_bad_input_is_one_line(change, message):
    with pytest.raises(InputError) as error:
        sweep(**dict(make=make, rates=[0.1], seeds=[0], x=X, y=Y) | HOW | change)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_stack_of_perceptrons_has_no_schedule():
    x, y = torch.randn(16, 3), torch.randn(16, 1)
    with pytest.raises(InputError, match=r"for networks of tp4lib\.scale"):
        sweep(
            lambda seed: MLP(3, 8, 1, mup(2), seed=seed),
            [0.1],
            [0],
            x,
            y,
            steps=2,
            batch_size=8,
            weight_decay=0.1,
        )
