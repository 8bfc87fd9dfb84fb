"""The Transformer program: at finite width torch's own network trained by torch.optim; at infinity its limit."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tp4lib.divergence import Diverged
from tp4lib.errors import InputError
from tp4lib.program import SGD, Adam, FiniteWidth, InfiniteWidth, Transformer, estimate, train_transformer

GENERATOR = torch.Generator().manual_seed(3)
TEXT = torch.randint(4, (3, 5), generator=GENERATOR)
TOKENS, TARGETS = TEXT[:, :-1], TEXT[:, 1:]


class Block(nn.Module):
    """Attention by torch's own kernel, heads of the full width, logits over n."""

    def __init__(self, n, heads, activation):
        super().__init__()
        self.heads, self.activation = heads, activation
        self.q, self.k, self.v = (nn.Linear(n, heads * n, bias=False) for _ in range(3))
        self.o = nn.Linear(heads * n, n, bias=False)
        self.up, self.down = nn.Linear(n, n, bias=False), nn.Linear(n, n, bias=False)

    def forward(self, x, branch):
        q, k, v = (w(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for w in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1 / x.shape[-1])
        x = x + branch * self.o(mixed.transpose(1, 2).flatten(2))
        return x + branch * self.down(self.activation(self.up(x)))


class Network(nn.Module):
    """An ordinary decoder in muP: the readout's multiplier is 1/n, all else is in the start and the rates."""

    def __init__(self, n, shape, length):
        super().__init__()
        self.n, self.branch = n, shape.branch
        self.tokens, self.positions = nn.Embedding(shape.vocab, n), nn.Embedding(length, n)
        activation = {"tanh": torch.tanh, "relu": F.relu}[shape.activation]
        self.blocks = nn.ModuleList(Block(n, shape.heads, activation) for _ in range(shape.depth))
        self.readout = nn.Linear(n, shape.vocab, bias=False)
        if shape.tied:
            self.readout.weight = self.tokens.weight
        self.double()

    def forward(self, tokens):
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x, self.branch)
        return self.readout(x) / self.n

    def groups(self, lr, decay=0.0, eps=None, adam=False):
        """muP's rates: vectors n eta and matrices eta for SGD, eta and eta / n for Adam."""
        vectors = [self.tokens.weight, self.positions.weight]
        vectors += [] if self.readout.weight is self.tokens.weight else [self.readout.weight]
        matrices = list(self.blocks.parameters())
        found = []
        for params, rate in ((vectors, lr if adam else lr * self.n), (matrices, lr / self.n if adam else lr)):
            found.append({"params": params, "lr": rate, "weight_decay": decay * lr / rate})
            if eps is not None:
                found[-1]["eps"] = eps / self.n
        return found


def initialize(network, n, shape, seed):
    """The numbers that the program draws in FiniteWidth(n, seed), or muP's own start for seed=None."""
    if seed is None:
        with torch.no_grad():
            for name, weight in network.named_parameters():
                weight.normal_(std=n**-0.5 if "blocks" in name else 1.0)
        return
    world, length = FiniteWidth(n, seed), network.positions.weight.shape[0]
    E = world.gaussian(shape.std[0], count=shape.vocab + length).values
    with torch.no_grad():
        network.tokens.weight.copy_(E[: shape.vocab])
        network.positions.weight.copy_(E[shape.vocab :])
        for block in network.blocks:

            def draw():
                ((_, part),) = world.matrix(shape.std[1])._parts.values()
                return part.entries

            for h in range(shape.heads):
                rows = slice(h * n, (h + 1) * n)
                for linear in (block.q, block.k, block.v):
                    linear.weight[rows] = draw()
                block.o.weight[:, rows] = draw()
            block.up.weight.copy_(draw())
            block.down.weight.copy_(draw())
        if not shape.tied:
            network.readout.weight.copy_(world.gaussian(shape.std[2], count=shape.vocab).values)


def ordinary(n, shape, optimizer, steps, seed=None, batches=None, targets=TARGETS):
    """Logits (steps + 1, S, K, vocab) of an ordinary network, trained by autograd and torch.optim."""
    network = Network(n, shape, TOKENS.shape[1])
    initialize(network, n, shape, seed)
    optimizer, outputs = optimizer(network), []
    for step in range(steps + 1):
        outputs.append(network(TOKENS).detach())
        if step < steps:
            rows = slice(None) if batches is None else batches[step]
            loss = F.cross_entropy(network(TOKENS[rows]).flatten(0, 1), targets[rows].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return torch.stack(outputs)


RULES = {
    "sgd": ("sgd", lambda net: torch.optim.SGD(net.groups(0.4))),
    "momentum": (
        SGD(momentum=0.8, weight_decay=0.05),
        lambda net: torch.optim.SGD(
            # Coupled decay is part of the gradient, which is 1/n of the program's.
            [g | {"weight_decay": 0.05 * 0.4 / g["lr"]} for g in net.groups(0.4)], momentum=0.8
        ),
    ),
    "adam": (
        Adam(eps=1e-4),
        lambda net: torch.optim.Adam(net.groups(0.05, eps=1e-4, adam=True)),
    ),
    "adamw": (
        Adam(betas=(0.8, 0.95), eps=1e-4, weight_decay=0.3),
        lambda net: torch.optim.AdamW(net.groups(0.05, 0.3, 1e-4, adam=True), betas=(0.8, 0.95)),
    ),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(
    "shape",
    [
        Transformer(vocab=4),
        Transformer(vocab=5, heads=2, depth=2, branch=0.7, activation="relu", std=(0.8, 1.1, 0.6)),
        Transformer(vocab=4, heads=3, tied=True),
    ],
    ids=["plain", "heads and depth", "tied"],
)
def test_at_finite_width_the_program_is_torchs_network(name, shape):
    rule, optimizer = RULES[name]
    batches = [[0, 1], [2], [0, 1, 2]]
    for rows in (None, batches):
        found = train_transformer(
            FiniteWidth(24, seed=1), TOKENS, TARGETS, shape, lr=0.05 if "adam" in name else 0.4, steps=3,
            optimizer=rule, batches=rows,
        )  # fmt: skip
        expected = ordinary(24, shape, optimizer, 3, seed=1, batches=rows)
        assert torch.allclose(found.outputs, expected, rtol=0, atol=1e-10)
        loss = F.cross_entropy(expected[-1].flatten(0, 1), TARGETS.flatten())
        assert found.losses[-1] == pytest.approx(float(loss), abs=1e-10)
    assert (found.outputs[-1] - found.outputs[0]).abs().max() > 0.05
