"""First-order MAML over a whole meta-batch at once, without a weight matrix per task.

For each task, MAML takes a few gradient steps on the supports (rate epsilon), asks the adapted network about the
queries, and moves the *original* parameters along the query gradient; first-order MAML takes that gradient at the
adapted parameters, without differentiating the adaptation (Finn, Abbeel & Levine 2017; paper, section 9.2).

`LinearFOMAML` does it for the linear network ``f(x) = V (U x + alpha b)`` in inner products. `GeneralMAML` does it for
any module, first or second order, by `torch.func`.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, vmap

from tp4lib.base.errors import InputError
from tp4lib.data.omniglot import Batch
from tp4lib.linear_limit import LinearLimit


def clip_scale(norm: torch.Tensor, clip: float | None) -> torch.Tensor | float:
    """What to multiply a gradient of this norm by so that its norm is at most ``clip`` (None: 1)."""
    return 1.0 if clip is None else (clip / (norm + 1e-6)).clamp(max=1.0)


def query_accuracy(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Share of a task's queries that ``logits`` ``(T, Q, o)`` get right: ``(T,)`` in [0, 1].

    Raises:
        InputError: adaptation made logits that are not finite.
    """
    if not logits.isfinite().all():
        raise InputError(
            "the logits of a task are not finite after its adaptation; expected finite numbers; "
            "try a smaller --lr, --sigma-in or --sigma-out"
        )
    return (logits.argmax(-1) == batch.y[:, batch.supports :]).float().mean(1)


def _zero_sum(o: int) -> torch.Tensor:
    """Orthonormal columns that span the vectors of R^o whose entries sum to 0: ``(o, o - 1)``."""
    centred = torch.eye(o, dtype=torch.float64) - 1 / o
    return torch.linalg.qr(centred[:, : o - 1]).Q


class _Adapted(NamedTuple):
    """A meta-batch after adaptation; letters as in `LinearFOMAML`, for the last step."""

    logits: torch.Tensor  # of the queries, (T, Q, o)
    hidden: torch.Tensor  # before adaptation, (T, S + Q, k)
    p: torch.Tensor  # (T, S, o + S)
    v: torch.Tensor  # (T, o, o + S)
    Kq: torch.Tensor  # queries against supports, (T, Q, S)


class LinearFOMAML:
    """First-order MAML of a `LinearLimit` network, infinitely wide or not.

    A step on one task's supports X (S, d) with errors ``E = (softmax(f) - Y) / S`` changes U by the low-rank matrix
    ``-eps (E V)^T X`` and V by ``-eps E^T H``, ``H = X U^T + alpha b``. (Below, b is one more column of U, and alpha
    one more input.) So no weight matrix is ever held for a task.

    *One step, as in training.* With the class sums of errors ``B = E^T X`` of supports and ``B_q`` of queries, both
    (o, d), and ``D = B U^T``, all that is needed of a task is in

        f_q = X_q (V U - eps D U)^T - eps (X_q B^T) V (V - eps D)^T
        dU = (V - eps D)^T B_q,     dV = B_q U^T - eps B_q B^T V,

    three large products a meta-step (B U^T, D U, D^T B_q) with o rows a task, whatever the shots and queries; and since
    errors sum to 0 over classes, o - 1 rows are enough (`_zero_sum`).

    *Any number of steps.* The adapted readout, and what was added to the hidden layer, stay in the span of the o + S
    vectors ``Z = [V; H]``:

        V_s = v_s Z,            v_0 = [I, 0],   v_{s+1} = v_s - eps E_s^T h_s
        U_s = U - (p_s Z)^T X,  p_0 = 0,        p_{s+1} = p_s + eps E_s v_s
        H_s = h_s Z,            h_s = [0, I] - K p_s,       K = X X^T + alpha^2,
        f_s = h_s (Z Z^T) v_s^T,

    so that adapting is arithmetic on matrices of o + S rows, all tasks at once.

    Args:
        network: trained in place.
        inner_lr: epsilon.
        lr: outer rate.
        clip: the outer gradient, **summed** over tasks, is scaled down to this global norm.
        inner_steps: adaptation steps a task while training.

    Example:
        >>> from tp4lib.maml import omniglot, synthetic
        >>> tasks = omniglot.Tasks(synthetic.draw(classes=8, drawers=4))
        >>> learner = LinearFOMAML(LinearLimit(784, 5, sigma_out=1 / 32, bias_scale=1.0), lr=0.1)
        >>> bool(learner.outer_step(tasks.batch(32)) > 0)
        True
    """

    def __init__(
        self,
        network: LinearLimit,
        *,
        inner_lr: float = 0.4,
        lr: float = 0.1,
        clip: float | None = 0.5,
        inner_steps: int = 1,
    ) -> None:
        self.network = network
        self.inner_lr, self.lr, self.clip, self.inner_steps = inner_lr, lr, clip, inner_steps
        self._zero_sum = _zero_sum(network.d_out)

    @torch.no_grad()
    def outer_step(self, batch: Batch) -> torch.Tensor:
        """One meta-step on a batch of tasks; returns the mean query loss before it (a scalar, still on the device)."""
        loss, gradients = self._gradients(batch)
        norm = torch.stack([g.norm() for g in gradients]).norm()
        step = norm.new_tensor(-self.lr) * clip_scale(norm, self.clip)
        for parameter, g in zip(self._parameters(), gradients):
            parameter.addcmul_(g, step)  # one pass over memory, and no wait for a GPU
        return loss

    @torch.no_grad()
    def gradients(self, batch: Batch) -> list[torch.Tensor]:
        """First-order meta-gradient summed over the batch's tasks: of U, V and (where there is one) b."""
        return self._gradients(batch)[1]

    @torch.no_grad()
    def evaluate(self, batch: Batch, inner_steps: int = 1) -> torch.Tensor:
        """Query accuracy of each task after ``inner_steps`` steps of adaptation: ``(T,)`` in [0, 1]."""
        return query_accuracy(self.predict(batch, inner_steps), batch)

    @torch.no_grad()
    def predict(self, batch: Batch, inner_steps: int = 1) -> torch.Tensor:
        """Query logits of each task after adaptation: ``(T, Q, o)``."""
        return self._adapt(batch, inner_steps).logits

    def _parameters(self) -> list[torch.Tensor]:
        return [p for p in (self.network.U, self.network.V, self.network.b) if p is not None]

    def _adapt(self, batch: Batch, inner_steps: int) -> "_Adapted":
        net, S, T = self.network, batch.supports, len(batch.x)
        o, k, d = net.d_out, len(net.U), net.d_in
        hidden = net.hidden(batch.x.reshape(-1, d)).view(T, -1, k)  # the large product, (T, S + Q, k)
        H = hidden[:, :S]
        eye = torch.eye(o + S, device=hidden.device, dtype=hidden.dtype)
        y = eye[:o, :o][batch.y[:, :S]]

        # Inner products of supports and queries with the supports, K = <x, x'> + alpha^2, and of hidden with Z.
        K = torch.baddbmm(hidden.new_tensor(net.bias_scale**2), batch.x, batch.x[:, :S].mT)  # (T, S + Q, S)
        out = (hidden.view(-1, k) @ net.V.T).view(T, -1, o)
        C = torch.cat([out, torch.bmm(hidden, H.mT)], dim=2)  # (T, S + Q, o + S)
        VZ = torch.cat([(net.V @ net.V.T).expand(T, o, o), out[:, :S].mT], dim=2)
        gram = torch.cat([VZ, C[:, :S]], dim=1)  # Z Z^T, (T, o + S, o + S)
        Ks, Kq, Cq = K[:, :S], K[:, S:], C[:, S:]

        h0 = eye[o:].expand(T, S, o + S)
        v = eye[:o].expand(T, o, o + S)
        p = hidden.new_zeros(T, S, o + S)
        for _ in range(inner_steps):
            h = h0 - torch.bmm(Ks, p)
            E = (torch.softmax(torch.bmm(torch.bmm(h, gram), v.mT), dim=2) - y) / S
            p, v = p + self.inner_lr * torch.bmm(E, v), v - self.inner_lr * torch.bmm(E.mT, h)
        logits = torch.bmm(Cq - torch.bmm(Kq, torch.bmm(p, gram)), v.mT)
        return _Adapted(logits, hidden, p, v, Kq)

    def _gradients(self, batch: Batch) -> tuple[torch.Tensor, list[torch.Tensor]]:
        return self._after_one(batch) if self.inner_steps == 1 else self._after_several(batch)

    def _after_one(self, batch: Batch) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Mean query loss, and its first-order gradients summed over tasks, after one step of adaptation."""
        net, alpha = self.network, self.network.bias_scale
        U, V = net.U, net.V
        b = U.new_zeros(len(U)) if net.b is None else net.b
        support_x, support_y, query_x, query_y = batch
        T, o, k, d = len(batch.x), net.d_out, len(U), net.d_in
        P = self._zero_sum.to(U)  # (o, o - 1)
        W = P.T @ V
        before = torch.addmm(alpha * (V @ b), batch.x.reshape(-1, d), (V @ U).T).view(T, -1, o)

        # Of each task, P^T (-eps B) and P^T (-eps D), and their inner products: the adapted V is V + P D.
        e = (torch.softmax(before[:, : batch.supports], dim=2) @ P).sub_(P[support_y])
        e = e.mul_(-self.inner_lr / support_y.shape[1])
        B, beta = torch.bmm(e.mT, support_x), alpha * e.sum(1)  # (T, o - 1, d); (T, o - 1) for the bias
        DV = U.new_empty(T * (o - 1) + o, k)  # all tasks' D, and V below them
        D = torch.addmm(beta.view(-1, 1) * b, B.view(-1, d), U.T, out=DV[:-o])
        DV[-o:] = V
        DU, Db = (D @ U).view(T, o - 1, d), (D @ b).view(T, 1, o - 1)
        WW = (W @ W.T).add((D @ W.T).view(T, o - 1, o - 1).mT)
        K = torch.baddbmm(beta[:, None], query_x, B.mT, beta=alpha)  # (T, Q, o - 1)
        moved = torch.baddbmm(Db, query_x, DU.mT, beta=alpha).baddbmm_(K, WW)
        logits = before[:, batch.supports :] + moved @ P.T
        loss = F.cross_entropy(logits.reshape(-1, o), query_y.reshape(-1))

        e = (torch.softmax(logits, dim=2) @ P).sub_(P[query_y]).div_(query_y.shape[1])
        rows = U.new_empty(T * (o - 1) + o, d)  # all tasks' P^T B_q, and the sum of B_q below them
        Bq, beta_q = torch.bmm(e.mT, query_x, out=rows[:-o].view(T, o - 1, d)), alpha * e.sum(1)
        total, total_b = torch.mm(P, Bq.sum(0), out=rows[-o:]), P @ beta_q.sum(0)
        dU = DV.T @ rows
        inner = torch.addmm(torch.bmm(Bq, B.mT).sum(0), beta_q.T, beta)
        dV = torch.addmm(torch.outer(total_b, b), total, U.T).addmm_(P @ inner, W)
        if net.b is None:
            return loss, [dU, dV]
        return loss, [dU, dV, torch.cat([beta_q.view(-1), total_b]) @ DV]

    def _after_several(self, batch: Batch) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The same after any number of steps."""
        net, S = self.network, batch.supports
        o, k, d = net.d_out, len(net.U), net.d_in
        logits, hidden, p, v, Kq = self._adapt(batch, self.inner_steps)
        y = batch.y[:, S:]
        loss = F.cross_entropy(logits.reshape(-1, o), y.reshape(-1))
        eye = torch.eye(o, device=hidden.device, dtype=hidden.dtype)
        E = (torch.softmax(logits, dim=2) - eye[y]) / y.shape[1]  # (T, Q, o)

        # dU = sum_t (E V_t)^T X_q with V_t = v_t [V; H_t]; db is alpha times the sum of the same rows.
        Ev = torch.bmm(E, v)
        back = (Ev[:, :, :o] @ net.V).baddbmm_(Ev[:, :, o:], hidden[:, :S])  # (T, Q, k)
        dU = back.view(-1, k).T @ batch.x[:, S:].reshape(-1, d)
        # dV = sum_t E^T (hidden_q - Kq p_t [V; H_t]): one product with all hidden vectors.
        w = torch.bmm(E.mT, torch.bmm(Kq, p))  # (T, o, o + S)
        left = torch.cat([-w[:, :, o:].mT, E], dim=1).reshape(-1, o)  # (T (S + Q), o)
        dV = torch.addmm(-w[:, :, :o].sum(0) @ net.V, left.T, hidden.view(-1, k))
        gradients = [dU, dV]
        if net.b is not None:
            gradients.append(net.bias_scale * back.sum((0, 1)))
        return loss, gradients

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The network's parameters."""
        return self.network.state_dict()

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Put parameters from `state_dict` back."""
        self.network.load_state_dict(state)


class GeneralMAML:
    """MAML of any module, first or second order, the tasks of a meta-batch under `torch.func.vmap`.

    With parameters w, task losses ``L^s`` (supports) and ``L^q`` (queries), ``w' = w - eps grad L^s(w)`` (repeated),
    the outer gradient is ``sum_t grad L^q(w')``: with respect to w through the adaptation (second order), or with
    respect to w' itself (first order).

    Args:
        module: trained in place; called on ``(S, d)``, returning logits ``(S, o)``.
        first_order: False differentiates through the adaptation.
        inner_lr, lr, clip, inner_steps: as in `LinearFOMAML`.

    Example:
        >>> from tp4lib.maml import omniglot, synthetic
        >>> tasks = omniglot.Tasks(synthetic.draw(classes=8, drawers=4))
        >>> learner = GeneralMAML(nn.Sequential(nn.Linear(784, 16), nn.ReLU(), nn.Linear(16, 5)), lr=0.1)
        >>> learner.evaluate(tasks.batch(4), inner_steps=3).shape
        torch.Size([4])
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        first_order: bool = True,
        inner_lr: float = 0.4,
        lr: float = 0.1,
        clip: float | None = 0.5,
        inner_steps: int = 1,
    ) -> None:
        self.module, self.first_order = module, first_order
        self.inner_lr, self.lr, self.clip, self.inner_steps = inner_lr, lr, clip, inner_steps

    def outer_step(self, batch: Batch) -> torch.Tensor:
        """One meta-step on a batch of tasks; returns the mean query loss before it."""
        gradients, loss = self._gradients(batch)
        with torch.no_grad():
            norm = torch.stack([g.norm() for g in gradients.values()]).norm()
            step = -self.lr * clip_scale(norm, self.clip)
            for name, parameter in self.module.named_parameters():
                parameter.add_(gradients[name] * step)
        return loss

    def gradients(self, batch: Batch) -> list[torch.Tensor]:
        """Meta-gradient summed over the batch's tasks, in the order of ``module.parameters()``."""
        return list(self._gradients(batch)[0].values())

    def evaluate(self, batch: Batch, inner_steps: int = 1) -> torch.Tensor:
        """Query accuracy of each task after ``inner_steps`` steps of adaptation: ``(T,)`` in [0, 1]."""
        return query_accuracy(self.predict(batch, inner_steps), batch)

    def predict(self, batch: Batch, inner_steps: int = 1) -> torch.Tensor:
        """Query logits of each task after adaptation: ``(T, Q, o)``."""
        w = self._parameters()

        def one(xs: torch.Tensor, ys: torch.Tensor, xq: torch.Tensor) -> torch.Tensor:
            return functional_call(self.module, self._adapted(w, xs, ys, inner_steps), (xq,))

        support_x, support_y, query_x, _ = batch
        return vmap(one)(support_x, support_y, query_x)

    def _parameters(self) -> dict[str, torch.Tensor]:
        return {name: parameter.detach() for name, parameter in self.module.named_parameters()}

    def _loss(self, w: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(functional_call(self.module, w, (x,)), y)

    def _adapted(
        self, w: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor, steps: int
    ) -> dict[str, torch.Tensor]:
        for _ in range(steps):
            g = grad(self._loss)(w, x, y)
            w = {name: w[name] - self.inner_lr * g[name] for name in w}
        return w

    def _gradients(self, batch: Batch) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        def query_loss(
            w: dict[str, torch.Tensor], xs: torch.Tensor, ys: torch.Tensor, xq: torch.Tensor, yq: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            loss = self._loss(self._adapted(w, xs, ys, self.inner_steps), xq, yq)
            return loss, loss

        def one(
            xs: torch.Tensor, ys: torch.Tensor, xq: torch.Tensor, yq: torch.Tensor
        ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
            w = self._parameters()
            if not self.first_order:
                return grad(query_loss, has_aux=True)(w, xs, ys, xq, yq)
            adapted = self._adapted(w, xs, ys, self.inner_steps)
            return grad(self._loss)(adapted, xq, yq), self._loss(adapted, xq, yq)

        gradients, losses = vmap(one)(*batch)
        return {name: g.sum(0) for name, g in gradients.items()}, losses.mean()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The module's parameters and buffers."""
        return self.module.state_dict()

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Put parameters from `state_dict` back."""
        self.module.load_state_dict(state)
