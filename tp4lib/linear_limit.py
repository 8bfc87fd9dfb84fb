"""The exact muP limit of a linear network with one hidden layer, and networks of every width drawn from it."""

import math

import torch
from torch import nn

from tp4lib.base import checks
from tp4lib.base.checks import real, whole
from tp4lib.base.device import require_memory, resolve_optional


class LinearLimit(nn.Module):
    """A linear network ``f(x) = V (U x + alpha b)``, infinitely wide, held as finite coefficients.

    The width-n muP network has only d + o vectors of length n, the columns of ``U_n`` and the rows of ``V_n``, and SGD
    moves each of them inside their common span. In the basis ``omega`` (n, d + o) of their initial Gaussian directions,
    with entries N(0, 1/n),

        U_n = omega U,  V_n = V omega^T,  b_n = omega b,
        U = [sigma_in I; 0]  (d + o, d),  V = [0, sigma_out I]  (o, d + o),  b = 0.

    As n grows ``omega^T omega`` tends to I, so that ``V_n U_n x`` becomes ``V U x``, and a gradient step on
    ``(U_n, V_n, b_n)`` becomes the same gradient step on the coefficients ``(U, V, b)``: training this module by SGD
    **is** training the infinitely wide network (`sgd_step` is that step by hand). The hidden bias is initialized to 0
    and its gradient ``alpha V^T df`` lies in the span of V's directions, so it needs no direction of its own.

    Source: Yang & Hu 2021, section 6 and Theorem 6.1 (the muP limit of a 1-hidden-layer linear network) and
    section 9.2 (its use in MAML, with ``alpha`` on the bias).

    Args:
        d_in, d_out: d and o.
        sigma_in, sigma_out: sqrt(n) times the initial standard deviations of the entries of ``U_n`` and ``V_n``.
        bias_scale: alpha; 0 leaves the bias out.

    Attributes:
        U (k, d), V (o, k), b (k,) or None: the parameters, k = d + o columns in the limit.
        width: ``math.inf``, or the width of the network that this one equals.

    Example:
        >>> f = LinearLimit(d_in=3, d_out=2, sigma_in=1.0, sigma_out=0.5, bias_scale=1.0)
        >>> f(torch.ones(4, 3)).shape, f.U.shape
        (torch.Size([4, 2]), torch.Size([5, 3]))
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        sigma_in: float = 1.0,
        sigma_out: float = 1.0,
        bias_scale: float = 0.0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        d_in, d_out = whole("d_in", d_in), whole("d_out", d_out, example=1)
        dtype, device = checks.floating("dtype", dtype), resolve_optional(device)
        self.d_in, self.d_out = d_in, d_out
        self.sigma_in = real("sigma_in", sigma_in, least=0)
        self.sigma_out = real("sigma_out", sigma_out, least=0)
        self.bias_scale = real("bias_scale", bias_scale, least=0)
        self.width: float = math.inf
        U = torch.zeros(d_in + d_out, d_in, device=device, dtype=dtype)
        V = torch.zeros(d_out, d_in + d_out, device=device, dtype=dtype)
        U[:d_in].fill_diagonal_(sigma_in)
        V[:, d_in:].fill_diagonal_(sigma_out)
        self._set(U, V)

    def _set(self, U: torch.Tensor, V: torch.Tensor) -> None:
        self.U, self.V = nn.Parameter(U), nn.Parameter(V)
        self.b = nn.Parameter(U.new_zeros(len(U))) if self.bias_scale != 0 else None

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        """Hidden features ``U x + alpha b``: ``(..., d)`` -> ``(..., k)``.

        Their inner products are those of the network's own hidden vectors, divided by nothing: in the limit
        ``<h(x), h(x')>`` is the feature kernel ``lim |h|^2``.
        """
        h = x @ self.U.T
        return h if self.b is None else h + self.bias_scale * self.b

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs: ``(..., d)`` -> ``(..., o)``."""
        return self.hidden(x) @ self.V.T

    @torch.no_grad()
    def sample(self, width: int, seed: int = 0, *, reduce: bool = True) -> "LinearLimit":
        """Draw the width-n muP network with this limit: ``U_n = omega U``, ``V_n = V omega^T``, ``b_n = omega b``.

        Where n > d + o the same network is returned in d + o coordinates. With ``omega = Q R`` (QR factorization),
        training never leaves the span of Q's orthonormal columns, and rotating the hidden space changes no linear
        network; so ``R U`` and ``V R^T`` give the outputs of the full network, step by step, at the limit's cost. The
        limit itself is the case R = I.

        ``reduce=False`` keeps all n coordinates (to check the reduction against).
        """
        width, seed = whole("width", width), checks.seed(seed)
        k = len(self.U)
        require_memory(
            3 * 8 * width * k, torch.device("cpu"), f"drawing width {width}", "choose fewer, or inf"
        )
        generator = torch.Generator().manual_seed(seed)
        # In float64, so that every dtype and device gets the same numbers.
        omega = torch.randn(width, k, generator=generator, dtype=torch.float64) / width**0.5
        if reduce and width > k:
            omega = torch.linalg.qr(omega, mode="r").R
        omega = omega.to(self.U)
        network = LinearLimit(self.d_in, self.d_out, self.sigma_in, self.sigma_out, self.bias_scale)
        network.width = width
        network._set(omega @ self.U, self.V @ omega.T)
        if self.b is not None:
            network.b.copy_(omega @ self.b)
        return network

    def extra_repr(self) -> str:
        return f"d_in={self.d_in}, d_out={self.d_out}, width={self.width}, bias_scale={self.bias_scale}"


def sgd_step(
    U: torch.Tensor,
    V: torch.Tensor,
    b: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor,
    lr: float,
    alpha: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One step of SGD on the limit's coefficients by hand, the loss being half the mean square distance.

    Args:
        U (k, d), V (o, k), b (k,): as in `LinearLimit`, of any width; returned as they are after the step.
        x: ``(batch, d)``. y: ``(batch, o)``. alpha: on the bias.
    """
    h = x @ U.T + alpha * b  # (batch, k)
    chi = (h @ V.T - y) / len(x)  # dL/df, (batch, o)
    dh = chi @ V  # dL/dh, (batch, k)
    return U - lr * dh.T @ x, V - lr * chi.T @ h, b - lr * alpha * dh.sum(0)
