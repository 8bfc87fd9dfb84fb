"""First-order MAML over a whole meta-batch at once, without a weight matrix per task, of the linear network.

`tp4lib.maml.reference` has the algorithm in plain code, which this engine is tested against.
Source: Finn, Abbeel & Levine 2017; paper, section 9.2.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from tp4lib.data.few_shot import Batch
from tp4lib.linear_limit import LinearLimit
from tp4lib.maml.learner import Learner


class LinearFOMAML(Learner):
    """First-order MAML of a `LinearLimit` network, infinitely wide or not.

    A step on one task's supports X (S, d) with errors ``E = (softmax(f) - Y) / S`` changes U by the low-rank matrix
    ``-eps (E V)^T X`` and V by ``-eps E^T H``, ``H = X U^T + alpha b``. (Below, b is one more column of U, and alpha
    one more input.) So no weight matrix is ever held for a task.

    *One step, as in training.* With the class sums of errors ``B = E^T X`` of supports and ``B_q`` of queries, both
    (o, d), and ``D = B U^T``, the adapted network is one matrix A (o, d), and all that is needed of a task is in

        A = (V - eps D) (U - eps V^T B) = V U - eps D U - eps (V - eps D) V^T B,   f_q = X_q A^T,
        dU = (V - eps D)^T B_q,     dV = B_q (U - eps V^T B)^T,

    three large products a meta-step (B U^T, D U, D^T B_q) with o rows a task, whatever the shots and queries; and since
    errors sum to 0 over classes, o - 1 rows are enough.

    *Any number of steps.* The adapted readout, and what was added to the hidden layer, stay in the span of the o + S
    vectors ``Z = [V; H]``:

        V_s = v_s Z,            v_0 = [I, 0],   v_{s+1} = v_s - eps E_s^T h_s
        U_s = U - (p_s Z)^T X,  p_0 = 0,        p_{s+1} = p_s + eps E_s v_s
        H_s = h_s Z,            h_s = [0, I] - K p_s,       K = X X^T + alpha^2,
        f_s = h_s (Z Z^T) v_s^T,

    so that adapting is arithmetic on matrices of o + S rows, all tasks at once.

    Example:
        >>> from tp4lib.data import drawn_characters, omniglot
        >>> tasks = omniglot.Tasks(drawn_characters.draw(classes=8, drawers=4))
        >>> learner = LinearFOMAML(LinearLimit(784, 5, sigma_out=1 / 32, bias_scale=1.0), lr=0.1)
        >>> bool(learner.outer_step(tasks.batch(32)) > 0)
        True
    """

    recordable = True

    def __init__(self, network: LinearLimit, **rates: float | None) -> None:
        super().__init__(network, **rates)
        o = network.d_out
        # P (o, o - 1): orthonormal columns that span the vectors of R^o whose entries sum to 0, as errors do.
        self._P = torch.linalg.qr((torch.eye(o, dtype=torch.float64) - 1 / o)[:, : o - 1]).Q

    @torch.no_grad()
    def outer_step(self, batch: Batch) -> Tensor:
        loss, gradients = self._loss_and_gradients(batch)
        norm = torch.stack([g.norm() for g in gradients]).norm()
        # Made on the device: copying a number there would wait for all that is queued.
        step = torch.full_like(norm, -self.lr) * self.clip_scale(norm)
        net = self.network
        parameters = [net.U, net.V] if net.b is None else [net.U, net.V, net.b]
        for parameter, g in zip(parameters, gradients):
            parameter.addcmul_(g, step)  # one pass over memory
        return loss

    @torch.no_grad()
    def gradients(self, batch: Batch) -> list[Tensor]:
        """First-order meta-gradient summed over the batch's tasks: of U, V and (where there is one) b."""
        return self._loss_and_gradients(batch)[1]

    @torch.no_grad()
    def predict(self, batch: Batch, inner_steps: int = 1) -> Tensor:
        return self._adapt(batch, inner_steps)[0]

    def _adapt(self, batch: Batch, inner_steps: int) -> tuple[Tensor, ...]:
        """Query logits (T, Q, o); then hidden vectors before adaptation, the last p and v, and the queries' K."""
        net, S, T = self.network, batch.supports, len(batch.x)
        o, k, d = net.d_out, len(net.U), net.d_in
        # U x + alpha b, the one product with U: (T, S + Q, k)
        hidden = net.hidden(batch.x.reshape(-1, d)).view(T, -1, k)
        H = hidden[:, :S]
        eye = torch.eye(o + S, device=hidden.device, dtype=hidden.dtype)
        y = eye[:o, :o][batch.y[:, :S]]  # one-hot labels

        # Inner products of supports and queries with the supports, K = <x, x'> + alpha^2, and of hidden with Z.
        K = torch.baddbmm(hidden.new_full((), net.bias_scale**2), batch.x, batch.x[:, :S].mT)  # (T, S + Q, S)
        out = (hidden.view(-1, k) @ net.V.T).view(T, -1, o)
        C = torch.cat([out, torch.bmm(hidden, H.mT)], dim=2)  # (T, S + Q, o + S)
        VZ = torch.cat([(net.V @ net.V.T).expand(T, o, o), out[:, :S].mT], dim=2)
        gram = torch.cat([VZ, C[:, :S]], dim=1)  # Z Z^T, (T, o + S, o + S)
        Ks, Kq, Cq = K[:, :S], K[:, S:], C[:, S:]

        h0 = eye[o:].expand(T, S, o + S)  # [0, I]
        v = eye[:o].expand(T, o, o + S)  # [I, 0]
        p = hidden.new_zeros(T, S, o + S)  # nothing is added to U yet
        for _ in range(inner_steps):
            h = h0 - torch.bmm(Ks, p)  # H_s = h_s Z
            # Logits of the supports h_s (Z Z^T) v_s^T: no vector of k numbers is touched in the loop.
            E = (torch.softmax(torch.bmm(torch.bmm(h, gram), v.mT), dim=2) - y) / S
            # p_{s+1} = p_s + eps E_s v_s and v_{s+1} = v_s - eps E_s^T h_s, both from the values before the step.
            p, v = p + self.inner_lr * torch.bmm(E, v), v - self.inner_lr * torch.bmm(E.mT, h)
        # The queries' hidden vectors are not in the span of Z; their inner products with Z are C - K p (Z Z^T).
        logits = torch.bmm(Cq - torch.bmm(Kq, torch.bmm(p, gram)), v.mT)
        return logits, hidden, p, v, Kq

    def _loss_and_gradients(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        """Mean query loss after adaptation, and its first-order gradients summed over tasks."""
        return self._after_one(batch) if self.inner_steps == 1 else self._after_several(batch)

    def _after_one(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        """After one step, with the class's letters: a matrix with o - 1 rows stands for P times itself."""
        net, alpha = self.network, self.network.bias_scale
        U, b = net.U, net.U.new_zeros(len(net.U)) if net.b is None else net.b
        support_x, support_y, query_x, query_y = batch
        T, r, k, d = len(batch.x), net.d_out - 1, len(U), net.d_in
        self._P = P = self._P.to(U)  # moves it once: doing so in every step would wait for a GPU
        W = P.T @ net.V  # (r, k): all of V that errors, which sum to 0, can see
        # Before adaptation, f(x) = P (W U x + alpha W b) but for what all classes share.
        WU, Wb = W @ U, W @ b

        # Adapt. Errors sum to 0 over classes, so e holds E: here -eps E = e P^T, (T, S, r).
        e = self._errors(torch.matmul(support_x, WU.T).add_(alpha * Wb) @ P.T, support_y).mul_(-self.inner_lr)
        # -eps times B = E^T X, its column for the constant input alpha (beta), and D = B U^T + beta b. Written into
        # one matrix of all tasks' D with W below them, for one product with both further down.
        B, beta = torch.bmm(e.mT, support_x), alpha * e.sum(1)  # (T, r, d); (T, r)
        DW = U.new_empty((T + 1) * r, k)
        D = torch.addmm(torch.outer(beta.view(-1), b), B.view(-1, d), U.T, out=DW[:-r])
        DW[-r:] = W
        # The task's network is now W + D, U + W^T B, b + W^T beta. Multiplied out, its logits are P (A x + alpha a):
        #   A = (W + D) (U + W^T B),  a = (W + D) (b + W^T beta).
        left = (D @ W.T).view(T, r, r) + W @ W.T  # (W + D) W^T
        A = torch.baddbmm((D @ U).view(T, r, d), left, B).add_(WU)
        a = torch.baddbmm((D @ b).view(T, r, 1), left, beta[:, :, None]).add_(Wb[:, None])
        logits = torch.baddbmm(a.mT, query_x, A.mT, beta=alpha) @ P.T  # (T, Q, o)
        loss = F.cross_entropy(logits.reshape(-1, r + 1), query_y.reshape(-1))

        # Learn. The queries' errors at the adapted network, and B_q = E_q^T X_q with its column for the bias.
        e = self._errors(logits, query_y)
        rows = U.new_empty((T + 1) * r, d)  # all tasks' B_q, and sum_t B_q below them: the order of DW
        Bq, beta_q = torch.bmm(e.mT, query_x, out=rows[:-r].view(T, r, d)), alpha * e.sum(1)
        total, total_b = torch.sum(Bq, 0, out=rows[-r:]), beta_q.sum(0)
        dU = DW.T @ rows  # sum_t (W + D)^T B_q
        # dW = sum_t B_q (U + W^T B)^T, the bias included: what the tasks share, and (sum_t B_q B^T) W.
        inner = torch.addmm(torch.bmm(Bq, B.mT).sum(0), beta_q.T, beta)
        dV = P @ torch.addmm(torch.outer(total_b, b), total, U.T).addmm_(inner, W)
        if net.b is None:
            return loss, [dU, dV]
        return loss, [dU, dV, torch.cat([beta_q.view(-1), total_b]) @ DW]

    def _errors(self, logits: Tensor, y: Tensor) -> Tensor:
        """``(softmax(f) - Y) P / S`` of logits (T, S, o): each image's error in o - 1 numbers."""
        return (torch.softmax(logits, dim=2) @ self._P).sub_(self._P[y]).div_(y.shape[1])

    def _after_several(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
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
        w = torch.bmm(E.mT, torch.bmm(Kq, p))  # (T, o, o + S), coefficients of V and of H
        left = torch.cat([-w[:, :, o:].mT, E], dim=1).reshape(-1, o)  # supports, then queries: (T (S + Q), o)
        dV = torch.addmm(-w[:, :, :o].sum(0) @ net.V, left.T, hidden.view(-1, k))
        gradients = [dU, dV]
        return loss, gradients if net.b is None else [*gradients, net.bias_scale * back.sum((0, 1))]
