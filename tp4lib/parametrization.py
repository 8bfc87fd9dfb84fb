r"""The space of abc-parametrizations: how width enters a network's weights, initialization and learning rate.

An L-hidden-layer perceptron of width n is *abc-parametrized* by exponents a_1..a_{L+1}, b_1..b_{L+1} and c:

    W^l = n^{-a_l} w^l,      initially w^l_ij ~ N(0, n^{-2 b_l}),      w <- w - eta n^{-c} dLoss/dw   (SGD)

A handful of linear inequalities decide which of them have an infinite-width limit that trains, and which of those
learn features. This module is those inequalities, the four named points of Table 1, and the symmetry that joins them.

Source, here and below: Yang & Hu 2021, *Feature Learning in Infinite-Width Neural Networks* (arXiv 2011.14522).

>>> mup(2).learns_features, ntp(2).is_kernel, standard(2).is_stable
(True, True, False)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from numbers import Real

from tp4lib.base.checks import real, whole
from tp4lib.base.errors import InputError

_PAPER = "Yang & Hu 2021 (arXiv 2011.14522)"
_HALF = Fraction(1, 2)
_GRID = 720_720 * 10**6  # holds 1/2 .. 1/16 and seven decimals; far above a float's rounding
_LARGEST = 1000
_CLOSE = Fraction(1, 10**9)  # a sum of exponents this close to a bound is on it


@dataclass(frozen=True)
class Condition:
    """One line of the paper's classification, evaluated: `value relation bound`, e.g. `a_1 + b_1 = 0`.

    `what_breaks` says what happens when the condition does not hold; `source` is its place in the paper.
    """

    statement: str
    value: float
    relation: str  # "=" or ">="
    bound: float
    holds: bool
    what_breaks: str
    source: str

    @property
    def margin(self) -> float:
        """0 on the boundary; of a failed condition, the amount by which it fails."""
        return self.value - self.bound


@dataclass(frozen=True, repr=False)
class ABC:
    r"""An abc-parametrization: the exponents of width in every layer's multiplier, initialization and learning rate.

    Args:
        a, b: a_1 .. a_{L+1} and b_1 .. b_{L+1}, which set the number of hidden layers L >= 1. c: one for all layers.
        name: a label for tables and figures, ignored by equality and hashing.

    The classification turns on *equalities*, so exponents are snapped to a grid that holds small fractions and short
    decimals exactly (0.1 + 0.2 and 0.3 are one number), and compared with the bounds to 1e-9.

    >>> ABC(a=[0, 1], b=[0, 0], c=-1) == mean_field(), mean_field().r
    (True, 0.0)
    """

    a: tuple[float, ...]
    b: tuple[float, ...]
    c: float
    name: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        exact_a, exact_b = _fractions("a", self.a), _fractions("b", self.b)
        if len(exact_a) < 2:
            raise InputError(
                f"a has {len(exact_a)} exponent(s); a network with L >= 1 hidden layers has L + 1 >= 2; "
                "try ABC(a=[0, 1], b=[0, 0], c=-1)"
            )
        if len(exact_a) != len(exact_b):
            raise InputError(
                f"a has {len(exact_a)} exponents and b has {len(exact_b)}; both need L + 1, one per weight matrix; "
                f"give {len(exact_a)} numbers in b"
            )
        # float(Fraction) is a function of the fraction alone, so comparing and hashing these floats is exact.
        object.__setattr__(self, "a", tuple(map(float, exact_a)))
        object.__setattr__(self, "b", tuple(map(float, exact_b)))
        object.__setattr__(self, "c", float(_fraction("c", self.c)))

    def __repr__(self) -> str:
        label = f", name={self.name!r}" if self.name else ""
        return f"ABC(a={_show(self.a)}, b={_show(self.b)}, c={_number(self.c)}{label})"

    @property
    def _exact(self) -> tuple[list[Fraction], list[Fraction], Fraction]:
        return list(map(_snap, self.a)), list(map(_snap, self.b)), _snap(self.c)

    @property
    def depth(self) -> int:
        """L, the number of hidden layers."""
        return len(self.a) - 1

    @property
    def _backward(self) -> Fraction:
        """Each coordinate of df/dx^L is of size n^{-this}: the larger of the readout's initial part and its updates."""
        a, b, c = self._exact
        return min(a[-1] + b[-1], 2 * a[-1] + c)

    def _layer_r(self, backward: Fraction) -> list[Fraction]:
        """Layer l's own update moves h^l by n^{-_layer_r[l - 1]} per coordinate, for l = 1 .. L."""
        a, _, c = self._exact
        return [backward + c - 1 + 2 * a_l + (layer == 0) for layer, a_l in enumerate(a[:-1])]

    @property
    def _r(self) -> Fraction:
        return min(self._layer_r(self._backward))

    @property
    def r(self) -> float:
        r"""The exponent of feature change: hidden features move by Theta(n^{-r}) per coordinate.

            r = min(a_{L+1} + b_{L+1}, 2 a_{L+1} + c) + c - 1 + min_{l <= L} (2 a_l + [l = 1])

        Source: section 3 (the definition of r). Exact for stable parametrizations; at negative r features blow up.

        >>> standard(2, lr_exponent=1).r
        0.5
        """
        return float(self._r)

    @property
    def stability_conditions(self) -> tuple[Condition, ...]:
        """Every condition of the paper's characterization of stability, evaluated (stable: all of them hold).

        Source: section 3, "Stability Characterization" (proved in appendix H).
        """
        a, b, c = self._exact
        last, source = self.depth + 1, "section 3, Stability Characterization"
        start = "at the start, h^{l} is of size n^-(value - bound) instead of 1"
        rows: list[Condition] = []

        def add(statement, value, relation, bound, breaks, part):
            holds = abs(value - bound) <= _CLOSE if relation == "=" else value >= bound - _CLOSE
            where = f"{source}, condition {part}"
            rows.append(Condition(statement, float(value), relation, float(bound), holds, breaks, where))

        add("a_1 + b_1", a[0] + b[0], "=", 0, start.format(l=1), 1)
        for l in range(2, last):  # noqa: E741 - the paper's letter
            add(f"a_{l} + b_{l}", a[l - 1] + b[l - 1], "=", _HALF, start.format(l=l), 1)
        add(f"a_{last} + b_{last}", a[-1] + b[-1], ">=", _HALF, "the logits blow up at the start", 1)
        add("r", self._r, ">=", 0, "the features blow up in training", 2)
        add(f"2 a_{last} + c", 2 * a[-1] + c, ">=", 1, "the readout's update blows the logits up", 3)
        breaks = "the features' change blows the logits up through the readout's start"
        add(f"a_{last} + b_{last} + r", a[-1] + b[-1] + self._r, ">=", 1, breaks, 3)
        return tuple(rows)

    @property
    def is_stable(self) -> bool:
        """True if nothing blows up with width: features are Theta(1) initially, all changes and logits O(1)."""
        return all(condition.holds for condition in self.stability_conditions)

    @property
    def nontriviality_conditions(self) -> tuple[Condition, ...]:
        """The two ways for the logits to move by Theta(1); a stable parametrization is nontrivial if one holds.

        Source: section 3, the theorem on nontriviality.
        """
        breaks, source = "this term of the logits' change vanishes with width", "section 3, Nontriviality"
        words, bounds = dict(relation="=", what_breaks=breaks, source=source), self.stability_conditions[-2:]
        return tuple(replace(bound, holds=abs(bound.margin) <= _CLOSE, **words) for bound in bounds)

    @property
    def is_nontrivial(self) -> bool:
        """True if it is stable and its logits move by Theta(1): a_{L+1} + b_{L+1} + r = 1 or 2 a_{L+1} + c = 1."""
        return self.is_stable and any(condition.holds for condition in self.nontriviality_conditions)

    @property
    def learns_features(self) -> bool:
        """True if it is stable and nontrivial with r = 0: features move by Theta(1) (the Dynamical Dichotomy)."""
        return self.is_nontrivial and self._r <= _CLOSE

    @property
    def is_kernel(self) -> bool:
        """True if it is stable and nontrivial with r > 0: in the limit, training is kernel gradient descent."""
        return self.is_nontrivial and self._r > _CLOSE

    @property
    def regime(self) -> str:
        """One of "feature learning", "kernel", "trivial" (stable, but nothing moves) and "unstable"."""
        moves = "feature learning" if self.learns_features else "kernel" if self.is_kernel else "trivial"
        return moves if self.is_stable else "unstable"

    def shift(self, t: float) -> ABC:
        r"""The point of the same orbit at distance t: a_l + t, b_l - t, c - 2t for all l at once.

        The function f is unchanged at every step of SGD: W^l has the same initial law, and the rate makes up for the
        factor n^{-t} that each of dLoss/dw and W = n^{-a} w has lost. Source: section 3 (symmetries).

        >>> mean_field().shift(-0.5) == mup(1)
        True
        """
        (a, b, c), t = self._exact, _fraction("t", t)
        return ABC([x + t for x in a], [x - t for x in b], c - 2 * t, name=self.name)

    def same_orbit(self, other: ABC) -> bool:
        """True if `other` is `self.shift(t)` for some t, so that SGD trains the same functions in both.

        >>> mup(1).same_orbit(mean_field()), ntp(2).same_orbit(mup(2))
        (True, False)
        """
        if self.depth != other.depth:
            return False
        moved = self.shift(other.a[0] - self.a[0])
        pairs = zip((*moved.a, *moved.b, moved.c), (*other.a, *other.b, other.c))
        return all(abs(mine - theirs) <= _CLOSE for mine, theirs in pairs)

    @property
    def initial_exponents(self) -> tuple[float, ...]:
        """Powers e with h^1, .., h^L, f of size n^e per coordinate at initialization (L + 1 numbers).

        By the central limit theorem e_l = e_{l-1} + 1/2 - (a_l + b_l), without the 1/2 for the input layer. In a stable
        parametrization those of h^l are 0, that of f is <= 0. Source: section 3, beside the first stability condition.

        >>> mup(2).initial_exponents
        (0.0, 0.0, -0.5)
        """
        a, b, _ = self._exact
        exponent, found = -_HALF, []
        for a_l, b_l in zip(a, b, strict=True):
            exponent += _HALF - (a_l + b_l)
            found.append(float(exponent))
        return tuple(found)

    @property
    def change_exponents(self) -> tuple[float, ...]:
        r"""Powers e with the changes of h^1, .., h^L and f of size n^e after two or more steps (L + 1 numbers).

        Layer l's own update moves h^l by n^{-r_l}, where r = min_l r_l (see `r`); changes of earlier layers arrive at
        the same size, so h^l moves by n^{-min(r_1 .. r_l)}. The logits move by n^{-(2 a_{L+1} + c - 1)} through the
        readout's update (times the size of x^L) and by n^{-(a_{L+1} + b_{L+1} + r - 1)} through the features. Exact for
        stable parametrizations (section 3, appendix H); for unstable ones trust the sign alone.

        >>> ntp(2).change_exponents
        (-0.5, -0.5, 0.0)
        """
        return self._change(self._backward)

    @property
    def first_step_exponents(self) -> tuple[float, ...]:
        """`change_exponents` after the first step: the min in r_l is a_{L+1} + b_{L+1}, of the initial readout alone.

        >>> standard(2).first_step_exponents
        (-0.5, 0.5, 1.5)
        """
        a, b, _ = self._exact
        return self._change(a[-1] + b[-1])

    def _change(self, backward: Fraction) -> tuple[float, ...]:
        a, b, c = self._exact
        r_l = self._layer_r(backward)
        hidden = [-min(r_l[: layer + 1]) for layer in range(self.depth)]
        logits = max(1 - 2 * a[-1] - c + max(0, hidden[-1]), 1 - a[-1] - b[-1] + hidden[-1])
        return tuple(map(float, [*hidden, logits]))

    @property
    def adam_exponents(self) -> tuple[float, ...]:
        r"""Exponents c_1 .. c_{L+1} of Adam's rates eta n^{-c_l} that move every layer exactly as far as SGD does.

            c_l = a_l + c + min(a_{L+1} + b_{L+1}, 2 a_{L+1} + c)  for l <= L,      c_{L+1} = a_{L+1} + c

        SGD moves an entry of w^l by eta n^{-c} dLoss/dw^l_ij, of size n^{-c - a_l} times that of df/dh^l (n^{-min(..)}
        for l <= L, 1 for the output). Adam divides by the gradient's size, so its rate *is* the size of the move; both
        updates have low rank and are aligned with the same vectors, so equal entries mean equal changes of h^l. Those
        of `mup(L)` are the Adam column of Yang et al. 2022 (Tensor Programs V, arXiv 2203.03466), Table 8, in the
        shifted form of its Table 9. `shift(t)` takes t from each, which leaves f unchanged (Adam's epsilon aside).

        >>> mup(3).adam_exponents, standard(2).adam_exponents
        ((0.5, 1.0, 1.0, 0.5), (0.0, 0.0, 0.0))
        """
        a, _, c = self._exact
        hidden = [a_l + c + self._backward for a_l in a[:-1]]
        return tuple(map(float, [*hidden, a[-1] + c]))

    def explain(self) -> str:
        """The classification in words: every condition, whether it holds, by how much it fails, and its source.

        >>> print(standard(1).explain().splitlines()[0])
        SP (L = 1): unstable
        """
        title = f"{self.name or repr(self)} (L = {self.depth}): {self.regime}"
        if self.is_stable:
            title += f", r = {_number(self.r)}"
        lines = [title, "stable if all hold:", *map(_describe, self.stability_conditions)]
        if self.is_stable:
            lines += ["nontrivial if one holds:", *map(_describe, self.nontriviality_conditions)]
        if self.is_nontrivial:
            verdict = "= 0: features learned" if self.learns_features else "> 0: kernel regime"
            moves = f"hidden features move like n^{_number(-self.r)}"
            lines += [f"r = {_number(self.r)} {verdict}; {moves}  [section 3, Dynamical Dichotomy]"]
        return "\n".join([*lines, f"Sections are those of {_PAPER}."])


def standard(L: int, lr_exponent: float = 0) -> ABC:
    """The standard parametrization (SP): a = 0, b_1 = 0, b_l = 1/2, and the rate eta n^{-lr_exponent}.

    With a constant rate it is unstable; with the rate eta / n (`lr_exponent=1`), the largest that is stable, it is a
    kernel machine. For L >= 2 these have r = -1 and r = 1/2; at L = 1, without an n x n matrix to move, r = 0 (the
    logits still blow up) and r = 3/2. Source: Table 1 and section 3.

    >>> standard(3).r, standard(3, lr_exponent=1).regime
    (-1.0, 'kernel')
    """
    L = whole("L", L, example=2)
    rate = _fraction("lr_exponent", lr_exponent)
    suffix = "" if rate == 0 else ", rate 1/n" if rate == 1 else f", rate n^{_number(-float(rate))}"
    return ABC([0] * (L + 1), [0] + [_HALF] * L, rate, name="SP" + suffix)


def ntp(L: int) -> ABC:
    """The neural-tangent parametrization (NTP): a_1 = 0, a_l = 1/2 after it, b = 0, c = 0; r = 1/2.

    Source: Table 1 (the parametrization of Jacot, Gabriel & Hongler 2018).

    >>> ntp(2).a
    (0.0, 0.5, 0.5)
    """
    L = whole("L", L, example=2)
    return ABC([0] + [_HALF] * L, [0] * (L + 1), 0, name="NTP")


ntk = ntp  # the name it had before; the kernel of this name is `tp4lib.kernels.ntk`


def mean_field() -> ABC:
    """The mean-field parametrization (MFP) of a 1-hidden-layer network: a = (0, 1), b = 0, c = -1; r = 0.

    It is muP at L = 1, seen from another point of the same orbit. Source: Table 1.

    >>> mean_field().learns_features
    True
    """
    return ABC([0, 1], [0, 0], -1, name="MFP")


def mup(L: int) -> ABC:
    """The maximal update parametrization (muP): a = (-1/2, 0, .., 0, 1/2), b = 1/2, c = 0; r = 0 in every layer.

    Source: Table 1 and section 5.

    >>> mup(3).a
    (-0.5, 0.0, 0.0, 0.5)
    """
    L = whole("L", L, example=2)
    return ABC([-_HALF] + [0] * (L - 1) + [_HALF], [_HALF] * (L + 1), 0, name="muP")


def check_parametrization(p: object) -> None:
    """Refuse what is not an `ABC`."""
    if not isinstance(p, ABC):
        raise InputError(f"parametrization = {p!r:.60}; expected an ABC; try tp4lib.parametrization.mup(2)")


def _snap(x: Real) -> Fraction:
    # To a grid, not to the nearest simple fraction: the error is far below _CLOSE for any number.
    return Fraction(round(Fraction(x) * _GRID), _GRID)


def _fraction(what: str, x: object) -> Fraction:
    # Beyond the largest, a float is coarser than what the conditions are decided by.
    real(what, x, least=-_LARGEST, most=_LARGEST, example=0.5)
    return _snap(x if isinstance(x, Fraction) else float(x))


def _fractions(what: str, xs: Sequence[Real]) -> list[Fraction]:
    if isinstance(xs, str) or not hasattr(xs, "__iter__"):
        raise InputError(f"{what} = {xs!r}; expected a list of L + 1 exponents; try {what}=[0, 0.5]")
    return [_fraction(f"{what}_{i}", x) for i, x in enumerate(xs, start=1)]


def _number(x: float) -> str:
    exact = _snap(x)
    return str(exact) if exact.denominator <= 64 else f"{x:g}"


def _show(xs: Sequence[float]) -> str:
    return "[" + ", ".join(map(_number, xs)) + "]"


def _describe(condition: Condition) -> str:
    mark = "ok  " if condition.holds else "FAIL"
    text = f"  {mark} {condition.statement} {condition.relation} {_number(condition.bound)}"
    text += f" (is {_number(condition.value)}"
    if not condition.holds:
        text += f", off by {_number(condition.margin)}: {condition.what_breaks}"
    return text + f")  [{condition.source}]"
