"""Kernels of infinitely wide networks at initialization: the NNGP and the neural tangent kernel."""

from typing import NoReturn

import torch
from torch import Tensor

from tp4lib.activations import ActivationLike, Dual, dual
from tp4lib.base.checks import real, whole
from tp4lib.base.errors import InputError

# Entries of a result that are worked on at once; every elementwise temporary has this many (32 MB in float64).
BLOCK = 1 << 22


def nngp(
    x1: Tensor,
    x2: Tensor,
    depth: int,
    activation: ActivationLike = "relu",
    w_std: float = 1.0,
    b_std: float = 0.0,
) -> Tensor:
    """Covariance of the outputs of an infinitely wide network at initialization (its Gaussian process limit).

    The covariance of one layer's preactivations, over its random weights, follows from that of the layer before::

        h^1 = W^1 x + b          S^1(x, y)     = w_std^2  x.y                       + b_std^2

                                                  [ S^l(x,x)  S^l(x,y) ]
        (h^l(x), h^l(y))  ~  N( 0,                [ S^l(x,y)  S^l(y,y) ]  )   for l = 1..depth

        h^{l+1} = W^{l+1} phi(h^l) + b    S^{l+1}(x, y) = w_std^2  E phi(h^l(x)) phi(h^l(y))  + b_std^2

    The result is S^{depth+1}, the readout's. Weights are N(0, w_std^2) into the first layer (the sum over the input's
    d coordinates is *not* divided by d, as in the paper) and N(0, w_std^2 / width) into all later ones; every layer,
    the readout too, has biases N(0, b_std^2).

    Source: Yang & Hu, Section 2 and Table 1 (NTP at initialization); Lee et al. 2018, Eqs. 4-5.

    Args:
        x1, x2: ``(n1, d)``, ``(n2, d)``, floating, on one device. depth: hidden layers, at least 1.
        activation: phi, see `tp4lib.activations.activation_of`. Closed forms are exact; a Hermite expansion (tanh,
            gelu, functions) is refused where it leaves out more than 0.1 %.
        w_std, b_std: standard deviations as above; ReLU keeps the scale through layers at ``w_std = sqrt(2)``.

    Returns:
        ``(n1, n2)``, of the inputs' dtype but computed in float64, in blocks of rows: beyond the result and a float64
        copy of ``x2`` memory is bounded (except under autograd, which keeps the whole graph). Where two inputs are
        equal, rounding costs about 2e-8 in their angle: the ReLU NNGP stays exact to eps, the NTK carries that error
        times T^l / (2 pi). A zero vector has the kernel of the biases alone.

    Example:
        >>> x = torch.eye(2, dtype=torch.float64)
        >>> nngp(x, x, depth=1) * 2 * torch.pi  # pi on the diagonal; 1 for orthogonal unit vectors
        tensor([[3.1416, 1.0000],
                [1.0000, 3.1416]], dtype=torch.float64)
    """
    return _recursion(x1, x2, depth, activation, w_std, b_std, tangent=False)


def ntk(
    x1: Tensor,
    x2: Tensor,
    depth: int,
    activation: ActivationLike = "relu",
    w_std: float = 1.0,
    b_std: float = 0.0,
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

    Args and returns as in `nngp`.

    Example:
        >>> x = torch.eye(2, dtype=torch.float64)
        >>> ntk(x, x, depth=1, activation="identity")  # two layers, x.y each
        tensor([[2., 0.],
                [0., 2.]], dtype=torch.float64)
    """
    return _recursion(x1, x2, depth, activation, w_std, b_std, tangent=True)


def covariance_dual(activation: ActivationLike) -> Dual:
    """The dual kernel for the recursions; expansions are longer than in pi-limits, where each term costs memory."""
    return dual(activation, terms=128, nodes=300)


def _recursion(
    x1: Tensor, x2: Tensor, depth: int, activation: ActivationLike, w_std: float, b_std: float, tangent: bool
) -> Tensor:
    _check_inputs(x1, x2)
    depth = whole("depth", depth, example=1)
    w2, b2 = real("w_std", w_std, least=0) ** 2, real("b_std", b_std, least=0) ** 2
    kernel, wide = covariance_dual(activation), x2.double()

    def variances(x: Tensor) -> list[Tensor]:
        """S^l(x, x) for l = 1..depth, (n,) each: exact on the diagonal, where no product of matrices has rounded."""
        found = [w2 * (x * x).sum(1) + b2]
        kernel.require_accurate(found[-1], tangent)
        for _ in range(depth - 1):
            found.append(w2 * kernel.value(found[-1], found[-1], found[-1]) + b2)
            kernel.require_accurate(found[-1], tangent)
        return found

    def block(rows: Tensor) -> Tensor:
        rows = rows.double()
        own = variances(rows)
        s = t = w2 * (rows @ wide.T) + b2  # S^1 = T^1
        for s11, s22 in zip(own, others):
            # phi' at layer l, before s moves on to S^{l+1}
            through = kernel.derivative(s, s11[:, None], s22) if tangent else None
            s = w2 * kernel.value(s, s11[:, None], s22) + b2
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
        if bad := (~x.isfinite()).sum().item():
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
