"""A stack of networks does what torch.func's vmap of one network's gradient does."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

from tp4lib.base.errors import InputError
from tp4lib.nn import MLP, ABCLinear, rates
from tp4lib.parametrization import mup
from tp4lib.sweep.stack import Stack

X = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LR = [0.3, 0.1, 0.2]


def mlp(seed):
    return MLP(4, 12, 2, mup(2), "gelu", bias=True, base_width=3, seed=seed, dtype=torch.float64)


def chain(seed):
    g = torch.Generator().manual_seed(seed)
    options = dict(generator=g, dtype=torch.float64)
    return nn.Sequential(
        ABCLinear(4, 6, mup(1), 1, multiplier=3.0, **options),
        nn.Tanh(),
        ABCLinear(6, 2, mup(1), 2, bias=True, **options),
    )


def single(seed):
    return ABCLinear(
        4, 2, mup(1), 2, bias=True, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


@pytest.mark.parametrize("make", [mlp, chain, single])
def test_steps_are_those_of_vmap(make):
    models = [make(0), make(1)]
    pick = [0, 1, 0]
    stack = Stack(models, pick, LR)
    skeleton = copy.deepcopy(models[0]).to("meta")
    weights, _ = stack_module_state([models[i] for i in pick])
    scales = rates(models[0])

    def objective(weights):
        return functional_call(skeleton, weights, (X,)).square().sum()

    for _ in range(3):
        f = stack(X)
        expected = vmap(lambda w: functional_call(skeleton, w, (X,)))(weights)
        torch.testing.assert_close(f, expected, rtol=1e-11, atol=1e-13)
        stack.step(f.square().sum((1, 2)))
        with torch.no_grad():
            for name, g in vmap(grad(objective))(weights).items():
                eta = torch.tensor(LR, dtype=torch.float64) * scales[name]
                weights[name] = weights[name] - eta.view(-1, *[1] * (g.dim() - 1)) * g
    assert not torch.equal(weights[name][0], weights[name][2]), "members of one start part by their rates"


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_members_can_leave_between_steps(optimizer):
    whole, thinned = (Stack([mlp(0), mlp(1)], [0, 1, 0], LR, optimizer) for _ in range(2))
    for step in range(4):
        whole.step(whole(X).square().sum((1, 2)))
        thinned.step(thinned(X).square().sum((1, 2)))
        if step == 1:
            thinned.keep(np.array([True, False, True]))
    torch.testing.assert_close(thinned(X), whole(X)[[0, 2]], rtol=1e-12, atol=1e-14)


def test_the_models_it_starts_from_are_left_alone():
    model = mlp(0)
    before = copy.deepcopy(model.state_dict())
    stack = Stack([model], [0, 0], [0.1, 0.2])
    stack.step(stack(X).square().sum((1, 2)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_parameters_without_a_rate_are_refused():
    with pytest.raises(InputError, match="not in an ABCLinear"):
        Stack([nn.Sequential(mlp(0), nn.LayerNorm(2))], [0], [0.1])
