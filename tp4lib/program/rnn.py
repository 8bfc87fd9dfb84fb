"""SGD on a simple recurrent network in muP, as a tensor program: one matrix, reused at every time and trained."""

from typing import Any

from torch import Tensor

from tp4lib.base.errors import InputError
from tp4lib.program.training import Training, make_task
from tp4lib.program.world import Matrix, World, outer


def train_rnn(world: World, xi: Tensor, y: Tensor, **options: Any) -> Training:
    r"""SGD on a simple recurrent network in muP: one matrix W, reused at every time and trained through time.

        h_k = W x_{k-1} + U xi_k,   x_k = phi(h_k),   x_0 = 0,   f = <v, x_K> / n
        dx_K = chi v,   dh_k = dx_k phi'(h_k),   dx_{k-1} = W^T dh_k
        v -= eta chi x_K,   U -= eta sum_k dh_k xi_k^T,   W -= eta sum_k dh_k x_{k-1}^T / n

    Source: Yang & Hu 2021, section 7 (the recipe covers any architecture; the paper does not run this one).

    Args:
        xi: (P, K, d_in) sequences. y: (P, d_out). In `Training` the times 1 .. K are in the place of layers.
        options: as in `train_mlp`, with std of U, W and v, and 4 steps by default.

    >>> import torch
    >>> from tp4lib.program import InfiniteWidth
    >>> xi, y = torch.ones(2, 3, 1, dtype=torch.float64), torch.tensor([[1.0], [-1.0]])
    >>> train_rnn(InfiniteWidth(1000), xi, y, steps=2).feature_kernels.shape
    torch.Size([3, 3, 2, 2])
    """
    if xi.dim() != 3:
        raise InputError(f"xi is {tuple(xi.shape)}; expected (P, K, d_in); try xi[..., None]")
    task = make_task(world, xi, y, 3, **{"steps": 4} | options)
    xi, times = task.xi, task.xi.shape[1]
    task.require_room((1 + task.steps) * times, matrices=1)
    U, W = world.gaussian(task.std[0], count=xi.shape[2]), world.matrix(task.std[1])
    v = world.gaussian(task.std[2], count=y.shape[1])
    of_U, of_W, of_v = task.rule(), task.rule(), task.rule()
    for _ in range(task.steps + 1):
        h = [xi[:, 0] @ U]
        for k in range(1, times):
            h.append(W @ task.phi(h[-1]) + xi[:, k] @ U)
        x = [task.phi(h_k) for h_k in h]
        chi = task.record(world.mean(x[-1], v), h)
        if chi is None:
            break
        inputs = task.pick(xi)
        dx, g_U, g_W = chi @ v, 0 * U, Matrix(world)
        for k in reversed(range(times)):  # back through time, summing the gradients of every use
            dh = dx * task.slope(task.pick(h[k]))
            g_U = g_U + inputs[:, k].T @ dh
            if k > 0:
                g_W = g_W + outer(dh, task.pick(x[k - 1]))
                dx = W.T @ dh
        v = of_v.step(v, chi.T @ task.pick(x[-1]))
        U, W = of_U.step(U, g_U), of_W.step(W, g_W)
    return task.finish()
