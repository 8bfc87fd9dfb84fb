"""SGD on a simple recurrent network in muP, as a tensor program: one matrix, reused at every time and trained."""

from collections.abc import Sequence

from torch import Tensor

from tp4lib.activations import activation_of
from tp4lib.base.errors import InputError
from tp4lib.program.optimizers import SGD, Adam, optimizer_of
from tp4lib.program.training import Loss, Training, make_task, require, squared_loss
from tp4lib.program.world import Matrix, World, outer


def train_rnn(
    world: World,
    xi: Tensor,
    y: Tensor,
    *,
    activation: str = "tanh",
    lr: float = 0.1,
    steps: int = 4,
    std: Sequence[float] = (1.0, 1.0, 1.0),
    loss: Loss = squared_loss,
    momentum: float = 0.0,
    optimizer: str | SGD | Adam = "sgd",
    weight_decay: float = 0.0,
    batches: Sequence[Sequence[int]] | None = None,
) -> Training:
    r"""SGD on a simple recurrent network in muP: one matrix W, reused at every time and trained through time.

        h_k = W x_{k-1} + U xi_k,   x_k = phi(h_k),   x_0 = 0,   f = <v, x_K> / n
        dx_K = chi v,   dh_k = dx_k phi'(h_k),   dx_{k-1} = W^T dh_k
        v -= eta chi x_K,   U -= eta sum_k dh_k xi_k^T,   W -= eta sum_k dh_k x_{k-1}^T / n

    Source: Yang & Hu 2021, section 7 (the recipe covers any architecture; the paper does not run this one).

    Args:
        xi: (P, K, d_in) sequences. y: (P, d_out). std: of U, W and v. The rest as in `train_mlp`.

    Returns:
        `Training`, with the times 1 .. K in the place of layers.

    Raises:
        InputError: wrong shapes, names or numbers, too little memory, or a training that diverges.

    >>> import torch
    >>> from tp4lib.program import InfiniteWidth
    >>> xi, y = torch.ones(2, 3, 1, dtype=torch.float64), torch.tensor([[1.0], [-1.0]])
    >>> train_rnn(InfiniteWidth(1000), xi, y, steps=2).feature_kernels.shape
    torch.Size([3, 3, 2, 2])
    """
    if xi.dim() != 3:
        raise InputError(f"xi is {tuple(xi.shape)}; expected (P, K, d_in); try xi[..., None]")
    std = list(std) if hasattr(std, "__iter__") else [std] * 3
    if len(std) != 3:
        raise InputError(f"std has {len(std)} numbers; expected those of U, W and v; try std=(1, 1, 1)")
    rules = optimizer_of(optimizer, momentum, weight_decay)
    task = make_task(world, xi, y, activation, lr, steps, std, loss, rules, batches)
    (_, phi, slope, _), xi = activation_of(activation), task.xi
    times, steps, lr = xi.shape[1], task.steps, task.lr
    require(world, 1 + steps, times, len(xi))
    task.optimizer.require(world, matrices=1)
    U, W, v = (
        world.gaussian(task.std[0], count=xi.shape[2]),
        world.matrix(task.std[1]),
        world.gaussian(task.std[2], count=y.shape[1]),
    )
    of_U, of_W, of_v = task.rule(), task.rule(), task.rule()
    outputs, hs = [], []
    for step in range(steps + 1):
        h = [xi[:, 0] @ U]
        for k in range(1, times):
            h.append(W @ phi(h[-1]) + xi[:, k] @ U)
        x = [phi(h_k) for h_k in h]
        outputs.append(world.mean(x[-1], v))
        task.check(outputs)
        hs.append(h)
        if step == steps:
            break
        chi, inputs = task.chi(outputs[-1], step), task.pick(xi, step)
        dx, g_U, g_W = chi @ v, 0 * U, Matrix(world)
        for k in reversed(range(times)):
            dh = dx * slope(task.pick(h[k], step))
            g_U = g_U + inputs[:, k].T @ dh
            if k > 0:
                g_W = g_W + outer(dh, task.pick(x[k - 1], step))
                dx = W.T @ dh
        v = of_v.step(v, chi.T @ task.pick(x[-1], step))
        U, W = of_U.step(U, g_U), of_W.step(W, g_W)
    return task.finish(outputs, hs)
