"""What each parameter of a network is - input, vector, hidden, output, finite - read off the shapes at two widths.

An axis that differs between `make(base)` and `make(2 * base)` grows with the width. For a known module it is known
which axis is the output (fan-out) and which the input (fan-in); what grows then tells the role:

    out grows: input (a vector if it is a bias or a gain);   both: hidden;   in grows: output;   none: finite.

What shapes cannot tell is never guessed: one error lists the parameters with the `roles={..}` to type.
Source: Yang et al. 2022 (Tensor Programs V, arXiv 2203.03466), Table 3 and appendix B.
"""

import difflib
import fnmatch
import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from tp4lib.base.checks import real
from tp4lib.base.errors import InputError

ROLES = ("input", "vector", "hidden", "output", "finite")
NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, _NormBase)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)  # 2-d parameters are (in, out)
GROWS = {(True, False): "input", (True, True): "hidden", (False, True): "output"}  # (out grows, in grows)
MATRICES = (nn.Linear, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)  # 2-d parameters are (out, in)

Role = tuple[str, tuple[float, float]]  # and the growth along (out, in)


class Reader:
    """Reads the role of every parameter of `model`.

    Args:
        small, wider, model: the network at the base width, at twice that (meta tensors do), and at the width asked for.
        roles: {pattern: role or (out axis, in axis)} where shapes do not tell. fold: {pattern: exponent}, see `scale`.
        maximal: whether a 1/m of a tied readout and logits q k / d are wanted (muP).
    """

    def __init__(
        self,
        small: nn.Module,
        wider: nn.Module,
        model: nn.Module,
        roles: Mapping[str, Any],
        fold: Mapping[str, float],
        maximal: bool,
    ) -> None:
        self.modules = [dict(m.named_modules()) for m in (small, wider, model)]
        self.parameters = [dict(m.named_parameters(remove_duplicate=False)) for m in (small, wider, model)]
        self.roles, self.fold, self.maximal = roles, fold, maximal
        self.unknown: dict[str, tuple[tuple[int, ...], object]] = {}  # pattern: shape, guess
        names = list(self.parameters[2])
        for pattern, said in roles.items():
            _check_pattern("roles", pattern, names)
            _check_role(pattern, said)
        for pattern, exponent in fold.items():
            _check_pattern("fold", pattern, names)
            real(f"fold[{pattern!r}]", exponent, example=0.5)

    def read(self) -> dict[str, Role]:
        """{name: (role, growth)}; a tied parameter has its first name.

        Raises:
            InputError: shapes do not tell a role, a tied parameter has two, attention logits grow; with what to type.
        """
        names: dict[int, list[str]] = {}
        for name, parameter in self.parameters[2].items():
            names.setdefault(id(parameter), []).append(name)
        found: dict[str, Role] = {}
        attention: dict[str, float] = {}
        for uses in names.values():
            by_name = {name: role for name in uses if (role := self._role(name))}
            if by_name:
                found[uses[0]] = self._only(by_name)
            attention |= self._growing_heads(uses[0])
        if self.unknown:
            shapes = ", ".join(f"{name} {tuple(shape)}" for name, (shape, _) in self.unknown.items())
            raise InputError(
                f"shapes do not tell what {shapes} is; expected 'input' (added to features), 'output' (summed against "
                "them), 'vector' (gain, bias), 'hidden' or (out axis, in axis); if the guess is right, try "
                f"roles={ ({name: guess for name, (_, guess) in self.unknown.items()}) }"
            )
        if attention:
            raise InputError(
                "a MultiheadAttention's head dimension d grows and its logits are q k / sqrt(d); expected q k / d, or "
                f"a fixed d (num_heads=width // 16); try fold={attention}, or 0 in it to keep the root"
            )
        return found

    def _role(self, name: str) -> Role | None:
        """Of one use of a parameter; None, and noted as unknown, if it cannot be told."""
        said, (where, _, leaf) = first_match(self.roles, name), name.rpartition(".")
        three = small, wider, p = [parameters[name] for parameters in self.parameters]
        # Factors along each axis, from the base to the width asked for, and to twice the base.
        grown = [new / old for old, new in zip(small.shape, p.shape, strict=True)]
        double = [new / old for old, new in zip(small.shape, wider.shape, strict=True)]
        axes = [axis for axis, factor in enumerate(double) if factor != 1]
        # Then out and in need not be told apart.
        square = len(axes) == 2 and double[axes[0]] == double[axes[1]]
        if said == "finite" or not axes:
            return "finite", (1.0, 1.0)
        if said == "hidden" and square:
            return "hidden", (grown[axes[0]], grown[axes[1]])
        if isinstance(said, str) and said != "hidden":
            # One side grows: the product is its growth, whatever the axis.
            return said, (1.0, math.prod(grown)) if said == "output" else (math.prod(grown), 1.0)
        if isinstance(said, tuple) and any(a is not None and not -p.dim() <= a < p.dim() for a in said):
            raise InputError(
                f"roles: {name} has axes 0 .. {p.dim() - 1}, not {said}; try 'hidden', or (0, 1)"
            )
        # Known modules, or the axes said: what grows between (out, in) tells the role.
        at = [modules[where] for modules in self.modules]
        old, new, asked = (_fans(module, leaf, q, said) for module, q in zip(at, three, strict=True))
        if said != "hidden" and old:
            out, into = (a != b for a, b in zip(old, new, strict=True))
            vector = said is None and (p.dim() == 1 or isinstance(at[0], NORMS))
            lookup = said is None and isinstance(at[0], EMBEDDINGS)
            if (out or into) and not (lookup and into):  # rows that grow in number are not summed over
                return "vector" if out and vector else GROWS[out, into], (
                    asked[0] / old[0],
                    asked[1] / old[1],
                )
        # For the message alone: a guess is shown to the user, never used.
        guess = "hidden" if square else tuple(axes[:2]) if len(axes) > 1 else "input"
        self.unknown[pattern_of(name)] = tuple(p.shape), guess
        return None

    def _only(self, uses: dict[str, Role]) -> Role:
        """The one role of a parameter, used under several names if it is tied."""
        said = [role for name, role in uses.items() if first_match(self.roles, name) is not None]
        if said or len({role for role, _ in uses.values()}) == 1:
            return (said or list(uses.values()))[0]
        by_role = {role: name for name, (role, _) in uses.items()}
        name = by_role.get("input", next(iter(uses)))
        what = " and ".join(f"{role} (as {use})" for role, use in by_role.items())
        needs, advice = "", ""
        if self.maximal and set(by_role) == {"input", "output"}:
            # As an input it has the right rate; the readout's 1/m then has to be made elsewhere, by a fold.
            if 1 in self.fold.values():
                return uses[name]
            norm = self._norm_before(by_role["output"])
            needs = ", and the output's 1/m elsewhere, such as in the gain before it"
            by_hand = " and divide by width / base before the readout"
            advice = f", fold={ ({norm + '.*': 1}) }" if norm else by_hand
        raise InputError(
            f"{name} is tied: {what}; expected one role{needs}; try roles={ ({name: uses[name][0]}) }{advice}"
        )

    def _norm_before(self, readout: str) -> str:
        """The last module of vectors alone before the readout, in the order of `named_modules`; "" if there is none."""
        before = ""
        for name, module in self.modules[0].items():
            if name == readout.rpartition(".")[0]:
                break
            own = list(module.parameters())
            if own and all(p.dim() == 1 for p in own):
                before = name
        return before

    def _growing_heads(self, name: str) -> dict[str, float]:
        """The fold that a MultiheadAttention with a growing head dimension lacks in muP; {} if it lacks none.

        All of q, k and v times m^-1/4 divides the logits by m^1/2; v's factor leaves, linearly, by out_proj's m^1/4.
        """
        where = name.rpartition(".")[0]
        old, new = self.modules[0][where], self.modules[1][where]
        grows = isinstance(old, nn.MultiheadAttention) and old.head_dim != new.head_dim
        if not (grows and self.maximal) or first_match(self.fold, name) is not None:
            return {}
        at = pattern_of(name).removesuffix(name.rpartition(".")[2])
        if old.in_proj_weight is None:
            return {f"{at}q_proj_weight": 0.5}
        return {f"{at}in_proj_*": 0.25, f"{at}out_proj.weight": -0.25}


def first_match(patterns: Mapping[str, Any], name: str) -> Any:
    """The value of the first pattern that fits the name, or None."""
    return next((value for pattern, value in patterns.items() if fnmatch.fnmatchcase(name, pattern)), None)


def pattern_of(name: str) -> str:
    """The name with the number of its block replaced by a star: one pattern for all blocks.

    >>> pattern_of("blocks.3.mlp.0.weight"), pattern_of("0.weight")
    ('blocks.*.mlp.0.weight', '0.weight')
    """
    return re.sub(r"(?<![^._])\d+(?=\.\w+\.)", "*", name)


def _fans(module: nn.Module, leaf: str, p: Tensor, said: object) -> tuple[int, int] | None:
    """(out, in) that a parameter maps to and from, in a known module or along the axes said; None if that is unknown.

    A vector has in = 1; a grouped convolution sums over the channels of one group.
    """
    if isinstance(said, tuple):
        return tuple(1 if axis is None else p.shape[axis] for axis in said)
    if isinstance(module, _ConvNd) and leaf == "weight":
        return module.out_channels, module.in_channels // module.groups
    if isinstance(module, EMBEDDINGS) and p.dim() == 2:
        return p.shape[1], p.shape[0]
    if isinstance(module, MATRICES) and p.dim() == 2:
        return p.shape[0], p.shape[1]
    # In other modules, a vector of one repeated number is a gain or a bias; a random one may be a readout.
    constant = p.dim() == 1 and (p.is_meta or bool((p == p[0]).all()))
    return (p.numel(), 1) if constant or isinstance(module, (*NORMS, *MATRICES, _ConvNd)) else None


def _check_pattern(what: str, pattern: str, names: list[str]) -> None:
    if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
        near = difflib.get_close_matches(pattern, names, 1, 0.0)[0]
        raise InputError(
            f"{what} has {pattern!r}, which fits no parameter; expected a name or pattern; try {near!r}"
        )


def _check_role(pattern: str, said: object) -> None:
    axes = isinstance(said, tuple) and len(said) == 2 and all(a is None or isinstance(a, int) for a in said)
    if not (axes or said in ROLES):
        raise InputError(
            f"roles[{pattern!r}] = {said!r}; expected {', '.join(ROLES)} or (out axis, in axis); try 'hidden'"
        )
