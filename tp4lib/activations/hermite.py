"""The dual kernel of any coordinatewise function, through its expansion in Hermite polynomials."""

import math
from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from tp4lib.activations.duals import Dual, Function, Split, cosine, root, unit
from tp4lib.base.checks import real, whole
from tp4lib.base.errors import InputError

_NODES = 300  # beyond about 350, numpy's weights overflow
_AT_ONCE = 1 << 15  # scales whose quadrature is held at once
_TOLERANCE = 1e-3  # of E phi^2, that `require_accurate` lets a series leave out


class Hermite(Dual):
    r"""The dual of any coordinatewise function, through its expansion in Hermite polynomials.

    With orthonormal h_k, ``E h_j(x) h_k(y) = [j = k] c^k`` for standard Gaussians x, y of correlation c, so

        K(B, g) = sum_k a_k(|B|) a_k(|g|) c^k,      a_k(s) = E phi(s x) h_k(x),

    where a_k comes from Gauss-Hermite quadrature and the sum is cut after `terms`. What is cut off is at most
    ``sqrt(t(|B|) t(|g|))``, ``t(s) = E phi(s x)^2 - sum_{k < terms} a_k(s)^2`` (`tail`): geometrically small for
    analytic phi at moderate s, slowly falling for a phi with kinks.

    Source: Daniely, Frostig & Singer 2016, section 4.

    Args:
        phi: elementwise, differentiable by autograd (twice for second derivatives of K). slope: phi'; None: by it.
        nodes: of the quadrature, exact for polynomials of degree 2 nodes - 1; at most 300.

    Example:
        >>> tanh, e = Hermite(torch.tanh), torch.eye(2, dtype=torch.float64)
        >>> round(tanh(e, e)[0, 0].item(), 5), tanh.tail(1.0) < 1e-6  # E tanh(z)^2
        (0.39429, True)
    """

    def __init__(
        self, phi: Function, terms: int = 48, nodes: int = 128, name: str = "", slope: Function | None = None
    ) -> None:
        super().__init__(name or getattr(phi, "__name__", "phi"), phi, slope or slope_of(phi))
        nodes = whole("nodes", nodes, most=_NODES, example=128)
        self._cut = terms = whole("terms", terms, most=nodes, example=min(48, nodes))
        x, weights = np.polynomial.hermite_e.hermegauss(nodes)
        h = [np.ones(nodes), x]
        for k in range(1, terms):  # the recurrence of orthonormal Hermite polynomials
            h.append((x * h[k] - math.sqrt(k) * h[k - 1]) / math.sqrt(k + 1))
        table = np.stack(h[:terms], axis=1) * (weights / weights.sum())[:, None]
        self._nodes, self._weights = torch.from_numpy(x), torch.from_numpy(weights / weights.sum())
        self._table = torch.from_numpy(table)  # (nodes, terms)
        # An odd or even phi has every second coefficient 0, whatever the scale.
        scales = torch.tensor([[0.5], [1.0], [2.0]], dtype=torch.float64)
        probe = (phi(scales * self._nodes) @ self._table).abs()
        if not probe.isfinite().all():
            raise InputError(
                f"activation {self.name} is not finite everywhere; expected a function of all real numbers; "
                "try torch.tanh"
            )
        self.orders = (probe.amax(0) > 1e-13 * probe.max()).nonzero().flatten().tolist()
        self._table = self._table[:, self.orders]
        self._moved: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}
        self.terms = len(self.orders)

    def _tables(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Nodes and table there; kept, as moving them makes a GPU wait."""
        if (device, dtype) not in self._moved:
            self._moved[device, dtype] = self._nodes.to(device, dtype), self._table.to(device, dtype)
        return self._moved[device, dtype]

    def coefficients(self, s: Tensor) -> Tensor:
        """a_k(s) for the orders that are not 0 throughout: ``(...)`` -> ``(..., terms)``."""
        if s.numel() > _AT_ONCE:
            parts = [self.coefficients(part) for part in s.reshape(-1).split(_AT_ONCE)]
            return torch.cat(parts).view(*s.shape, -1)
        nodes, table = self._tables(s.device, s.dtype)
        return self.phi(s[..., None] * nodes) @ table

    def tail(self, s: float) -> float:
        """t(s): bounds what the cut sum leaves out of K(B, g) at |B| = |g| = s."""
        scale = torch.tensor(real("s", s, least=0), dtype=torch.float64)
        return float((self._square(scale) - self.coefficients(scale).square().sum()).clamp(min=0))

    def _square(self, scale: Tensor) -> Tensor:
        """E phi(s x)^2 of one scale."""
        return (self.phi(scale * self._nodes).square() * self._weights).sum()

    def split(self, v: Tensor) -> Split:
        psi, scale, norm = unit(v)
        return Split(psi, scale, self.coefficients(norm))

    def gram(self, one: Split, other: Split) -> Tensor:
        c = (one.psi @ other.psi.mT).clamp(-1, 1)
        return self._series(c, one.rho[..., :, None, :], other.rho[..., None, :, :])

    def value(self, s12: Tensor, s11: Tensor, s22: Tensor) -> Tensor:
        _, c = cosine(s12, s11, s22)
        return self._series(c, self.coefficients(root(s11)), self.coefficients(root(s22)))

    def derivative(self, s12: Tensor, s11: Tensor, s22: Tensor) -> Tensor:
        return self._of_slope.value(s12, s11, s22)

    @cached_property
    def _of_slope(self) -> "Hermite":
        return Hermite(self.slope, self._cut, len(self._nodes), f"{self.name}'")

    def _series(self, c: Tensor, one: Tensor, other: Tensor) -> Tensor:
        """sum_k one_k other_k c^k; the coefficients have one more dimension, of terms, than c."""
        # Orders ascend, so each power is the one before times c, and nothing of shape (.., terms) is made for pairs.
        power, before, total = None, 0, 0  # power is c^before
        for index, k in enumerate(self.orders):
            for _ in range(k - before):
                power = c if power is None else power * c
            before = k
            pair = one[..., index] * other[..., index]
            total = total + (pair if power is None else pair * power)
        return total

    def require_accurate(self, variance: Tensor, slope: bool = False) -> None:
        """Refuse variances at which the series leaves out more than 0.1 % of E phi^2 (with ``slope``, of E phi'^2)."""
        ends = [] if variance.numel() == 0 else [variance.min(), variance.max()]
        for scale in [float(end) ** 0.5 for end in ends if end.isfinite()]:
            total = float(self._square(torch.tensor(scale, dtype=torch.float64)))
            if self.tail(scale) > _TOLERANCE * total:
                raise InputError(
                    f"the Hermite expansion of {self.name} leaves out {self.tail(scale) / total:.1%} where "
                    f"preactivations have standard deviation {scale:.3g}; expected at most {_TOLERANCE:.1%}; "
                    "try a smaller w_std or inputs, or the closed form of activation='erf'"
                )
        if slope:
            self._of_slope.require_accurate(variance)


def slope_of(phi: Function) -> Callable:
    """phi' by autograd, elementwise; differentiable again.

    Vectors of a tensor program are handled by their world, through torch's own protocol; there it counts as a function
    that may jump, since phi may have kinks.
    """

    def autograd_slope(h: Tensor) -> Tensor:
        if torch.overrides.has_torch_function_unary(h):
            return torch.overrides.handle_torch_function(autograd_slope, (h,), h)
        with torch.enable_grad():
            again = h.requires_grad
            h = h if again else h.detach().requires_grad_()
            (slope,) = torch.autograd.grad(phi(h).sum(), h, create_graph=again)
        return slope

    return autograd_slope
