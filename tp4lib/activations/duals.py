r"""Dual kernels of an activation: what an infinitely wide layer makes of two inputs, in closed form.

Two views of one kernel. Of *vectors*, for pi-limits, whose units have preactivations ``<g, z>`` with Gaussian z:

    K(B, g) = E phi(B.z) phi(g.z) = sum_k  rho_k(B) rho_k(g) kappa_k( psi(B) . psi(g) ),      z ~ N(0, I)

so that what grows with pairs is one matrix product and a few elementwise functions. Of *covariances*, for the
recursions of the NNGP and the NTK: with (u, v) Gaussian of mean 0 and covariance [[s11, s12], [s12, s22]],

    value(s12, s11, s22) = E phi(u) phi(v),      derivative(s12, s11, s22) = E phi'(u) phi'(v)

=============  =======================  ==============  ==========================================
phi            psi(v)                   rho(v)          kappa(c)
=============  =======================  ==============  ==========================================
relu           v / |v|                  |v| / sqrt 2    (sqrt(1 - c^2) + (pi - arccos c) c) / pi
erf            sqrt 2 v / sqrt(1+2vv)   sqrt(2 / pi)    arcsin c
identity       v                        1               c
quadratic h^2  v / |v|                  |v|^2           1 + 2 c^2
any other      v / |v|                  a_k(|v|)        c^k, k = 0..terms - 1  (`tp4lib.activations.hermite`)
=============  =======================  ==============  ==========================================

Sources: Cho & Saul 2009 (ReLU), Williams 1996 (erf), Daniely, Frostig & Singer 2016 (Hermite expansion).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]


class Split(NamedTuple):
    """Vectors v made ready for a kernel."""

    psi: Tensor  # (..., n, r)
    scale: Tensor  # (..., n), with psi = scale * v
    rho: Tensor  # (..., n, terms)

    @property
    def vectors(self) -> Tensor:
        """v back from its parts."""
        return self.psi / self.scale[..., None]


class Dual:
    """The dual kernel of one activation phi of derivative slope; ``terms`` counts the columns of rho."""

    terms = 1

    def __init__(self, name: str, phi: Function, slope: Function) -> None:
        self.name, self.phi, self.slope = name, phi, slope

    def split(self, v: Tensor) -> Split:
        """psi(v), its scale, and rho(v), of vectors ``(..., n, r)``."""
        raise NotImplementedError

    def kappa(self, c: Tensor) -> Tensor:
        """The kernel of vectors with rho = 1, as a function of ``psi . psi``."""
        raise NotImplementedError

    def gram(self, one: Split, other: Split) -> Tensor:
        """K of all pairs, ``(..., n1, n2)``; twice differentiable in the vectors behind both arguments."""
        return one.rho * self.kappa(one.psi @ other.psi.mT) * other.rho.mT

    def __call__(self, u: Tensor, v: Tensor) -> Tensor:
        """K(u_i, v_j) of vectors ``(..., n1, r)`` and ``(..., n2, r)``: ``(..., n1, n2)``.

        >>> from tp4lib.activations import dual
        >>> e = torch.eye(2, dtype=torch.float64)
        >>> dual("relu")(e, e) * 2 * math.pi  # E relu(z_i) relu(z_j): 1/2 on the diagonal, 1 / (2 pi) beside it
        tensor([[3.1416, 1.0000],
                [1.0000, 3.1416]], dtype=torch.float64)
        """
        return self.gram(self.split(u), self.split(v))

    def value(self, s12: Tensor, s11: Tensor, s22: Tensor) -> Tensor:
        """E phi(u) phi(v), broadcasting; its gradient is finite everywhere. K(B, g) is the value at B.g, B.B, g.g."""
        raise NotImplementedError

    def derivative(self, s12: Tensor, s11: Tensor, s22: Tensor) -> Tensor:
        """E phi'(u) phi'(v), broadcasting: d value / d s12 (Price's theorem)."""
        raise NotImplementedError

    def require_accurate(self, variance: Tensor, slope: bool = False) -> None:
        """Refuse variances where ``value`` (with ``slope``, ``derivative`` too) is inexact; closed forms never are."""

    def __repr__(self) -> str:
        return f"dual({self.name!r})"


# ReLU: the arc-cosine kernel


class _Step(torch.autograd.Function):
    """k0(c) = k1'(c) = 1 - arccos(c) / pi. Its own slope 1 / (pi sqrt(1 - c^2)) is set to 0 at |c| = 1.

    There it multiplies d c, which is 0 at the maximum of a cosine: K is twice differentiable where vectors meet.
    Rounding may put c beyond 1; gradients pass as if it were 1, or the two parts of K's would no longer cancel.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(c: Tensor) -> Tensor:
        return 1 - torch.acos(c.clamp(-1, 1)) / math.pi

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (c,) = ctx.saved_tensors
        square = (1 - c) * (1 + c)
        outside = square <= 0  # false for NaN, so that NaN stays NaN
        return grad * torch.where(outside, 0, torch.where(outside, 1, square).rsqrt() / math.pi)


class _ArcCosine(torch.autograd.Function):
    """k1(c) for c in [-1, 1], and its slope k0(c), computed on the way because autograd's has inf - inf at 1."""

    generate_vmap_rule = True

    @staticmethod
    def forward(c: Tensor) -> tuple[Tensor, Tensor]:
        c = c.clamp(-1, 1)
        slope = torch.acos(c).div_(-math.pi).add_(1)  # k0(c)
        root = ((1 - c) * (1 + c)).sqrt_()
        return torch.addcmul(root.div_(math.pi), c, slope), slope  # sqrt(1 - c^2) / pi + c k0(c)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(inputs[0], output[1])

    @staticmethod
    def backward(ctx, grad: Tensor, _: Tensor | None) -> Tensor:
        c, slope = ctx.saved_tensors
        return grad * (_Step.apply(c) if torch.is_grad_enabled() else slope)


def arc_cosine(c: Tensor) -> Tensor:
    """k1(c) = (sqrt(1 - c^2) + (pi - arccos c) c) / pi, the arc-cosine kernel of order 1, for c in [-1, 1].

    Twice differentiable at c = 1 too, just where the diagonal of a kernel lies. Source: Cho & Saul 2009.
    """
    return _ArcCosine.apply(c)[0]


class ReLU(Dual):
    """K(B, g) = |B| |g| k1(cos) / 2, the arc-cosine kernel."""

    def split(self, v: Tensor) -> Split:
        psi, scale, norm = unit(v)
        return Split(psi, scale, norm[..., None] / math.sqrt(2))

    def kappa(self, c: Tensor) -> Tensor:
        return arc_cosine(c)

    def value(self, s12: Tensor, s11: Tensor, s22: Tensor) -> Tensor:
        norm, c = cosine(s12, s11, s22)
        return norm * arc_cosine(c) / 2

    def derivative(self, s12: Tensor, s11: Tensor, s22: Tensor) -> Tensor:
        return (1 - torch.acos(cosine(s12, s11, s22)[1]) / math.pi) / 2


class Erf(Dual):
    """K(B, g) = (2 / pi) arcsin( 2 B.g / sqrt((1 + 2 |B|^2) (1 + 2 |g|^2)) ), the arcsine kernel."""

    def split(self, v: Tensor) -> Split:
        power = _power(v).clamp(min=1)
        v = v / power[..., None]  # 1 + 2 v.v is now power^2 (power^-2 + 2 v.v)
        scale = math.sqrt(2) * (power**-2 + 2 * (v * v).sum(-1)).rsqrt()
        rho = torch.full_like(scale, math.sqrt(2 / math.pi))
        return Split(v * scale[..., None], scale / power, rho[..., None])

    def kappa(self, c: Tensor) -> Tensor:
        below = 1 - torch.finfo(c.dtype).eps  # |psi| < 1, but rounding may not know
        return torch.asin(c.clamp(-below, below))

    def value(self, s12: Tensor, s11: Tensor, s22: Tensor) -> Tensor:
        t, _, one_minus_square = self._parts(s12, s11, s22)
        # arcsin t by the tangent: beside |t| = 1 it keeps the digits of 1 - t^2.
        return 2 / math.pi * torch.atan2(t, one_minus_square.sqrt())

    def derivative(self, s12: Tensor, s11: Tensor, s22: Tensor) -> Tensor:
        _, root, one_minus_square = self._parts(s12, s11, s22)
        return 4 / math.pi / root * one_minus_square.rsqrt()

    @staticmethod
    def _parts(s12: Tensor, s11: Tensor, s22: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """t = 2 s12 / root, root = sqrt((1 + 2 s11) (1 + 2 s22)), and 1 - t^2 without subtracting large products.

        With A = 2 s11 / (1 + 2 s11) and B likewise, 1 - t^2 = (1 - A) + A (1 - B) + (A B - t^2). The last bracket is
        A B sin^2(angle): where two vectors meet it is 0, and the rounding left in it (s11 times too large) is dropped.
        """
        one, two = 1 + 2 * s11, 1 + 2 * s22
        root = one.sqrt() * two.sqrt()
        t, a, b = 2 * s12 / root, 2 * s11 / one, 2 * s22 / two
        apart = a * b - t * t
        # Only the value is set to 0. Its gradient stays: it belongs to that of t.
        noise = torch.where(apart <= 64 * torch.finfo(t.dtype).eps * a * b, apart, 0).detach()
        return t, root, 1 / one + a / two + (apart - noise)


class Identity(Dual):
    """K(B, g) = B.g."""

    def split(self, v: Tensor) -> Split:
        one = torch.ones_like(v[..., 0])
        return Split(v, one, one[..., None])

    def kappa(self, c: Tensor) -> Tensor:
        return c

    def value(self, s12: Tensor, s11: Tensor, s22: Tensor) -> Tensor:
        return s12

    def derivative(self, s12: Tensor, s11: Tensor, s22: Tensor) -> Tensor:
        return torch.ones_like(s12)


class Quadratic(Dual):
    """phi(h) = h^2: K(B, g) = |B|^2 |g|^2 + 2 (B.g)^2, by Wick's theorem."""

    def split(self, v: Tensor) -> Split:
        psi, scale, norm = unit(v)
        return Split(psi, scale, (norm * norm)[..., None])

    def kappa(self, c: Tensor) -> Tensor:
        return 1 + 2 * c * c

    def value(self, s12: Tensor, s11: Tensor, s22: Tensor) -> Tensor:
        return s11 * s22 + 2 * s12 * s12

    def derivative(self, s12: Tensor, s11: Tensor, s22: Tensor) -> Tensor:
        return 4 * s12


# Norms and cosines that neither overflow nor divide by zero


def _power(v: Tensor) -> Tensor:
    """A power of two, ``(...)``, near the largest entry of v ``(..., r)``.

    The square of v / power neither overflows nor underflows, and dividing by a power of two changes no digit.
    """
    largest = -math.frexp(torch.finfo(v.dtype).tiny)[1]  # powers beyond have no reciprocal
    exponent = torch.frexp(v.detach().abs().amax(-1)).exponent.clamp(-largest, largest)
    return torch.ldexp(torch.ones_like(v[..., 0]), exponent)


def unit(v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """v / |v|, 1 / |v| and |v|; 0, 1 and 0 at v = 0, all gradients finite there."""
    power = _power(v)
    v = v / power[..., None]
    square = (v * v).sum(-1)
    none = square.sqrt() * power < torch.finfo(v.dtype).tiny  # false for NaN, so that NaN stays NaN
    norm = torch.where(none, 1, square).sqrt()
    scale = torch.where(none, 1, 1 / norm)
    return v * scale[..., None], scale / power, torch.where(none, 0, norm) * power


def cosine(s12: Tensor, s11: Tensor, s22: Tensor) -> tuple[Tensor, Tensor]:
    """The norm sqrt(s11) sqrt(s22) and the cosine s12 / norm, clamped to [-1, 1]; a zero vector has cosine 0.

    Roots before products: s11 s22 leaves the range of float32 where each of them, and the norm, are inside it.
    """
    norm = root(s11) * root(s22)
    none = norm == 0  # false for NaN, so that NaN stays NaN
    return norm, torch.where(none, 0, (s12 / torch.where(none, 1, norm)).clamp(-1, 1))


def root(s: Tensor) -> Tensor:
    """sqrt(s), with the gradient 0 at s = 0."""
    none = s == 0
    return torch.where(none, 0, torch.where(none, 1, s).sqrt())
