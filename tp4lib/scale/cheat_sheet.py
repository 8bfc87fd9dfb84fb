"""One page of muP, written from `ABC`: what to do with each kind of weight, in the paper's form and in practice.

Sources: Yang & Hu 2021 (Tensor Programs IV, arXiv 2011.14522), Table 1; Yang et al. 2022 (Tensor Programs V, arXiv
2203.03466), Table 3. Every exponent on the page is computed; tests hold the page of the documentation to this text.
"""

from fractions import Fraction

from tp4lib.parametrization import ABC, mup, ntp, standard

KINDS = {"input": ("input weights, biases, gains", "fan-out"), "hidden": ("hidden weights", "fan-in"),
         "output": ("output weights", "fan-in")}  # fmt: skip


def cheat_sheet() -> str:
    """The page, in Markdown.

    >>> print(cheat_sheet().splitlines()[0])
    **Everything here is relative to the base width**: $m$ is the width over the width at which you tune.
    """
    return "\n".join(
        [
            "**Everything here is relative to the base width**: $m$ is the width over the width at which you tune.",
            "",
            *_by_hand(mup(2)),
            "",
            *_abc([mup(2), ntp(2), standard(2)]),
            "",
            *REST,
        ]
    )


def _by_hand(p: ABC) -> list[str]:
    """Tensor Programs V's form: no multiplier in the forward pass, a = 0."""
    lines = [
        "**What to do (no multipliers in the network; Tensor Programs V, Table 3).** For each weight, $m$ is that of "
        "its fan-out (input) or of its fan-in (hidden, output).",
        "",
        "| | $m$ of | initial standard deviation × | SGD rate × | Adam rate × | AdamW decay × | Adam's eps × |",
        "|---|---|---|---|---|---|---|",
    ]
    backward = p.adam_exponents[0] - p.a[0] - p.c  # df/dh^l is of size n^-backward
    for l, (kind, (name, fan)) in enumerate(KINDS.items()):  # noqa: E741 - the paper's letter, counted from 0
        adam = p.adam_exponents[l] + p.a[l]
        powers = (-(p.a[l] + p.b[l]), -(p.c + 2 * p.a[l]), -adam, adam, 0 if kind == "output" else -backward)
        lines.append(f"| {name} | {fan} | " + " | ".join(_power("m", power) for power in powers) + " |")
    return [*lines, "| output biases, all that does not grow | | $1$ | $1$ | $1$ | $1$ | $1$ |"]


def _abc(points: list[ABC]) -> list[str]:
    """The paper's form: multiplier n^-a, initialization n^-b, rate n^-c."""
    lines = [
        "**The same as abc-parametrizations (Tensor Programs IV, Table 1).** $W = n^{-a} w$, $w_{ij} \\sim \\mathcal "
        "N(0, n^{-2b})$, SGD rate $\\eta n^{-c}$, Adam rate $\\eta n^{-c_l}$.",
        "",
        "| | | $a$ | $b$ | $c$ (SGD) | $c_l$ (Adam) | $r$ |",
        "|---|---|---|---|---|---|---|",
    ]
    for p in points:
        for l, (name, _) in enumerate(KINDS.values()):  # noqa: E741
            cells = [f"${_number(x)}$" for x in (p.a[l], p.b[l], p.c, p.adam_exponents[l])]
            label, r = (f"{p.name}: {p.regime}", f"${_number(p.r)}$") if l == 0 else ("", "")
            lines.append("| " + " | ".join([label, name, *cells, r]) + " |")
    return lines


REST = [
    "**And then**",
    "- Weight decay: rate × decay is the same for all matrices (the column above), none for biases and gains. "
    "That is decoupled decay (AdamW, SGD). Decay in a normalized gradient (RMSprop, Adagrad): × $1/m$ input, $1$ "
    "hidden, $m$ output.",
    "- Attention: logits $q k / d$ where the head dimension $d$ grows; nothing to do where it is fixed.",
    "- Tied readout: the matrix is an input; its $1/m$ goes into the gain before it, or into the forward pass.",
    "- Convolutions: count channels. Depthwise ones, class tokens and positions are inputs; routers are outputs.",
    "- Schedules multiply rates; one that sets a rate for all groups undoes the table.",
    "- `tp4lib.scale.scale` does all of it for any `torch.nn.Module`; `tp4lib.coordcheck.check_module` checks it.",
]


def page() -> str:
    """`docs/mup_cheat_sheet.md`, whole; written by ``python -m tp4lib.scale.cheat_sheet``."""
    return f"# muP cheat sheet\n\n{cheat_sheet()}\n"


def _number(x: float) -> str:
    return str(Fraction(x).limit_denominator(1000))


def _power(base: str, power: float) -> str:
    """A power as it is written: $1$, $m$, $1/m$, $m^{-1/2}$."""
    power = Fraction(power).limit_denominator(1000)
    if power == 0:
        return "$1$"
    if power in (1, -1):
        return f"${base}$" if power == 1 else f"$1/{base}$"
    return f"${base}^{{{power}}}$"


if __name__ == "__main__":
    from tp4lib.base import paths

    (paths.checkout() / "docs" / "mup_cheat_sheet.md").write_text(page(), encoding="utf-8")
