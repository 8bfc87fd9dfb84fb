"""First-order MAML of nonlinear infinitely wide networks, in the pi-limit."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tp4lib.activations import activation_of
from tp4lib.data.few_shot import Batch
from tp4lib.data.omniglot import SIZE
from tp4lib.maml.learner import Learner
from tp4lib.maml.models import Hyperparameters
from tp4lib.pi_limit.network import PiMLP

HYPERPARAMETERS = Hyperparameters(lr=1.0, sigma_in=0.2, sigma_out=0.0, bias_scale=1.0)
"""Best by validation of about 20 tried at rank 100 and depth 1, for 300 to 4,000 meta-steps."""

MAX_ROWS = 6000
"""Bound on the rows of each layer above the first, which would grow with every meta-step."""


def pi_learner(
    rank: int = 400,
    depth: int = 1,
    activation: str = "relu",
    ways: int = 5,
    seed: int = 0,
    chosen: Hyperparameters | None = None,
    device: torch.device | str | None = None,
) -> "PiFOMAML":
    """An untrained learner in the pi-limit."""
    s = chosen or HYPERPARAMETERS
    network = PiMLP(
        SIZE * SIZE, ways, rank, depth, activation,
        sigma_in=s.sigma_in, sigma_hidden=1.0 if activation_of(activation).name == "identity" else 4.0,
        sigma_out=s.sigma_out,
        bias_scale=s.bias_scale, max_rows=MAX_ROWS, seed=seed, device=device,
    )  # fmt: skip
    return PiFOMAML(network, lr=s.lr, inner_lr=s.inner_lr)


class _Own(NamedTuple):
    """What adaptation added to a task's network: to U (and b^1) along the supports, and rows to every later layer."""

    first: Tensor  # (T, S, r): U_t = U + sum_s first_s x_s^T
    B: list[Tensor]  # of layers 2..L+1, (T, rows, r)
    A: list[Tensor]  # (T, rows, columns)
    shift: list[Tensor]  # of their biases, (T, 1, columns)


class PiFOMAML(Learner):
    """First-order MAML of a `PiMLP`, all tasks of a meta-batch at once.

    Adapting appends rows, as any step of SGD does, but to a task's own list: with supports s and errors
    ``chi_s = dL/df_s``,

        f_t(x) = f(x) - eps sum_s chi_s K(g_s, g(x))        (readout; likewise for hidden layers)

    so a task costs (rows of its own) x (queries) kernel values, and no matrix. The outer step appends rows to the
    common lists, at the adapted g and dL/dg of the queries.

    Labels are assigned to characters at random, task by task, so the readout's outer gradient is 0 on average: what
    there is to learn is in the layers below. With ``learn_readout=False`` (and no rows to start with) the common
    readout stays 0, as in the experiments of the source; a network of one hidden layer then has no common rows at all,
    and 10,000 meta-steps cost as much memory as one.

    Source: Yang, Santacroce & Hu 2022, section 5 (MAML with pi-limits); Finn, Abbeel & Levine 2017.

    Example:
        >>> from tp4lib.data import drawn_characters, omniglot
        >>> tasks = omniglot.Tasks(drawn_characters.draw(classes=8, drawers=4))
        >>> learner = pi_learner(rank=20)
        >>> learner.outer_step(tasks.batch(32)).shape, learner.evaluate(tasks.batch(3), inner_steps=20).shape
        (torch.Size([]), torch.Size([3]))
    """

    def __init__(
        self, network: PiMLP, *, learn_readout: bool = False, lr: float = 0.4, **rates: float | None
    ) -> None:
        super().__init__(network, lr=lr, **rates)
        self.learn_readout = learn_readout

    def outer_step(self, batch: Batch) -> Tensor:
        net, S, T = self.network, batch.supports, len(batch.x)
        x, y = batch.x[:, S:], batch.y[:, S:]
        own = self._adapt(batch, self.inner_steps)
        with torch.enable_grad():
            g = self._forward(x, own, batch.x[:, :S])  # own is held fixed: first order
            loss = F.cross_entropy(g[-1].flatten(0, 1), y.flatten(), reduction="sum") / y.shape[1]
            found = [part.flatten(0, 1) for part in torch.autograd.grad(loss, g)]
        g = [part.detach().flatten(0, 1) for part in g]
        with torch.no_grad():
            # found[l] = dL/dg^(l+1), summed over tasks and queries, which the layer below turns into its gradient.
            dU = net.multipliers[0] * found[0].T @ x.flatten(0, 1)
            # Hidden layers get new rows: g of the layer below (B) with coefficients alpha dL/dg (A).
            last = net.depth if self.learn_readout else net.depth - 1
            db = [net.bias_scale * part.sum(0) for part in found[: min(last + 1, len(net.biases))]]
            B, A = g[:last], [alpha * part for alpha, part in zip(net.multipliers[1:], found[1 : last + 1])]
            # Clipped by the norm of the infinite network's gradient.
            step = -self.lr * self.clip_scale(net.norm((dU, *db), A, B))
            net.U.add_(step * dU)
            for parameter, gradient in zip(net.biases, db):
                parameter.add_(step * gradient)
            for layer, b, a in zip(net.layers, B, A):
                layer.append(b, step * a)
        return loss.detach() / T

    @torch.no_grad()
    def predict(self, batch: Batch, inner_steps: int = 1) -> Tensor:
        S = batch.supports
        return self._forward(batch.x[:, S:], self._adapt(batch, inner_steps), batch.x[:, :S])[-1]

    def _adapt(self, batch: Batch, steps: int) -> _Own:
        net, (T, _, _), S = self.network, batch.x.shape, batch.supports
        x, y = batch.x[:, :S], batch.y[:, :S]
        sizes = [net.rank] * (net.depth - 1) + [net.d_out]
        own = _Own(  # nothing yet: no rows, no shifts
            x.new_zeros(T, S, net.rank),
            [x.new_zeros(T, 0, net.rank) for _ in sizes],
            [x.new_zeros(T, 0, size) for size in sizes],
            [x.new_zeros(T, 1, size) for size in sizes],
        )
        for _ in range(steps):
            with torch.enable_grad():
                g = self._forward(x, own, x)
                loss = F.cross_entropy(g[-1].flatten(0, 1), y.flatten(), reduction="sum") / S
                # -eps dL/dg of every layer; each appends what a step of SGD appends, to the task's own list.
                found = [-self.inner_lr * part for part in torch.autograd.grad(loss, g)]
            later = list(zip(net.multipliers[1:], found[1:]))
            own = _Own(
                own.first + found[0],
                [torch.cat([old, part.detach()], dim=1) for old, part in zip(own.B, g)],
                [torch.cat([old, alpha * part], dim=1) for old, (alpha, part) in zip(own.A, later)],
                [
                    old + net.bias_scale**2 * part.sum(1, keepdim=True)  # alpha in the gradient, and in g
                    for old, (_, part) in zip(own.shift, later)
                ],
            )
        return own

    def _forward(self, x: Tensor, own: _Own, supports: Tensor) -> list[Tensor]:
        """g^1, .., g^L, f of the adapted networks: inputs ``(T, m, d)`` -> ``(T, m, r or o)`` each."""
        net, T = self.network, len(x)
        alpha, beta = net.multipliers, net.bias_scale
        inner = torch.bmm(x, supports.mT) * alpha[0] ** 2 + beta**2  # U and b^1 in one
        g = [alpha[0] * (x @ net.U.T) + torch.bmm(inner, own.first)]
        if beta:
            g[0] = g[0] + beta * net.biases[0]
        for index, layer in enumerate(net.layers):
            B, A = own.B[index], own.A[index]
            out = layer(g[-1].flatten(0, 1)).view(T, -1, layer.d_out) if len(layer) else 0
            # The common rows, and the task's own: sum_s A_s K(B_s, g).
            out = alpha[index + 1] * (out + torch.bmm(net.kernel(g[-1], B), A))
            if index + 1 < len(net.biases):  # the readout may have none
                out = out + own.shift[index] + beta * net.biases[index + 1]
            g.append(out)
        return g
