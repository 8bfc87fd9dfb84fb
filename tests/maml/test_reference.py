"""The reference against the formulas in its docstring, written out with autograd; the engines against the reference."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tp4lib.data import drawn_characters, omniglot
from tp4lib.linear_limit import LinearLimit
from tp4lib.maml.kernel_fomaml import kernel_learner
from tp4lib.maml.pi_fomaml import PiFOMAML
from tp4lib.maml.reference import ReferenceMAML
from tp4lib.pi_limit.network import PiMLP

F64 = torch.float64


@pytest.fixture(scope="module")
def tasks() -> omniglot.Tasks:
    return omniglot.Tasks(drawn_characters.draw(classes=9, drawers=4), dtype=F64)


def test_inner_and_outer_steps_are_those_of_the_formulas(tasks):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(784, 7), nn.Tanh(), nn.Linear(7, 5)).double()
    batch, eps, lr, clip = tasks.batch(3), 0.4, 0.1, 0.5
    total = [torch.zeros_like(w) for w in net.parameters()]
    for support_x, support_y, query_x, query_y in zip(*batch):
        adapted = copy.deepcopy(net)
        for _ in range(2):
            gradients = torch.autograd.grad(
                F.cross_entropy(adapted(support_x), support_y), adapted.parameters()
            )
            with torch.no_grad():
                for w, g in zip(adapted.parameters(), gradients):
                    w -= eps * g
        gradients = torch.autograd.grad(F.cross_entropy(adapted(query_x), query_y), adapted.parameters())
        total = [t + g for t, g in zip(total, gradients)]
    norm = torch.stack([g.norm() for g in total]).norm()
    assert norm > clip
    expected = [w.detach() - lr * clip / norm * g for w, g in zip(net.parameters(), total)]
    ReferenceMAML(net, inner_lr=eps, lr=lr, clip=clip, inner_steps=2).outer_step(batch)
    for w, other in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(w.data, other, rtol=0, atol=1e-6)  # clipping adds 1e-6 to the norm


class OnFeatures(nn.Module):
    """A linear model of given features, whose weights start at 0: a kernel limit in parameter space."""

    def __init__(self, space) -> None:
        super().__init__()
        self.space, self.theta = space, nn.Parameter(torch.zeros(space.size, 5, dtype=F64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.space.features(x) @ self.theta


@pytest.mark.parametrize("limit", ["gp", "ntk"])
def test_a_linear_kernel_limit_is_the_reference_on_its_features(tasks, limit):
    ours = kernel_learner(limit, "linear", tasks, lr=0.2)
    plain = ReferenceMAML(OnFeatures(ours.space), lr=0.2)
    for _ in range(5):
        batch = tasks.batch(4)
        torch.testing.assert_close(ours.outer_step(batch), plain.outer_step(batch), rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.coefficients, plain.network.theta.data, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.predict(batch, 20), plain.predict(batch, 20), rtol=0, atol=1e-10)


def test_a_linear_pi_limit_of_full_rank_is_the_reference_on_the_limits_coefficients(tasks):
    scales = dict(sigma_in=1.2, sigma_out=0.5, bias_scale=0.7, dtype=F64)
    ours = PiFOMAML(
        PiMLP(784, 5, 789, 1, "identity", output_bias=False, **scales), lr=0.2, learn_readout=True
    )
    plain = ReferenceMAML(LinearLimit(784, 5, **scales), lr=0.2)
    for _ in range(3):
        batch = tasks.batch(4)
        torch.testing.assert_close(ours.outer_step(batch), plain.outer_step(batch), rtol=0, atol=1e-10)
    torch.testing.assert_close(ours.predict(batch, 3), plain.predict(batch, 3), rtol=0, atol=1e-9)
