"""The finite-width networks whose limit `tp4lib.pi_limit.network` computes: muP with projected gradients."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tp4lib.base.checks import real
from tp4lib.base.divergence import Watch

Loss = Callable[[Tensor, Tensor], Tensor]


def check_step(lr: float, clip: float | None, weight_decay: float) -> tuple[float, float | None, float]:
    """The numbers of a step of SGD, checked."""
    lr, decay = real("lr", lr, least=0, example=0.1), real("weight_decay", weight_decay, least=0, example=0)
    return lr, None if clip is None else real("clip", clip, above=0), decay


def default_loss(y: Tensor) -> Loss:
    """Cross-entropy where targets are labels; half the mean square distance, ``|f - y|^2 / 2``, to vectors."""
    if not y.is_floating_point():
        return F.cross_entropy
    return lambda f, y: (f - y).square().sum(-1).mean() / 2


class PiNetwork(nn.Module):
    r"""A width-n perceptron in muP, trained with projected gradients; `PiMLP.sample` draws one from a pi-limit.

        h^1 = W^1 x,   h^{l+1} = W^{l+1} phi(h^l),   f = V phi(h^L) / n        (multipliers and biases as in the limit)

    Each step of SGD replaces the gradients g of W^1, the W and the hidden biases by ``Omega (Omega^T Omega)^{-1}
    Omega^T g``. Every weight is an explicit matrix and autograd is torch's own, so this is also an independent check of
    the limit, approached like n^{-1/2}.

    Source: Yang, Santacroce & Hu 2022, section 3.

    Args:
        omega: ``(n, r)``, in float64. weights: W^1 ``(n, d)``, W^2 .. W^L ``(n, n)``, V ``(o, n)``.
        biases: of the first layers, as far as there are.
    """

    def __init__(
        self,
        omega: Tensor,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        phi: Callable[[Tensor], Tensor],
        multipliers: Sequence[float],
        bias_scale: float,
    ) -> None:
        super().__init__()
        self.width, self.phi = len(omega), phi
        self.multipliers, self.bias_scale = multipliers, bias_scale
        self.register_buffer("omega", omega.to(weights[0]))
        # Omega = Q R, so that the projection is Q Q^T.
        self.register_buffer("Q", torch.linalg.qr(omega).Q.to(weights[0]))
        self.weights, self.biases = nn.ParameterList(weights), nn.ParameterList(biases)
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
