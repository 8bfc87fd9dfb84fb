r"""Any abc-parametrization for any `torch.nn.Module`, without a change to its code.

Each layer alone has the symmetry (a, b, c) ~ (0, a + b, c + 2a) under SGD and (0, a + b, c_l + a) under Adam: a
multiplier n^-a in the forward pass can always be moved into the initialization and the learning rate. So every
multiplier can be 1. `scale` rescales the initialization of `make(width)` in place and gives the optimizer one group
per learning rate; the module's classes, forward code and `state_dict` stay what they are.

With m = (length of an axis) / (its length in `make(base)`), a parameter w of layer l is initialized and trained with

    w_0 <- m^-(a_l + b_l) (scale of w_0 in make(base)),    rate: eta m^-(c + 2 a_l) (SGD),  eta m^-(c_l + a_l) (Adam)

so that at width == base nothing changes: tune there, then change the width alone. What grows tells the role:

| role   | what it is                         | grows       | muP: init x | SGD rate x | Adam rate x | Adam eps x |
|--------|------------------------------------|-------------|-------------|------------|-------------|------------|
| input  | embedding, first layer, depthwise  | fan-out     | 1           | m          | 1           | 1/m        |
| vector | bias, gain of a normalization      | fan-out     | 1           | m          | 1           | 1/m        |
| hidden | matrix, convolution, recurrence    | both        | m^-1/2      | m_out/m_in | 1/m_in      | 1/m_out    |
| output | readout, router                    | fan-in      | 1/m         | 1/m        | 1/m         | 1          |
| finite | all else                           | nothing     | 1           | 1          | 1           | 1          |

Sources: Yang & Hu 2021 (Tensor Programs IV, arXiv 2011.14522), section 3; Yang et al. 2022 (Tensor Programs V, arXiv
2203.03466), Table 3. Adam compares eps with a gradient, so eps scales like the gradient: an entry of dLoss/dw^l is one
of df/dh^l, of size m^-min(a_{L+1} + b_{L+1}, 2 a_{L+1} + c), times one of x^{l-1}, of size 1; in the readout it is 1.

>>> from tp4lib.parametrization import mup
>>> def make(width):
...     return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
>>> net = scale(make, width=256, base=64, parametrization=mup(2))
>>> net.rows["2.weight"].role, net.rows["2.weight"].adam
('hidden', 0.25)
>>> optimizer = torch.optim.AdamW(net.groups(lr=2**-8, optimizer="adam", weight_decay=0.1))
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tp4lib.base.checks import real, whole
from tp4lib.base.errors import InputError
from tp4lib.base.files import write_json
from tp4lib.base.tables import TextTable
from tp4lib.parametrization import ABC, check_parametrization, mup
from tp4lib.scale.roles import Reader, first_match, pattern_of

DECAY_IN_GRADIENT = ("rmsprop", "adagrad")  # torch.optim adds their weight decay to the gradient
OPTIMIZER_NAMES = ("sgd", "adam", "adamw", *DECAY_IN_GRADIENT)
WRAPPERS = re.compile(r"\b(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


@dataclass(frozen=True)
class Row:
    """How the width enters one parameter; `init`, `sgd`, `adam` and `eps` are factors on the values at the base width.

    growth: (out, in), how many times wider than at the base; 1 along an axis that does not grow.
    start, step: predicted powers of the width of what the initial value, and an update, put into the module's output.
    decays: whether weight decay applies; it does not to biases and gains. source: of the rule.
    """

    shape: tuple[int, ...]
    role: str
    growth: tuple[float, float]
    init: float
    sgd: float
    adam: float
    eps: float
    start: float
    step: float
    decays: bool
    source: str


class Scaled:
    """A module with scaled initialization, and the learning rates that belong to it; made by `scale` or `load`.

    `model` may be compiled or wrapped by DistributedDataParallel afterwards; its parameters stay the same. The rates of
    a copy are those of `Scaled(copy, net.rows)`.
    """

    def __init__(self, model: nn.Module, rows: Mapping[str, Row]) -> None:
        self.model, self.rows = model, dict(rows)
        found = {name: tuple(p.shape) for name, p in self.parameters()}
        for name in (*found, *self.rows):
            have, want = found.get(name), self.rows[name].shape if name in self.rows else None
            if have != want:
                raise InputError(
                    f"{name} is {have or 'absent'} in the model, {want or 'absent'} in the table; expected the model "
                    "of the table; load the table of this model, or scale it anew"
                )

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The model's parameters and their names, without the prefixes of DDP, FSDP and `torch.compile`."""
        return ((WRAPPERS.sub("", name), p) for name, p in self.model.named_parameters())

    def groups(
        self, lr: float, optimizer: str = "adam", weight_decay: float = 0.0, eps: float = 1e-8
    ) -> list[dict[str, Any]]:
        """Parameter groups for a torch optimizer, one per rate; rate x decay is one number in all that decay.

        Decay is decoupled, as in AdamW and SGD: a step shrinks every matrix by lr x weight_decay, whatever its rate.
        The groups tell `torch.optim.Adam` so, unlike those of `tp4lib.nn.param_groups`, where "adam" means decay in the
        gradient and "adamw" decoupled decay. RMSprop and Adagrad know only decay in the gradient, which is given the
        factor of dLoss/dw over w, so that both scale alike; the initial value of a hidden matrix is larger than what is
        learned, and disturbs the normalization until decay has removed it.
        Schedules must multiply (`LambdaLR`, `CosineAnnealingLR` down to 0): those that set one rate for all groups
        (`OneCycleLR(max_lr=0.1)`, `eta_min` above 0) erase the parametrization.

        Args:
            lr, weight_decay, eps: at the base width. Biases and gains have no decay.
            optimizer: "sgd" for updates linear in the gradient (SGD, momentum), "adam" or "adamw" for updates that do
                not depend on the gradient's size (Adam, AdamW, Lion), "rmsprop" and "adagrad" by their names.
        """
        lr = real("lr", lr, least=0, example=0.01)
        weight_decay = real("weight_decay", weight_decay, least=0, example=0.1)
        eps = real("eps", eps, least=0, example=1e-8)
        kind = optimizer_kind(optimizer)
        found: dict[tuple[float, ...], dict[str, Any]] = {}
        for name, parameter in self.parameters():
            row = self.rows[name]
            rate = getattr(row, kind)
            decay = weight_decay / (row.sgd if optimizer in DECAY_IN_GRADIENT else rate)
            group = {"params": [], "lr": lr * rate, "weight_decay": decay if row.decays else 0.0}
            if kind == "adam":
                group |= {"eps": eps * row.eps, "decoupled_weight_decay": optimizer not in DECAY_IN_GRADIENT}
            found.setdefault(tuple(list(group.values())[1:]), group)["params"].append(parameter)
        return list(found.values())

    def table(self) -> TextTable:
        """A line per parameter (blocks that are alike share lines): role, growth, factors, and the rule's source."""
        factors = [f"{what} ×" for what in ("init", "SGD rate", "Adam rate", "decay", "eps")]
        head = ["parameter", "shape", "role", "growth", *factors, "rule"]
        lines: dict[tuple[str, ...], None] = {}
        for name, row in self.rows.items():
            growth = " / ".join(f"{g:g}" for g in dict.fromkeys(row.growth) if g != 1) or "1"
            decay = f"{1 / row.adam:.4g}" if row.decays else "none"  # AdamW's
            factors = (f"{row.init:.4g}", f"{row.sgd:.4g}", f"{row.adam:.4g}", decay, f"{row.eps:.4g}")
            shape = " × ".join(map(str, row.shape))
            lines[(pattern_of(name), shape, row.role, growth, *factors, row.source)] = None
        return TextTable(head, [list(line) for line in lines])

    def save(self, path: str | Path) -> None:
        """Write the table as JSON, by parameter name: all that a resumed or sharded run needs for its groups."""
        write_json(path, {"tp4 scale": 1, "rows": {name: asdict(row) for name, row in self.rows.items()}})

    @classmethod
    def load(cls, path: str | Path, model: nn.Module) -> "Scaled":
        """The saved table for `model`, whose values stay as they are (they come from its own checkpoint)."""
        try:
            rows = {
                name: Row(**row | {"shape": tuple(row["shape"]), "growth": tuple(row["growth"])})
                for name, row in json.loads(Path(path).read_text("utf-8"))["rows"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"cannot read {path} ({type(error).__name__}); expected a table that .save wrote; name another file"
            ) from None
        return cls(model, rows)


def scale(
    make: Callable[[int], nn.Module],
    width: int,
    base: int,
    parametrization: ABC,
    roles: Mapping[str, str | tuple[int | None, int | None]] | None = None,
    fold: Mapping[str, float] | None = None,
) -> Scaled:
    """Make a network of any width and put it into an abc-parametrization; the module's docstring has the rules.

    What `make` initializes at the base width is kept there; elsewhere each parameter's scale is that of the base
    width times the rule's factor, whatever powers of the width are in `make`'s own initialization. The random numbers
    drawn are those of `make(width)`: a seed gives the network it gives without `scale`, but for a factor per parameter.

    Args:
        make: width -> module. Also called for `base` and, on the meta device if it allows that, for `2 * base`.
        parametrization: `mup(2)`, `standard(2)`, `ntp(2)`, or any ABC whose hidden layers share one pair (a, b).
        roles: {pattern: role} where shapes do not tell it: "input", "vector", "hidden", "output", "finite", or (out
            axis, in axis). Patterns are a shell's, such as "blocks.*.weight".
        fold: {pattern: e}: a further multiplier m^-e, put into initialization and rates. {"*.q.*": 0.5} makes
            attention logits q k / d of q k / sqrt(d), where the head dimension d grows; {"ln_f.*": 1}, before a readout
            that is tied to the embedding, is its 1/m.
    """
    width, base = whole("width", width), whole("base", base)
    if not callable(make) or isinstance(make, nn.Module):
        what = f"make is a {type(make).__name__}"
        raise InputError(f"{what}; expected a function of the width; try lambda width: ..")
    if base > width:
        raise InputError(f"base = {base} is above width = {width}; expected base <= width; try base={width}")
    check_parametrization(parametrization)
    _check_hidden_layers(parametrization)
    model = _made(make, width)
    # The state of all random numbers is afterwards that after make(width).
    gpus = {p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(gpus):
        small = model if width == base else _made(make, base)
        again, wider = _shapes_only(make, base), _shapes_only(make, 2 * base)
    _check_shapes([base, base, 2 * base, width], [small, again, wider, model])
    maximal = parametrization.same_orbit(mup(parametrization.depth))
    fold = dict(fold or {})
    found = Reader(small, wider, model, dict(roles or {}), fold, maximal).read()
    old, rows = dict(small.named_parameters()), {}
    for name, p in model.named_parameters():
        rows[name] = _row(name, p, *found[name], parametrization, first_match(fold, name) or 0.0)
        if width != base:
            with torch.no_grad():
                p.mul_(rows[name].init / _own_growth(p, old[name], width / base))
    return Scaled(model, rows)


def optimizer_kind(optimizer: str) -> str:
    """ "sgd" or "adam": which column of rates an optimizer takes."""
    if optimizer not in OPTIMIZER_NAMES:
        raise InputError(
            f"optimizer = {optimizer!r}; known are {', '.join(OPTIMIZER_NAMES)}; try optimizer='adam'"
        )
    return "sgd" if optimizer == "sgd" else "adam"


def _row(name: str, w: Tensor, role: str, growth: tuple[float, float], p: ABC, fold: float) -> Row:
    (out, into), shape, decays = growth, tuple(w.shape), role != "vector" and w.dim() > 1
    if role == "finite":
        return Row(shape, role, growth, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, decays, "does not grow")
    label, maximal = p.name or "this ABC", p.same_orbit(mup(p.depth))
    if role == "hidden" and p.depth < 2:
        raise InputError(
            f"{name} is hidden, for which {label} has no exponents; expected two hidden layers; try mup(2)"
        )
    l = {"input": 0, "vector": 0, "hidden": 1, "output": p.depth}[role]  # noqa: E741 - the paper's letter, from 0
    m = out if l == 0 else into
    a, c_adam = p.a[l] + fold, p.adam_exponents[l] + p.a[l] + fold
    c_sgd, ratio = p.c + 2 * a, 1.0
    if role == "hidden" and out != into:  # Tensor Programs V, Table 3, has fan-out / fan-in
        if not maximal and (c_adam or c_sgd):
            raise InputError(
                f"{name} grows {out:g} times along out and {into:g} times along in, for which {label} has no rate; "
                "expected equal growth; make both proportional to the width, or use mup(2)"
            )
        ratio = out / into if maximal else 1.0
    # df/dh^l is of size m^-backward per coordinate: c_l = a_l + c + backward (see ABC.adam_exponents).
    backward = 0.0 if role == "output" else p.adam_exponents[0] - p.a[0] - p.c
    eps = (into if role == "output" else out) ** (fold - backward)
    # A growing fan-in is summed over: m^1/2 for independent terms (initialization), m for aligned ones (updates).
    terms = 0.0 if l == 0 else 1.0
    source = f"TP V, Table 3: {role}" if maximal else f"TP IV, section 3: {label}, {role}"
    source += f"; fold m^{-fold:g}" if fold else ""
    init, start = m ** -(a + p.b[l]), terms / 2 - a - p.b[l]
    sgd, adam, step = m**-c_sgd * ratio, m**-c_adam, terms - c_adam
    return Row(shape, role, growth, init, sgd, adam, eps, start, step, decays, source)


def _own_growth(new: Tensor, old: Tensor, growth: float) -> float:
    """Root mean square of `new` over that of `old`: how make's own initialization goes with the width.

    Two samples of N entries give their ratio to about N^-1/2. Where that is far finer than the step from one power of
    growth^1/2 to the next, and the ratio lies at one of them, it is that power, and the seed's noise stays out.
    """
    sizes = [float(p.detach().double().square().mean().sqrt()) for p in (new, old)]
    if min(sizes) == 0:
        return 1.0  # zeros stay zeros
    log, step = math.log(sizes[0] / sizes[1]), math.log(growth) / 2
    power, noise = round(log / step), math.sqrt(0.5 / new.numel() + 0.5 / old.numel())
    exact = abs(log - power * step)
    sure = exact < 1e-6 or (8 * noise < step and exact < 4 * noise)
    return growth ** (power / 2) if sure else math.exp(log)


def _made(make: Callable[[int], nn.Module], width: int) -> nn.Module:
    try:
        model = make(width)
    except Exception as error:
        if isinstance(error, InputError):
            raise
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise InputError(
            f"make({width}) raises {what}; expected a module at base, 2 x base and width; try a base that make allows"
        ) from error
    if not (isinstance(model, nn.Module) and any(True for _ in model.parameters())):
        raise InputError(
            f"make({width}) is a {type(model).__name__} without parameters; expected a torch.nn.Module; return it"
        )
    for name, p in model.named_parameters():
        if isinstance(p, nn.parameter.UninitializedParameter):
            raise InputError(
                f"{name} has no shape yet; expected known shapes; run a batch through the model in make"
            )
    return model


def _shapes_only(make: Callable[[int], nn.Module], width: int) -> nn.Module:
    """`make(width)` on the meta device, without memory or time; for real if it does what that device cannot."""
    try:
        with torch.device("meta"):
            return _made(make, width)
    except InputError:
        return _made(make, width)


def _check_shapes(widths: list[int], models: list[nn.Module]) -> None:
    """The shapes at base, base once more, 2 x base and width: the same names, and axes that grow or stay."""
    base, _, double, width = widths
    shapes = [{name: tuple(p.shape) for name, p in model.named_parameters()} for model in models]
    for name in {name: None for found in shapes for name in found}:
        small, again, wider, asked = (found.get(name) for found in shapes)
        if small != again:
            raise InputError(
                f"two calls of make({base}) differ: {name} is {small}, then {again}; expected the same shapes for one "
                "width; take what is drawn or counted out of make"
            )
        if len({shape and len(shape) for shape in (small, wider, asked)}) > 1:
            raise InputError(
                f"the structure changes with width: {name} is {small}, {wider}, {asked} at {base}, {double}, {width}; "
                "expected the same parameters at all; keep depth and options fixed in make"
            )
        for a, b, c in zip(small, wider, asked, strict=True):
            if b < a or c < a or (a == b and a != c):
                raise InputError(
                    f"an axis of {name} has length {a}, {b}, {c} at {base}, {double}, {width}; expected one that grows "
                    "with the width or stays; try another base"
                )
    if shapes[0] == shapes[2]:
        raise InputError(
            f"make({base}) and make({double}) have the same shapes; expected a network that grows with the width; "
            "use the argument of make in its layers"
        )


def _check_hidden_layers(p: ABC) -> None:
    if len(set(p.a[1:-1])) > 1 or len(set(p.b[1:-1])) > 1:
        raise InputError(
            f"{p!r} has several pairs (a, b) for hidden layers; expected one for all; repeat one of them"
        )
