r"""Dual kernels of vectors, K(B, g) = E phi(B.z) phi(g.z) with z ~ N(0, I): the arithmetic of pi-limits.

An infinitely wide layer whose preactivations are ``h = <g, z>``, one Gaussian ``z`` a hidden unit, is held as the
vector ``g``; what another layer sees of it are averages over units, which are these kernels. Every kernel here has the
form

    K(B, g) = sum_k  rho_k(B) rho_k(g) kappa_k( psi(B) . psi(g) ),

so that the part that grows with pairs is one matrix product and a few elementwise functions.

=============  =======================  ==============  ==========================================
phi            psi(v)                   rho(v)          kappa(c)
=============  =======================  ==============  ==========================================
relu           v / |v|                  |v| / sqrt 2    (sqrt(1 - c^2) + (pi - arccos c) c) / pi
erf            sqrt 2 v / sqrt(1+2vv)   sqrt(2 / pi)    arcsin c
identity       v                        1               c
quadratic h^2  v / |v|                  |v|^2           1 + 2 c^2
any other      v / |v|                  a_k(|v|)        c^k, k = 0..terms - 1  (`Hermite`)
=============  =======================  ==============  ==========================================

Sources: Cho & Saul 2009 (ReLU), Williams 1996 (erf), Daniely, Frostig & Singer 2016 (Hermite expansion).
`tp4lib.kernels` has the same duals as functions of covariances, for the recursions of the NNGP and the NTK.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tp4lib.base.checks import real, whole
from tp4lib.base.errors import InputError
from tp4lib.kernels import arc_cosine


class Split(NamedTuple):
    """Vectors v made ready for a kernel.

    Attributes:
        psi: ``(..., n, r)``.
        scale: ``(..., n)``, with psi = scale * v.
        rho: ``(..., n, terms)``.
    """

    psi: Tensor
    scale: Tensor
    rho: Tensor

    @property
    def vectors(self) -> Tensor:
        """v back from its parts."""
        return self.psi / self.scale[..., None]


class Dual:
    """One activation's dual kernel.

    Attributes:
        name: of the activation.
        phi: the activation itself, elementwise.
        terms: columns of rho.
    """

    terms = 1

    def __init__(self, name: str, phi: Callable[[Tensor], Tensor]) -> None:
        self.name, self.phi = name, phi

    def split(self, v: Tensor) -> Split:
        """psi(v), its scale, and rho(v), of vectors ``(..., n, r)``."""
        raise NotImplementedError

    def gram(self, one: Split, other: Split) -> Tensor:
        """K of all pairs, ``(..., n1, n2)``; twice differentiable in the vectors behind both arguments."""
        raise NotImplementedError

    def __call__(self, u: Tensor, v: Tensor) -> Tensor:
        """K(u_i, v_j) of vectors ``(..., n1, r)`` and ``(..., n2, r)``: ``(..., n1, n2)``.

        >>> e = torch.eye(2, dtype=torch.float64)
        >>> dual("relu")(e, e) * 2 * math.pi  # E relu(z_i) relu(z_j): 1/2 on the diagonal, 1 / (2 pi) beside it
        tensor([[3.1416, 1.0000],
                [1.0000, 3.1416]], dtype=torch.float64)
        """
        return self.gram(self.split(u), self.split(v))

    def __repr__(self) -> str:
        return f"dual({self.name!r})"


def _power(v: Tensor) -> Tensor:
    """A power of two, ``(...)``, near the largest entry of v ``(..., r)``.

    The square of v / power neither overflows nor underflows, and dividing by a power of two changes no digit.
    """
    largest = -math.frexp(torch.finfo(v.dtype).tiny)[1]  # powers beyond have no reciprocal
    exponent = torch.frexp(v.detach().abs().amax(-1)).exponent.clamp(-largest, largest)
    return torch.ldexp(torch.ones_like(v[..., 0]), exponent)


def _unit(v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """v / |v|, 1 / |v| and |v|; 0, 1 and 0 at v = 0, all gradients finite there."""
    power = _power(v)
    v = v / power[..., None]
    square = (v * v).sum(-1)
    none = square.sqrt() * power < torch.finfo(v.dtype).tiny  # asked so that NaN stays NaN
    norm = torch.where(none, 1, square).sqrt()
    scale = torch.where(none, 1, 1 / norm)
    return v * scale[..., None], scale / power, torch.where(none, 0, norm) * power


class _Closed(Dual):
    """A dual of one term, in closed form."""

    def gram(self, one: Split, other: Split) -> Tensor:
        return one.rho * self.kappa(one.psi @ other.psi.mT) * other.rho.mT

    def kappa(self, c: Tensor) -> Tensor:
        raise NotImplementedError


class _ReLU(_Closed):
    def split(self, v: Tensor) -> Split:
        psi, scale, norm = _unit(v)
        return Split(psi, scale, norm[..., None] / math.sqrt(2))

    def kappa(self, c: Tensor) -> Tensor:
        return arc_cosine(c)


class _Erf(_Closed):
    def split(self, v: Tensor) -> Split:
        power = _power(v).clamp(min=1)
        v = v / power[..., None]  # 1 + 2 v.v is now power^2 (power^-2 + 2 v.v)
        scale = math.sqrt(2) * (power**-2 + 2 * (v * v).sum(-1)).rsqrt()
        rho = torch.full_like(scale, math.sqrt(2 / math.pi))
        return Split(v * scale[..., None], scale / power, rho[..., None])

    def kappa(self, c: Tensor) -> Tensor:
        below = 1 - torch.finfo(c.dtype).eps  # |psi| < 1, but rounding may not know
        return torch.asin(c.clamp(-below, below))


class _Identity(_Closed):
    def split(self, v: Tensor) -> Split:
        one = torch.ones_like(v[..., 0])
        return Split(v, one, one[..., None])

    def kappa(self, c: Tensor) -> Tensor:
        return c


class _Quadratic(_Closed):
    def split(self, v: Tensor) -> Split:
        psi, scale, norm = _unit(v)
        return Split(psi, scale, (norm * norm)[..., None])

    def kappa(self, c: Tensor) -> Tensor:
        return 1 + 2 * c * c


class Hermite(Dual):
    r"""The dual of any coordinatewise function, through its expansion in Hermite polynomials.

    With orthonormal h_k, ``E h_j(x) h_k(y) = [j = k] c^k`` for standard Gaussians x, y of correlation c, so

        K(B, g) = sum_k a_k(|B|) a_k(|g|) c^k,      a_k(s) = E phi(s x) h_k(x),

    where a_k comes from Gauss-Hermite quadrature and the sum is cut after `terms`. What is cut off is at most
    ``sqrt(t(|B|) t(|g|))``, ``t(s) = E phi(s x)^2 - sum_{k < terms} a_k(s)^2`` (`tail`): geometrically small for
    analytic phi at moderate s, slowly falling for a phi with kinks.

    Source: Daniely, Frostig & Singer 2016, section 4.

    Args:
        phi: elementwise, differentiable by autograd (twice for second derivatives of K).
        terms: where to cut the sum.
        nodes: of the quadrature, exact for polynomials of degree 2 nodes - 1.
        name: for messages.

    Raises:
        InputError: terms or nodes below 1, or fewer nodes than terms.

    Example:
        >>> tanh, e = Hermite(torch.tanh), torch.eye(2, dtype=torch.float64)
        >>> round(tanh(e, e)[0, 0].item(), 5), tanh.tail(1.0) < 1e-6  # E tanh(z)^2
        (0.39429, True)
    """

    def __init__(
        self, phi: Callable[[Tensor], Tensor], terms: int = 48, nodes: int = 128, name: str = ""
    ) -> None:
        super().__init__(name or getattr(phi, "__name__", "phi"), phi)
        nodes = whole("nodes", nodes, example=128)
        terms = whole("terms", terms, most=nodes, example=min(48, nodes))
        x, weights = np.polynomial.hermite_e.hermegauss(nodes)
        h = [np.ones(nodes), x]
        for k in range(1, terms):
            h.append((x * h[k] - math.sqrt(k) * h[k - 1]) / math.sqrt(k + 1))
        table = np.stack(h[:terms], axis=1) * (weights / weights.sum())[:, None]
        self._nodes, self._weights = torch.from_numpy(x), torch.from_numpy(weights / weights.sum())
        self._table = torch.from_numpy(table)  # (nodes, terms)
        # An odd or even phi has every second coefficient 0, whatever the scale.
        probe = (
            phi(torch.tensor([[0.5], [1.0], [2.0]], dtype=torch.float64) * self._nodes) @ self._table
        ).abs()
        if not probe.isfinite().all():
            raise InputError(
                f"activation {self.name} is not finite everywhere; expected a function of all real numbers; "
                "try torch.tanh"
            )
        self.orders = (probe.amax(0) > 1e-13 * probe.max()).nonzero().flatten().tolist()
        self._table = self._table[:, self.orders]
        self.terms = len(self.orders)

    def coefficients(self, s: Tensor) -> Tensor:
        """a_k(s) for the orders that are not 0 throughout: ``(...)`` -> ``(..., terms)``."""
        return self.phi(s[..., None] * self._nodes.to(s)) @ self._table.to(s)

    def tail(self, s: float) -> float:
        """t(s): bounds what the cut sum leaves out of K(B, g) at |B| = |g| = s."""
        scale = torch.tensor(real("s", s, least=0), dtype=torch.float64)
        total = (self.phi(scale * self._nodes).square() * self._weights).sum()
        return float((total - self.coefficients(scale).square().sum()).clamp(min=0))

    def split(self, v: Tensor) -> Split:
        psi, scale, norm = _unit(v)
        return Split(psi, scale, self.coefficients(norm))

    def gram(self, one: Split, other: Split) -> Tensor:
        c = (one.psi @ other.psi.mT).clamp(-1, 1)
        power, before, total = None, 0, 0
        for index, k in enumerate(self.orders):
            for _ in range(k - before):
                power = c if power is None else power * c
            before = k
            pair = one.rho[..., :, index, None] * other.rho[..., None, :, index]
            total = total + (pair if power is None else pair * power)
        return total


_NAMED: dict[str, Callable[[], Dual]] = {
    "relu": lambda: _ReLU("relu", torch.relu),
    "erf": lambda: _Erf("erf", torch.erf),
    "identity": lambda: _Identity("identity", lambda h: h),
    "quadratic": lambda: _Quadratic("quadratic", torch.square),
    "tanh": lambda: Hermite(torch.tanh, name="tanh"),
    "gelu": lambda: Hermite(F.gelu, name="gelu"),
}


def dual(activation: "str | Callable[[Tensor], Tensor] | Dual") -> Dual:
    """The dual kernel of an activation.

    Args:
        activation: ``"relu"``, ``"erf"``, ``"identity"``, ``"quadratic"`` (closed forms), ``"tanh"``, ``"gelu"``
            (`Hermite`), any elementwise function of tensors (`Hermite`), or a dual.

    Raises:
        InputError: a name that is not known.

    >>> dual("quadratic")(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))  # E z_1^2 z_2^2
    tensor([[1.]])
    """
    if isinstance(activation, Dual):
        return activation
    if isinstance(activation, str):
        if activation not in _NAMED:
            raise InputError(
                f"no dual kernel for activation {activation!r}; expected one of {', '.join(_NAMED)} or a function; "
                "try activation='relu'"
            )
        return _NAMED[activation]()
    return Hermite(activation)
