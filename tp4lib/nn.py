r"""Perceptrons in any abc-parametrization, and the learning rates that belong to them.

    h^1 = W^1 xi + B^1,   x^l = phi(h^l),   h^{l+1} = W^{l+1} x^l + B^{l+1},   f = W^{L+1} x^L + B^{L+1},
    W^l = alpha_l n^{-a_l} w^l,   w^l_ij ~ N(0, (sigma_l n^{-b_l})^2),   rate of w^l: eta n^{-c}

Source: Yang & Hu 2021 (arXiv 2011.14522), section 3; alpha_l and sigma_l (1 in the paper) and the base width are
those of Yang et al. 2022 (Tensor Programs V, arXiv 2203.03466). Multipliers are plain numbers of modules, so that
deepcopy, `state_dict`, `torch.func`, `torch.compile` and `DistributedDataParallel` keep them.

>>> from tp4lib.parametrization import mup
>>> model = MLP(d_in=3, width=64, d_out=1, parametrization=mup(2), seed=0)
>>> optimizer = torch.optim.SGD(param_groups(model, lr=0.1), momentum=0.9)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tp4lib.activations import ActivationLike, activation_of
from tp4lib.base import checks
from tp4lib.base.checks import floating, real, whole
from tp4lib.base.device import resolve_optional
from tp4lib.base.errors import InputError
from tp4lib.parametrization import ABC, check_parametrization


class ABCLinear(nn.Module):
    r"""The l-th affine layer of an abc-parametrized perceptron.

        y = W x + B,   W = alpha n^{-a_l} w,   w_ij ~ N(0, (sigma n^{-b_l})^2),   B = n^{-a_B} beta,   beta_i = 0

    Source: Yang & Hu 2021, section 3. A hidden bias is a weight on the constant input 1, so it is scaled like the input
    weights, a_B = a_1 (Tensor Programs V, Table 8: "input weights & all biases"). The output bias has no width in it:
    a_B = -c/2 cancels the rate's n^{-c}, so that it moves by Theta(1) per step.

    Args:
        in_features, out_features: of `x` and `y`. Width is out_features in layer 1, in_features in the others.
        layer: l, from 1 (input) to L + 1 (output).
        base_width: count width in units of this one, n = width / base_width (None: n = width, as in the paper).
        std: sigma. Default: 1, as in the paper, without a base width; with one, 1/sqrt(fan-in at the base width), so
            that at width == base_width every parametrization is the standard one.
        multiplier: alpha, a hyperparameter that does not depend on width.
        generator: None: torch's global one. The same one gives the same w, up to the factor, everywhere on an orbit.

    Shapes: x (..., in_features) -> y (..., out_features).

    >>> from tp4lib.parametrization import mup
    >>> ABCLinear(3, 64, mup(2), layer=1)(torch.zeros(5, 3)).shape
    torch.Size([5, 64])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        parametrization: ABC,
        layer: int,
        *,
        bias: bool = False,
        base_width: int | None = None,
        std: float | None = None,
        multiplier: float = 1.0,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_parametrization(parametrization)
        last = parametrization.depth + 1
        layer = whole("layer", layer, most=last, example=1)
        in_features, out_features = whole("in_features", in_features), whole("out_features", out_features)
        base_width = None if base_width is None else whole("base_width", base_width)
        dtype, device = floating("dtype", dtype), resolve_optional(device)
        self.in_features, self.out_features = in_features, out_features
        self.parametrization, self.layer, self.base_width = parametrization, layer, base_width
        p, l = parametrization, layer - 1  # noqa: E741 - the paper's letter, counted from 0

        self.n = (out_features if layer == 1 else in_features) / (base_width or 1)
        if std is None:
            base_fan_in = in_features if layer == 1 else base_width
            std = 1.0 if base_width is None else 1 / math.sqrt(base_fan_in)
        self.std = real("std", std, least=0) * self.n ** -p.b[l]
        self.multiplier = real("multiplier", multiplier) * self.n ** -p.a[l]
        # A hidden bias is scaled like input weights, and the output's so that rate and multiplier cancel (see above).
        bias_a = p.a[0] if layer < last else -p.c / 2
        self.bias_multiplier = self.n**-bias_a
        # For `rates`: what each kind of optimizer multiplies the rates of w and of beta by.
        bias_adam = p.adam_exponents[0] if layer < last else p.c / 2
        self.rate = {"sgd": self.n**-p.c, "adam": self.n ** -p.adam_exponents[l]}
        self.bias_rate = {"sgd": self.n**-p.c, "adam": self.n**-bias_adam}

        self.weight = nn.Parameter(torch.empty(out_features, in_features, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype)) if bias else None
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw w ~ N(0, (sigma n^{-b_l})^2) anew and set beta = 0."""
        # On the generator's device, so that one seed gives the same network everywhere.
        where = self.weight.device if generator is None else generator.device
        w = torch.randn(self.weight.shape, generator=generator, device=where, dtype=self.weight.dtype)
        self.weight.copy_(w.mul_(self.std))
        if self.bias is not None:
            self.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias_multiplier * self.bias
        return F.linear(self.multiplier * x, self.weight, bias)

    def extra_repr(self) -> str:
        p, l = self.parametrization, self.layer - 1  # noqa: E741
        size = f"{self.in_features}, {self.out_features}, layer={self.layer}, a={p.a[l]:g}, b={p.b[l]:g}, c={p.c:g}"
        base = "" if self.base_width is None else f", base_width={self.base_width}"
        return size + base + f", bias={self.bias is not None}"


class MLP(nn.Module):
    r"""An L-hidden-layer perceptron in an abc-parametrization, from which L is read.

        h^1 = W^1 xi,   x^l = phi(h^l),   h^{l+1} = W^{l+1} x^l,   f(xi) = W^{L+1} x^L        (W^l: see `ABCLinear`)

    Source: Yang & Hu 2021, section 3, equation (1).

    Args:
        d_in, width, d_out: dimensions of xi, of every hidden layer, of f.
        activation: a name of the table or any elementwise function, see `tp4lib.activations.activation_of`.
        bias: biases in every layer, initially 0. The paper's networks have none.
        base_width: None for the paper's scaling in n = width. With a number, n = width / base_width, and at width ==
            base_width the network is the standard parametrization's, variance 1/fan-in and one rate for all layers:
            tune there, then change `width` alone (muTransfer, Tensor Programs V, section 4).
        std: sigma_l, one number for all layers or L + 1 of them, in place of the default (see `ABCLinear`; None among
            them keeps it: `std=[None, None, 0.0]` initializes the readout to zero).
        multipliers: alpha_l, L + 1 numbers, tuned once and kept at every width (Tensor Programs V, section 6).
        seed: of the initialization; None: torch's global generator.

    Shapes: xi (..., d_in) -> f (..., d_out).

    >>> from tp4lib.parametrization import mup
    >>> MLP(3, 64, 1, mup(2), activation="tanh", seed=0)(torch.ones(5, 3)).shape
    torch.Size([5, 1])
    """

    def __init__(
        self,
        d_in: int,
        width: int,
        d_out: int,
        parametrization: ABC,
        activation: ActivationLike = "relu",
        *,
        bias: bool = False,
        base_width: int | None = None,
        std: float | Sequence[float | None] | None = None,
        multipliers: Sequence[float] | None = None,
        seed: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_parametrization(parametrization)
        d_in, width, d_out = whole("d_in", d_in), whole("width", width), whole("d_out", d_out)
        # One generator for all layers, so that no two are alike.
        generator = None if seed is None else torch.Generator().manual_seed(checks.seed(seed))
        count = parametrization.depth + 1
        stds = _per_layer("std", std, count)
        alphas = _per_layer("multipliers", 1.0 if multipliers is None else multipliers, count)
        sizes = [d_in, *[width] * parametrization.depth, d_out]
        self.parametrization, self.width = parametrization, width
        self.activation, self.phi, *_ = activation_of(activation)
        same = dict(bias=bias, base_width=base_width, generator=generator, device=device, dtype=dtype)
        each = enumerate(zip(sizes, sizes[1:], stds, alphas), start=1)
        self.layers = nn.ModuleList(
            ABCLinear(d, o, parametrization, layer, std=sigma, multiplier=alpha, **same)
            for layer, (d, o, sigma, alpha) in each
        )

    def forward(self, xi: Tensor) -> Tensor:
        x = xi
        for layer in self.layers[:-1]:
            x = self.phi(layer(x))  # (..., width)
        return self.layers[-1](x)

    def preactivations(self, xi: Tensor) -> list[Tensor]:
        """h^1, .., h^L, each (..., width), and f, (..., d_out), at the inputs xi (..., d_in)."""
        h = [self.layers[0](xi)]
        for layer in self.layers[1:]:
            h.append(layer(self.phi(h[-1])))
        return h


COUPLED = ("adam", "rmsprop", "adagrad")  # torch.optim adds their weight decay to the gradient
_KINDS = {"sgd": "sgd", "adamw": "adam"} | dict.fromkeys(COUPLED, "adam")


def rates(model: nn.Module, optimizer: str = "sgd") -> dict[str, float]:
    r"""What the learning rate eta is multiplied by for each parameter, by its name in `model.named_parameters()`.

        SGD: n^{-c} for all;      Adam: n^{-c_l} with `ABC.adam_exponents`;      n = width / base width

    Source: Yang & Hu 2021, section 3 (SGD); Yang et al. 2022 (Tensor Programs V), Table 8 (Adam). "sgd" is for steps
    linear in the gradient (momentum too); "adam", "adamw", "rmsprop" and "adagrad" share the rule of steps that do not
    depend on the gradient's size. Adam's epsilon must stay small beside the gradients, which in muP shrink with width.

    >>> from tp4lib.parametrization import mup
    >>> rates(MLP(3, 64, 1, mup(2)), "adam")
    {'layers.0.weight': 0.125, 'layers.1.weight': 0.015625, 'layers.2.weight': 0.125}
    """
    if optimizer not in _KINDS:
        raise InputError(
            f"optimizer = {optimizer!r}; known are {', '.join(_KINDS)}; try optimizer='adamw' for torch.optim.AdamW"
        )
    kind = _KINDS[optimizer]
    found: dict[int, float] = {}
    for module in model.modules():
        if isinstance(module, ABCLinear):
            found[id(module.weight)] = module.rate[kind]
            if module.bias is not None:
                found[id(module.bias)] = module.bias_rate[kind]
    scales = {}
    for name, parameter in model.named_parameters():
        if id(parameter) not in found:
            raise InputError(
                f"parameter {name!r} is not in an ABCLinear, so its rate is not defined; "
                "give its group to the optimizer yourself and pass the ABC part of the model here"
            )
        scales[name] = found[id(parameter)]
    return scales


def param_groups(
    model: nn.Module, lr: float, optimizer: str = "sgd", weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    r"""Parameter groups with the rates eta n^{-c_l} for any torch optimizer; one group per distinct rate and decay.

    `weight_decay` is lambda at the base width. What it is multiplied by depends on where the optimizer puts it:

        "sgd", "adamw"                  w <- (1 - lr_g lambda_g) w - ..:     lambda_g = lambda lr / lr_g
        "adam", "rmsprop", "adagrad"    g <- g + lambda_g w, normalized:     lambda_g = lambda n^c

    Decoupled, or in SGD, a step shrinks weights by the factor 1 - lr lambda at every width. Coupled, the decay is
    normalized together with the gradient, so their ratio must not depend on the width. Entries of dLoss/dw^l are of
    size n^{c - c_l} (Adam's step is n^{-c_l} where SGD's is n^{-c} times the gradient), and training's part of w^l is
    of size n^{-c_l}: the ratio is n^c in every layer, so muP (c = 0) takes lambda as it stands. (The initial part of a
    hidden matrix is larger, n^{-1/2}, and disturbs the normalization for about sqrt(n) steps; AdamW's decay acts at
    once.)

    Schedules that multiply every group's rate keep the ratios: `LambdaLR`, `StepLR`, `CosineAnnealingLR` with
    eta_min=0. Those that set one rate for all groups erase them, and with them the parametrization:
    `OneCycleLR(max_lr=0.1)`, `CyclicLR`, `CosineAnnealingLR(eta_min=1e-4)`. Write
    `OneCycleLR(optimizer, max_lr=[group["lr"] for group in optimizer.param_groups], ..)`.

    Source: see `rates`. The model (compiled or wrapped in DDP or not) holds its parameters in `ABCLinear` layers.

    >>> from tp4lib.parametrization import mup
    >>> model = MLP(3, 64, 1, mup(2), seed=0)
    >>> [group["lr"] for group in torch.optim.AdamW(param_groups(model, 1e-2, "adamw")).param_groups]
    [0.00125, 0.00015625]
    """
    lr, decay = real("lr", lr, least=0, example=0.1), real("weight_decay", weight_decay, least=0, example=0.1)
    parameters, scales = dict(model.named_parameters()), rates(model, optimizer)
    decays = rates(model, "sgd") if optimizer in COUPLED else scales  # n^-c, or lr_g / lr
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, scale in scales.items():
        groups.setdefault((scale, decay / decays[name]), []).append(parameters[name])
    return [
        {"params": members, "lr": lr * scale} | ({"weight_decay": own_decay} if decay else {})
        for (scale, own_decay), members in groups.items()
    ]


def _per_layer(name: str, value: float | Sequence[float | None] | None, count: int) -> list[float | None]:
    if isinstance(value, str) or not hasattr(value, "__len__"):  # one number for all, looked at by the layers
        return [value] * count
    if len(value) != count:
        raise InputError(
            f"{name} has {len(value)} numbers; one per layer, {count}, are needed; try {name}={[1.0] * count}"
        )
    return list(value)
