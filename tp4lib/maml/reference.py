"""MAML as it is written down, for any module: what the fast engines are tested against.

With parameters w, rate epsilon, support loss ``L^s_t`` and query loss ``L^q_t`` of task t (Finn, Abbeel & Levine 2017;
paper, section 9.2):

    inner:  w_t <- w_t - eps grad L^s_t(w_t),    from w_t = w, a few times
    outer:  w   <- w - lr c sum_t g_t,           c = min(1, clip / |sum_t g_t|)

    first order:   g_t = (grad L^q_t)(w_t)       the adaptation is not differentiated
    second order:  g_t = d/dw L^q_t(w_t(w))      it is
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, vmap

from tp4lib.data.few_shot import Batch
from tp4lib.maml.learner import Learner

Parameters = dict[str, Tensor]


class ReferenceMAML(Learner):
    """MAML of any module, first or second order, the tasks of a meta-batch under `torch.func.vmap`.

    The network is called on ``(S, d)``, returning logits ``(S, o)``; second order differentiates the adaptation.

    Example:
        >>> from tp4lib.data import drawn_characters, omniglot
        >>> tasks = omniglot.Tasks(drawn_characters.draw(classes=8, drawers=4))
        >>> network = nn.Sequential(nn.Linear(784, 16), nn.ReLU(), nn.Linear(16, 5))
        >>> ReferenceMAML(network, lr=0.1).evaluate(tasks.batch(4), inner_steps=3).shape
        torch.Size([4])
    """

    def __init__(self, network: nn.Module, *, first_order: bool = True, **rates: float | None) -> None:
        super().__init__(network, **rates)
        self.first_order = first_order

    def loss(self, w: Parameters, x: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy of one task's images ``x`` ``(m, d)`` with labels ``y`` ``(m,)``."""
        return F.cross_entropy(functional_call(self.network, w, (x,)), y)

    def inner_step(self, w: Parameters, x: Tensor, y: Tensor) -> Parameters:
        """``w - eps grad L^s(w)``."""
        g = grad(self.loss)(w, x, y)
        return {name: w[name] - self.inner_lr * g[name] for name in w}

    def adapt(self, w: Parameters, x: Tensor, y: Tensor, steps: int) -> Parameters:
        for _ in range(steps):
            w = self.inner_step(w, x, y)
        return w

    def outer_step(self, batch: Batch) -> Tensor:
        gradients, loss = self._gradients(batch)
        with torch.no_grad():
            norm = torch.stack([g.norm() for g in gradients.values()]).norm()
            for name, parameter in self.network.named_parameters():
                parameter.sub_(self.lr * self.clip_scale(norm) * gradients[name])
        return loss

    def gradients(self, batch: Batch) -> list[Tensor]:
        """Meta-gradient summed over the batch's tasks, in the order of ``network.parameters()``."""
        return list(self._gradients(batch)[0].values())

    def predict(self, batch: Batch, inner_steps: int = 1) -> Tensor:

        def one(xs: Tensor, ys: Tensor, xq: Tensor) -> Tensor:
            return functional_call(self.network, self.adapt(self._parameters(), xs, ys, inner_steps), (xq,))

        support_x, support_y, query_x, _ = batch
        return vmap(one)(support_x, support_y, query_x)

    def _parameters(self) -> Parameters:
        return {name: parameter.detach() for name, parameter in self.network.named_parameters()}

    def _gradients(self, batch: Batch) -> tuple[Parameters, Tensor]:
        def one(xs: Tensor, ys: Tensor, xq: Tensor, yq: Tensor) -> tuple[Parameters, Tensor]:
            def adapted_loss(w: Parameters) -> Tensor:
                return self.loss(self.adapt(w, xs, ys, self.inner_steps), xq, yq)

            w = self._parameters()
            if self.first_order:  # adapt, then differentiate at the adapted parameters
                return grad_and_value(self.loss)(self.adapt(w, xs, ys, self.inner_steps), xq, yq)
            return grad_and_value(adapted_loss)(w)

        gradients, losses = vmap(one)(*batch)
        return {name: g.sum(0) for name, g in gradients.items()}, losses.mean()
