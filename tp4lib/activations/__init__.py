"""Activations: phi, phi' and the dual kernel of each, in one table that every other module reads.

To add one, add a row: everything that takes ``activation=`` then knows it by name. Any elementwise function of tensors
is accepted without a row; its derivative is autograd's, its dual kernel the Hermite expansion.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tp4lib.activations.duals import Dual, Erf, Function, Identity, Quadratic, ReLU, Split
from tp4lib.activations.hermite import Hermite, slope_of
from tp4lib.base.errors import InputError

__all__ = ["ACTIVATIONS", "Activation", "ActivationLike", "Dual", "Hermite", "Split", "activation_of", "dual"]


class Activation(NamedTuple):
    """An activation.

    Attributes:
        name: as users type it.
        phi: elementwise, on tensors and on the vectors of a tensor program.
        slope: phi'.
        closed: its dual kernel in closed form, or None, for the Hermite expansion.
    """

    name: str
    phi: Function
    slope: Function
    closed: type[Dual] | None = None


def _identity(h: Tensor) -> Tensor:
    return h


def _gelu_slope(h: Tensor) -> Tensor:
    """Phi(h) + h Phi'(h), of the normal distribution function Phi: gelu(h) = h Phi(h)."""
    return 0.5 * (1 + torch.erf(h / math.sqrt(2))) + h * torch.exp(-h * h / 2) / math.sqrt(2 * math.pi)


ACTIVATIONS: dict[str, Activation] = {
    row.name: row
    for row in (
        Activation("relu", F.relu, lambda h: 1.0 * (h > 0), ReLU),
        Activation("erf", torch.erf, lambda h: 2 / math.sqrt(math.pi) * torch.exp(-h * h), Erf),
        Activation("tanh", torch.tanh, lambda h: 1 - torch.tanh(h) ** 2),
        Activation("gelu", F.gelu, _gelu_slope),
        Activation("identity", _identity, torch.ones_like, Identity),
        Activation("quadratic", torch.square, lambda h: 2 * h, Quadratic),
    )
}
_ALIASES = {"linear": "identity"}
ActivationLike = str | Function | Activation | Dual


def activation_of(activation: ActivationLike) -> Activation:
    """The row of a name ("linear" means "identity"), of any elementwise function of tensors, or of a `Dual`.

    >>> activation_of("linear").name, activation_of(torch.sin).slope(torch.zeros(1))
    ('identity', tensor([1.]))
    """
    if isinstance(activation, Activation):
        return activation
    if isinstance(activation, Dual):
        return Activation(activation.name, activation.phi, activation.slope)
    if callable(activation):
        name = getattr(activation, "__name__", "phi")
        return Activation(name, activation, slope_of(activation))
    name = _ALIASES.get(activation, activation) if isinstance(activation, str) else activation
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise InputError(
            f"activation = {activation!r}; expected one of {', '.join(ACTIVATIONS)} or a function; "
            "try activation='relu'"
        )
    return ACTIVATIONS[name]


def dual(activation: ActivationLike, terms: int = 48, nodes: int = 128) -> Dual:
    """The dual kernel of an activation: in closed form where there is one, else its `Hermite` expansion.

    >>> dual("quadratic")(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))  # E z_1^2 z_2^2
    tensor([[1.]])
    """
    if isinstance(activation, Dual):
        return activation
    name, phi, slope, closed = activation_of(activation)
    return closed(name, phi, slope) if closed else Hermite(phi, terms, nodes, name, slope)
