"""The finite-width networks whose limit `tp4lib.pi_limit.network` computes: muP with projected gradients."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tp4lib.base import checks
from tp4lib.base.checks import whole
from tp4lib.base.device import require_memory
from tp4lib.base.divergence import Watch
from tp4lib.pi_limit.network import Loss, PiMLP, check_step, default_loss


class PiNetwork(nn.Module):
    r"""A width-n perceptron in muP, drawn from a pi-limit and trained with projected gradients.

        h^1 = W^1 x,   h^{l+1} = W^{l+1} phi(h^l),   f = V phi(h^L) / n        (multipliers and biases as in the limit)

    Start: with Gaussian Omega (n, r), ``W^1 = Omega U``, ``W = Omega A^T phi(B Omega^T) / n`` of the limit's rows, and
    ``V = A^T phi(B Omega^T)``. Each step of SGD replaces the gradients g of W^1, the W and the hidden biases by
    ``Omega (Omega^T Omega)^{-1} Omega^T g``. Every weight is an explicit matrix and autograd is torch's own, so this is
    also an independent check of the limit, approached like n^{-1/2}.

    Source: Yang, Santacroce & Hu 2022, section 3.

    Args:
        limit: drawn from, in its present state.
        width: n, at least the rank.
        seed: of Omega.

    Raises:
        InputError: a width below the rank, or matrices that do not fit in memory.

    Example:
        >>> PiMLP(d_in=3, d_out=2, rank=4, depth=2).sample(width=50)(torch.ones(5, 3)).shape
        torch.Size([5, 2])
    """

    def __init__(self, limit: PiMLP, width: int, seed: int = 0) -> None:
        super().__init__()
        width = whole("width", width, least=limit.rank, example=4 * limit.rank)
        seed = checks.seed(seed)
        like, rows = limit.U, sum(len(layer) for layer in limit.layers)
        needed = like.itemsize * width * (width * (limit.depth - 1) + 2 * limit.d_in + limit.rank + rows)
        require_memory(3 * needed, like.device, f"a pi-network of width {width}", "choose a smaller width")
        self.width, self.phi = width, limit.kernel.phi
        self.multipliers, self.bias_scale = limit.multipliers, limit.bias_scale
        generator = torch.Generator().manual_seed(seed)
        omega = torch.randn(width, limit.rank, generator=generator, dtype=torch.float64)
        self.register_buffer("omega", omega.to(like))
        # Omega = Q R: projecting is Q Q^T.
        self.register_buffer("Q", torch.linalg.qr(omega).Q.to(like))
        with torch.no_grad():
            matrices = [self.omega @ limit.U]
            for layer in limit.layers:
                features = self.phi(self.omega @ layer.B.T)  # (n, rows)
                matrices.append((features @ layer.A).T)
            matrices[1:-1] = [self.omega @ matrix / width for matrix in matrices[1:-1]]
            depth = limit.depth
            biases = [self.omega @ b for b in limit.biases[:depth]] + [
                b.clone() for b in limit.biases[depth:]
            ]
        self.weights = nn.ParameterList(matrices)
        self.biases = nn.ParameterList(biases)
        self._watch = Watch()

    def preactivations(self, x: Tensor) -> list[Tensor]:
        """h^1, .., h^L, each ``(b, n)``, and f ``(b, o)``."""
        h: list[Tensor] = []
        for index, (weight, alpha) in enumerate(zip(self.weights, self.multipliers)):
            out = alpha * F.linear(self.phi(h[-1]) if h else x, weight)
            if index == len(self.weights) - 1:
                out = out / self.width
            h.append(out + self.bias_scale * self.biases[index] if index < len(self.biases) else out)
        return h

    def forward(self, x: Tensor) -> Tensor:
        """``(b, d) -> (b, o)``."""
        return self.preactivations(x)[-1]

    def loss_step(
        self,
        x: Tensor,
        y: Tensor,
        lr: float,
        *,
        loss: Loss | None = None,
        clip: float | None = None,
        weight_decay: float = 0.0,
    ) -> Tensor:
        """One step of projected SGD, with the arguments and errors of `tp4lib.pi_limit.network.PiMLP.loss_step`."""
        lr, clip, weight_decay = check_step(lr, clip, weight_decay)
        loss = loss or default_loss(y)
        with torch.enable_grad():
            f = self(x)
            value = loss(f, y)
            parameters = [*self.weights, *self.biases]
            gradients = torch.autograd.grad(value, parameters)
        self._watch(value.detach(), loss(torch.zeros_like(f), y), len(x), f"try a smaller lr than {lr}")
        with torch.no_grad():
            # muP: the rate is n where the width is one of a matrix's two dimensions (or a bias), 1 where it is both.
            count, n = len(self.weights), float(self.width)
            rates = [n if index in (0, count - 1) else 1.0 for index in range(count)]
            rates += [1.0 if index == count - 1 else n for index in range(len(self.biases))]
            unprojected = {count - 1, 2 * count - 1}  # the readout and its bias
            gradients = [g if i in unprojected else self.Q @ (self.Q.T @ g) for i, g in enumerate(gradients)]
            step = -lr
            if clip is not None:
                square = sum(rate * g.square().sum() for rate, g in zip(rates, gradients))
                step = step * (clip / (square.sqrt() + 1e-12)).clamp(max=1.0)
            for index, (parameter, rate, g) in enumerate(zip(parameters, rates, gradients)):
                if weight_decay and index < count:
                    parameter.mul_(1 - lr * weight_decay)
                parameter.add_(step * rate * g)
        return value.detach()

    def extra_repr(self) -> str:
        return f"width={self.width}, rank={self.omega.shape[1]}"
