"""SGD on a residual network of any depth, as a tensor program: width infinity first, then depth."""

import math
from typing import Any

from torch import Tensor

from tp4lib.base import checks
from tp4lib.program.optimizers import Adam
from tp4lib.program.training import Training, make_task
from tp4lib.program.world import World, outer


def train_resnet(world: World, xi: Tensor, y: Tensor, *, depth: int, **options: Any) -> Training:
    r"""Train a residual network of `depth` branches in Depth-muP: branches and their gradients carry 1 / sqrt(L).

        x^0 = U xi,   h^l = W^l x^{l-1},   x^l = x^{l-1} + phi(h^l) / sqrt(L),   f = <v, x^L> / n
        dx^L = chi v,   dh^l = dx^l phi'(h^l) / sqrt(L),   dx^{l-1} = dx^l + W^l^T dh^l
        v -= eta chi x^L,   W^l -= eta dh^l (x^{l-1})^T / n,   U -= eta dx^0 xi^T

    (or another optimizer's step). Every branch still learns features as the depth grows, and the limits of width have
    a limit of depth. Adam's rate of the branches carries another 1 / sqrt(L). Source: Yang, Yu, Zhu & Hayou 2023,
    Tensor Programs VI (arXiv 2310.02244), section 3.

    Args:
        options, with xi and y: as in `train_mlp`, with std of U, W^1 .. W^L and v, and 4 steps by default. An odd
            activation, such as "tanh", keeps the branches' means at 0.

    >>> import torch
    >>> from tp4lib.program import InfiniteWidth
    >>> xi, y = torch.eye(2, dtype=torch.float64), torch.tensor([[1.0], [-1.0]])
    >>> train_resnet(InfiniteWidth(1000), xi, y, depth=3, steps=2).outputs.shape
    torch.Size([3, 2, 1])
    """
    depth = checks.whole("depth", depth, example=4)
    task = make_task(world, xi, y, depth + 2, **{"steps": 4} | options)
    xi, branch = task.xi, 1 / math.sqrt(depth)
    rate = task.lr * branch if isinstance(task.optimizer, Adam) else task.lr  # of the branches
    task.require_room((1 + task.steps) * depth, matrices=depth)
    U, v = world.gaussian(task.std[0], count=xi.shape[1]), world.gaussian(task.std[-1], count=y.shape[1])
    W = [world.matrix(std) for std in task.std[1:-1]]
    of_U, of_v, of_W = task.rule(), task.rule(), [task.rule(rate) for _ in W]
    for _ in range(task.steps + 1):
        x, h = [xi @ U], []
        for W_l in W:
            h.append(W_l @ x[-1])
            x.append(x[-1] + branch * task.phi(h[-1]))
        chi = task.record(world.mean(x[-1], v), h)
        if chi is None:
            break
        dx = chi @ v
        v = of_v.step(v, chi.T @ task.pick(x[-1]))
        for l in reversed(range(depth)):  # noqa: E741
            dh = branch * dx * task.slope(task.pick(h[l]))
            dx = dx + W[l].T @ dh
            W[l] = of_W[l].step(W[l], outer(dh, task.pick(x[l])))
        U = of_U.step(U, task.pick(xi).T @ dx)
    return task.finish()
