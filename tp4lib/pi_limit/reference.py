"""One step of training in the pi-limit, to be read beside the equations; `tp4lib.pi_limit.network` is the fast one."""

import torch
from torch import Tensor

from tp4lib.activations import Dual


def pi_step(
    U: Tensor, layers: list[tuple[Tensor, Tensor]], x: Tensor, y: Tensor, lr: float, kernel: Dual
) -> tuple[Tensor, list[tuple[Tensor, Tensor]], Tensor]:
    r"""One step of SGD on an infinitely wide network: its loss is half the mean square distance.

        g^1 = U x,   g^{l+1} = sum_i A^l_i K(B^l_i, g^l),   f = g^{L+1}
        U <- U - eta dL/dU,   and layer l gets the rows  B = g^l,  A = -eta dL/dg^{l+1}  of every sample

    Source: Yang, Santacroce & Hu 2022, section 3.

    Args:
        U: ``(r, d)``. layers: of layers 2 .. L + 1, A ``(rows, r or o)`` and B ``(rows, r)``.
        x: ``(b, d)``. y: ``(b, o)``. lr: eta. kernel: K.

    Returns:
        U and layers after the step, the loss before it.
    """
    U = U.detach().requires_grad_()
    g = [x @ U.T]  # (b, r)
    for A, B in layers:
        g.append(kernel(g[-1], B) @ A)
    loss = (g[-1] - y).square().sum(1).mean() / 2
    dU, *dg = torch.autograd.grad(loss, [U, *g[1:]])
    grown = [(torch.cat([A, -lr * d]), torch.cat([B, b.detach()])) for (A, B), b, d in zip(layers, g, dg)]
    return (U - lr * dU).detach(), grown, loss.detach()
