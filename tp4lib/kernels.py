"""Kernels of infinitely wide networks: dual activations, the NNGP and the neural tangent kernel."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from tp4lib.base.checks import real, whole
from tp4lib.base.errors import InputError

# Entries of a result that are worked on at once; every elementwise temporary has this many (32 MB in float64).
BLOCK = 1 << 22


class _Step(torch.autograd.Function):
    """k0(c) = k1'(c) = 1 - arccos(c) / pi. Its own slope 1 / (pi sqrt(1 - c^2)) is put to 0 at |c| = 1.

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
        outside = square <= 0  # asked so that NaN stays NaN
        return grad * torch.where(outside, 0, torch.where(outside, 1, square).rsqrt() / math.pi)


class _ArcCosine(torch.autograd.Function):
    """k1(c) for c in [-1, 1], and its slope, worked out on the way, because autograd's has inf - inf at 1."""

    generate_vmap_rule = True

    @staticmethod
    def forward(c: Tensor) -> tuple[Tensor, Tensor]:
        c = c.clamp(-1, 1)
        slope = torch.acos(c).div_(-math.pi).add_(1)
        root = ((1 - c) * (1 + c)).sqrt_()
        return torch.addcmul(root.div_(math.pi), c, slope), slope

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


def arc_sine(t: Tensor, one_minus_square: Tensor) -> Tensor:
    """arcsin t, by the tangent: beside |t| = 1 it keeps the digits that ``one_minus_square``, 1 - t^2, has."""
    return torch.atan2(t, one_minus_square.sqrt())


def _cosine(s12: Tensor, s11: Tensor, s22: Tensor) -> tuple[Tensor, Tensor]:
    """The norm sqrt(s11) sqrt(s22) and the cosine s12 / norm, clamped to [-1, 1]; a zero vector has cosine 0.

    Roots before products: s11 s22 leaves the range of float32 where each of them, and the norm, are inside it.
    The guard asks for zero alone, so that NaN stays NaN.
    """
    norm = _root(s11) * _root(s22)
    none = norm == 0
    return norm, torch.where(none, 0, (s12 / torch.where(none, 1, norm)).clamp(-1, 1))


def _root(s: Tensor) -> Tensor:
    """sqrt(s), with the gradient 0 at s = 0."""
    none = s == 0
    return torch.where(none, 0, torch.where(none, 1, s).sqrt())


def _relu(s12: Tensor, s11: Tensor, s22: Tensor) -> Tensor:
    norm, c = _cosine(s12, s11, s22)
    return norm * arc_cosine(c) / 2


def _relu_derivative(s12: Tensor, s11: Tensor, s22: Tensor) -> Tensor:
    return (1 - torch.acos(_cosine(s12, s11, s22)[1]) / math.pi) / 2


def _erf(s12: Tensor, s11: Tensor, s22: Tensor) -> Tensor:
    t, _, one_minus_square = _erf_parts(s12, s11, s22)
    return 2 / math.pi * arc_sine(t, one_minus_square)


def _erf_derivative(s12: Tensor, s11: Tensor, s22: Tensor) -> Tensor:
    _, root, one_minus_square = _erf_parts(s12, s11, s22)
    return 4 / math.pi / root * one_minus_square.rsqrt()


def _erf_parts(s12: Tensor, s11: Tensor, s22: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """t = 2 s12 / root, root = sqrt((1 + 2 s11) (1 + 2 s22)), and 1 - t^2 without the difference of large products.

    With A = 2 s11 / (1 + 2 s11) and B likewise, 1 - t^2 = (1 - A) + A (1 - B) + (A B - t^2). The last bracket is
    A B sin^2(angle): where two vectors meet it is 0, and what rounding leaves of it (s11 times too large) goes.
    """
    one, two = 1 + 2 * s11, 1 + 2 * s22
    root = one.sqrt() * two.sqrt()
    t, a, b = 2 * s12 / root, 2 * s11 / one, 2 * s22 / two
    apart = a * b - t * t
    # Only the value is put to 0. Its gradient stays: it belongs to that of t.
    noise = torch.where(apart <= 64 * torch.finfo(t.dtype).eps * a * b, apart, 0).detach()
    return t, root, 1 / one + a / two + (apart - noise)


def _identity(s12: Tensor, s11: Tensor, s22: Tensor) -> Tensor:
    return s12


def _identity_derivative(s12: Tensor, s11: Tensor, s22: Tensor) -> Tensor:
    return torch.ones_like(s12)


@dataclass(frozen=True)
class Dual:
    """The dual of an activation: what it does to covariances, two neurons at a time.

    With (u, v) Gaussian of mean 0 and covariance matrix [[s11, s12], [s12, s22]]::

        value(s12, s11, s22)      = E phi(u) phi(v)
        derivative(s12, s11, s22) = E phi'(u) phi'(v)   (= d value / d s12, Price's theorem)

    Both broadcast: to get the dual kernel K(B, g) of vectors, ``B`` ``(n1, r)`` and ``g`` ``(n2, r)``, give them
    ``B @ g.T``, ``(B * B).sum(1)[:, None]`` and ``(g * g).sum(1)``. ``value`` has a finite gradient everywhere.

    Source: Cho & Saul 2009 (ReLU); Williams 1996 (erf).
    """

    value: Callable[[Tensor, Tensor, Tensor], Tensor]
    derivative: Callable[[Tensor, Tensor, Tensor], Tensor]


_DUALS = {
    "relu": Dual(_relu, _relu_derivative),
    "erf": Dual(_erf, _erf_derivative),
    "identity": Dual(_identity, _identity_derivative),
}


def dual(activation: str) -> Dual:
    """The closed-form dual of ``"relu"`` (arc-cosine), ``"erf"`` (arcsine) or ``"identity"``.

    >>> one = torch.ones((), dtype=torch.float64)
    >>> dual("relu").value(one, one, one).item()  # E relu(u)^2 = 1/2
    0.5

    Raises:
        InputError: no closed form is known here.
    """
    if activation not in _DUALS:
        raise InputError(
            f"no kernel for activation {activation!r}; expected one of {', '.join(_DUALS)}; choose activation='relu'"
        )
    return _DUALS[activation]


def nngp(
    x1: Tensor, x2: Tensor, depth: int, activation: str = "relu", w_std: float = 1.0, b_std: float = 0.0
) -> Tensor:
    """Covariance of the outputs of an infinitely wide network at initialization (its Gaussian process limit).

    The covariance of one layer's preactivations, over its random weights, is made from that of the layer before::

        h^1 = W^1 x + b          S^1(x, y)     = w_std^2  x.y                       + b_std^2

                                                  [ S^l(x,x)  S^l(x,y) ]
        (h^l(x), h^l(y))  ~  N( 0,                [ S^l(x,y)  S^l(y,y) ]  )   for l = 1..depth

        h^{l+1} = W^{l+1} phi(h^l) + b    S^{l+1}(x, y) = w_std^2  E phi(h^l(x)) phi(h^l(y))  + b_std^2

    The result is S^{depth+1}, the readout's. Weights are N(0, w_std^2) into the first layer (the sum over the input's
    d coordinates is *not* divided by d, as in the paper) and N(0, w_std^2 / width) into all later ones; every layer,
    the readout too, has biases N(0, b_std^2).

    Source: Yang & Hu, Section 2 and Table 1 (NTP at initialization); Lee et al. 2018, Eqs. 4-5.

    Args:
        x1, x2: ``(n1, d)``, ``(n2, d)``, floating, on one device.
        depth: hidden layers, at least 1.
        activation: ``"relu"``, ``"erf"`` or ``"identity"``.
        w_std, b_std: standard deviations as above; ReLU keeps the scale through layers at ``w_std = sqrt(2)``.

    Returns:
        ``(n1, n2)``, of the inputs' dtype, but worked out in float64 whatever that is: variances of the layers in
        between may leave the range of float32, and float32 angles are no better than 3e-4. Work goes in blocks of rows,
        so that beyond the result and a float64 copy of ``x2`` the memory is bounded (except under autograd, which keeps
        the whole graph). Cosines are clamped to [-1, 1] before arccos: at distance 0 rounding costs at most about
        sqrt(2 eps) = 2e-8 in an angle; the ReLU NNGP depends on the angle smoothly enough to stay exact to eps, the NTK
        carries that error times Theta^l / (2 pi). A zero vector has the kernel of the biases alone.

    Raises:
        InputError: wrong shapes or dtypes, depth below 1, a negative standard deviation, unknown activation; inputs
            that are not finite; a kernel beyond the range of the inputs' dtype (smaller than it holds: 0).

    Example:
        >>> x = torch.eye(2, dtype=torch.float64)
        >>> nngp(x, x, depth=1) * 2 * math.pi  # pi on the diagonal; 1 for orthogonal unit vectors
        tensor([[3.1416, 1.0000],
                [1.0000, 3.1416]], dtype=torch.float64)
    """
    return _recursion(x1, x2, depth, activation, w_std, b_std, tangent=False)


def ntk(
    x1: Tensor, x2: Tensor, depth: int, activation: str = "relu", w_std: float = 1.0, b_std: float = 0.0
) -> Tensor:
    """Neural tangent kernel of an infinitely wide network in the NTK parametrization.

    The inner product of the output's gradients, over all weights and biases, layer by layer from below::

        T^1(x, y)     = S^1(x, y)
        T^{l+1}(x, y) = S^{l+1}(x, y)  +  w_std^2  E phi'(h^l(x)) phi'(h^l(y))  T^l(x, y)
                        \\___________/     \\_________________________________________/
                        layer l+1's own     layers 1..l, seen through layer l+1
                        weights and bias

    with S^l and h^l as in `nngp`; the result is T^{depth+1}. The trained parameters are N(0, 1), multiplied by w_std,
    w_std / sqrt(width) or b_std where they are used; at infinite width T stays fixed while they train, and so training
    is kernel descent: ``f(x) -= rate * sum_i T(x, x_i) dL/df(x_i)``.

    Source: Yang & Hu, Section 3 (kernel regime) and Corollary 3.9; Jacot et al. 2018, Theorem 1.

    Args, returns and errors as in `nngp`.

    Example:
        >>> x = torch.eye(2, dtype=torch.float64)
        >>> ntk(x, x, depth=1, activation="identity")  # two layers, x.y each
        tensor([[2., 0.],
                [0., 2.]], dtype=torch.float64)
    """
    return _recursion(x1, x2, depth, activation, w_std, b_std, tangent=True)


def _recursion(
    x1: Tensor, x2: Tensor, depth: int, activation: str, w_std: float, b_std: float, tangent: bool
) -> Tensor:
    _check_inputs(x1, x2)
    depth = whole("depth", depth, example=1)
    w2, b2 = real("w_std", w_std, least=0) ** 2, real("b_std", b_std, least=0) ** 2
    duals, wide = dual(activation), x2.double()

    def variances(x: Tensor) -> list[Tensor]:
        """S^l(x, x) for l = 1..depth, (n,) each: exact on the diagonal, where no product of matrices has rounded."""
        found = [w2 * (x * x).sum(1) + b2]
        for _ in range(depth - 1):
            found.append(w2 * duals.value(found[-1], found[-1], found[-1]) + b2)
        return found

    def block(rows: Tensor) -> Tensor:
        rows = rows.double()
        own = variances(rows)
        s = w2 * (rows @ wide.T) + b2
        t = s
        for s11, s22 in zip(own, others):
            through = duals.derivative(s, s11[:, None], s22) if tangent else None
            s = w2 * duals.value(s, s11[:, None], s22) + b2
            t = s + w2 * through * t if tangent else s
        result = t.to(x1.dtype)
        if not result.isfinite().all():
            _refuse_overflow(own, others, result.dtype)
        return result

    others = variances(wide)
    step = max(1, BLOCK // max(1, len(x2)))
    if len(x1) <= step or (torch.is_grad_enabled() and (x1.requires_grad or x2.requires_grad)):
        return block(x1)
    result = x1.new_empty((len(x1), len(x2)))
    for start in range(0, len(x1), step):
        result[start : start + step] = block(x1[start : start + step])
    return result


def _check_inputs(x1: Tensor, x2: Tensor) -> None:
    if x1.ndim != 2 or x2.ndim != 2 or x1.shape[1] != x2.shape[1]:
        raise InputError(
            f"inputs of shapes {tuple(x1.shape)} and {tuple(x2.shape)}; expected (n1, d) and (n2, d); "
            "flatten each input to one row"
        )
    if x1.dtype != x2.dtype or not x1.is_floating_point():
        raise InputError(
            f"inputs of types {x1.dtype} and {x2.dtype}; expected one floating type; call .float()"
        )
    for name, x in (("x1", x1), ("x2", x2)):
        bad = (~x.isfinite()).sum().item()
        if bad:
            raise InputError(
                f"{name} holds {bad} numbers that are NaN or infinite; expected finite inputs; "
                f"try {name}[{name}.isfinite().all(1)]"
            )


def _refuse_overflow(own: list[Tensor], others: list[Tensor], dtype: torch.dtype) -> NoReturn:
    """Say at which layer the variances leave the range of the inputs' dtype (the readout is layer depth + 1)."""
    limit = torch.finfo(dtype).max
    large = [max(float(s.max()) for s in pair) > limit for pair in zip(own, others)]
    layer = large.index(True) + 1 if True in large else len(large) + 1
    more = "" if dtype == torch.float64 else ", or inputs in float64"
    raise InputError(
        f"the kernel leaves the range of {dtype} at layer {layer} of {len(large) + 1}; expected entries up to "
        f"{limit:.3g}; try a smaller w_std or depth{more}"
    )
