"""The slides of the lecture: run `python docs/lecture.py [--out FOLDER]` (a minute; no data to download).

Eight figures at 16:9 as SVG, for `docs/lecture.md` and `docs/_static/lecture/slides.html`. Every number and every point
is computed here, from the library and from scikit-learn's digits. Each file carries the digest of this one, so that a
test sees slides that are older than their code.
"""

import argparse
import hashlib
import io
import math
import re
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from tp4lib import MLP, LinearLimit, mean_field, mup, ntp
from tp4lib import standard as sp
from tp4lib.collection import plotting
from tp4lib.data import images
from tp4lib.linear_limit import sgd_step
from tp4lib.nn import param_groups
from tp4lib.parametrization import ABC
from tp4lib.program import InfiniteWidth
from tp4lib.program.mlp import train_mlp
from tp4lib.sweep import sweep

SLIDES = Path(__file__).resolve().parent / "_static" / "lecture"
SIZE = (12.8, 7.2)
MUP, NTP, SP = (plotting.PALETTE[plotting.CONCEPTS[name]] for name in ("muP", "NTP", "SP"))


def slide(title: str, number: int) -> Figure:
    """An empty slide: its claim above, its number below."""
    fig = plt.figure(figsize=SIZE)
    fig.set_layout_engine("none")
    fig.text(0.05, 0.93, title, fontsize=25, weight="bold", va="top", linespacing=1.15)
    fig.text(0.95, 0.035, f"{number} / {len(ALL)}", fontsize=12, color="0.45", ha="right")
    return fig


def digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images (k, d), labels (k,), one-hot labels (k, 10)."""
    data = images.load("digits")
    return data.train_x.double(), data.train_y, torch.nn.functional.one_hot(data.train_y).double()


def descend(
    U: torch.Tensor, V: torch.Tensor, x: torch.Tensor, y: torch.Tensor, steps: int, rate: float = 0.1
):
    """Gradient descent on f(x) = V U x: both matrices, and f at every step (steps, k, o)."""
    outputs, b = [], U.new_zeros(len(U))  # no bias
    for _ in range(steps):
        outputs.append(x @ U.T @ V.T)
        U, V, _ = sgd_step(U, V, b, x, y, rate, alpha=0.0)
    return U, V, torch.stack(outputs)


def question(number: int) -> Figure:
    """Features of two infinitely wide networks, before and after training."""
    fig = slide(
        "Two networks of width infinity learn the same task.\nOnly one of them learns features.", number
    )
    x, labels, y = digits()
    limit = LinearLimit(x.shape[1], 10, 0.05, 0.05, dtype=torch.float64)
    U, _, _ = descend(limit.U.detach(), limit.V.detach(), x, y, 200)
    some = torch.cat([torch.where(labels == digit)[0][:5] for digit in range(10)])
    panels = [("NTP: before", x), ("NTP: after", x), ("muP: before", x), ("muP: after", x @ U.T)]
    for place, (name, h) in enumerate(panels):
        unit = h[some] / h[some].norm(dim=1, keepdim=True)
        ax = fig.add_axes((0.05 + 0.228 * place + 0.02 * (place > 1), 0.2, 0.21, 0.5))
        ax.imshow(unit @ unit.T, vmin=-1, vmax=1, cmap="cividis", interpolation="none")
        same = (labels[some][:, None] == labels[some]) & ~torch.eye(50, dtype=torch.bool)
        ax.set_xlabel(f"same digit: {float((unit @ unit.T)[same].mean()):.2f} on average", fontsize=13)
        ax.set_title(name, fontsize=17, color=plotting.ink(MUP if name.startswith("muP") else NTP))
        ax.set(xticks=range(2, 50, 5), yticks=range(2, 50, 5) if place == 0 else [])
        ax.set_xticklabels(range(10), fontsize=12)
        ax.tick_params(length=0)
        ax.grid(False)
        if place == 0:
            ax.set_yticklabels(range(10), fontsize=12)
    fig.text(0.05, 0.1, "Cosine similarity of the features of 50 handwritten digits, sorted by digit "
             "(yellow: alike, dark: opposite).", fontsize=15)  # fmt: skip
    return fig


def exponents(number: int) -> Figure:
    """The abc-parametrizations that have names, with r and regime as the library computes them."""
    fig = slide("Three exponents a layer say how the width n enters.", number)
    formula = (
        r"$W^l=n^{-a_l}\,w^l,\qquad w^l_{ij}\sim\mathcal{N}(0,\,n^{-2b_l}),\qquad "
        r"w\leftarrow w-\eta\,n^{-c}\,\nabla_w\mathcal{L}$"
    )
    fig.text(0.5, 0.76, formula, fontsize=26, ha="center")
    rows = [("", "a", "b", "c", "r", "in the limit")]
    named = {"standard (SP)": sp(2), "SP, rate η/n": sp(2, 1), "neural tangent (NTP)": ntp(2),
             "mean field (MFP), L = 1": mean_field(), "maximal update (muP)": mup(2)}  # fmt: skip
    rows += [
        (name, _tuple(p.a), _tuple(p.b), _fraction(p.c), _fraction(p.r), p.regime)
        for name, p in named.items()
    ]
    for line, row in enumerate(rows):
        for left, cell in zip((0.05, 0.33, 0.49, 0.645, 0.71, 0.78), row, strict=True):
            learns = row[-1] == "feature learning"
            fig.text(left, 0.62 - 0.083 * line, cell, fontsize=19, style="italic" if line == 0 else "normal",
                     weight="bold" if learns and left == 0.78 else "normal",
                     color=plotting.ink(MUP) if learns else "black")  # fmt: skip
    fig.text(0.05, 0.1, "L = 2 hidden layers, where nothing else is said.", fontsize=15, color="0.3")
    return fig


def step(number: int) -> Figure:
    """How far one step of gradient descent moves a layer: the derivation of r."""
    fig = slide("One step moves the features by n to the power −r.", number)
    formula = (
        r"$\Delta W^l\, x^{l-1}\;=\;-\,\eta\;\;n^{-2a_l-c}\;\;\chi\;\;dh^l\;\;"
        r"\langle x^{l-1},\,x^{l-1}\rangle$"
    )
    fig.text(0.5, 0.72, formula, fontsize=28, ha="center")
    parts = [
        (0.385, "multipliers and\nlearning rate", r"$n^{-2a_l-c}$"),
        (0.63, "size of the readout:\ninitial or updated", r"$n^{-\min(a_{L+1}+b_{L+1},\;2a_{L+1}+c)}$"),
        (0.87, "a sum of n terms\n(input layer: of d)", r"$n^{\,1-[l=1]}$"),
    ]
    for x, words, power in parts:
        fig.text(x, 0.56, words, fontsize=16, ha="center", va="center", color="0.25", linespacing=1.3)
        fig.text(x, 0.45, power, fontsize=19, ha="center", va="center", color=plotting.ink(MUP))
    fig.text(0.5, 0.31, r"$r\;=\;\min(a_{L+1}+b_{L+1},\;2a_{L+1}+c)\;+\;c\;-\;1\;+\;\min_{l\leq L}\,(2a_l+[l=1])$",
             fontsize=23, ha="center")  # fmt: skip
    fig.text(0.5, 0.15, "r < 0: training blows up.     r = 0: the features move at every width.     "
             "r > 0: in the limit they stay.", fontsize=16.5, ha="center")  # fmt: skip
    return fig


def at(s: float, p: float) -> ABC:
    """Two hidden layers: readout initialized at n^-s and updated by 1/n, hidden updates lowered by n^-p."""
    a = [(p - 1) / 2, p / 2, 0.5]
    return ABC(a, [-a[0], 0.5 - a[1], s - a[2]], c=0)


def dichotomy(number: int) -> Figure:
    """The regime on a grid of parametrizations."""
    fig = slide("Feature learning is an edge of what is stable.\nAll the rest of it is kernels.", number)
    ax = fig.add_axes((0.09, 0.14, 0.55, 0.62))
    looks = {"unstable": ("0.82", "x"), "kernel": (NTP, "s"), "feature learning": (MUP, "o")}
    points = [(p, s) for p in np.arange(-0.25, 1.51, 0.125) for s in np.arange(0.25, 1.51, 0.125)]
    for regime, (colour, marker) in looks.items():
        where = np.array([point for point in points if at(point[1], point[0]).regime == regime])
        ax.scatter(
            *where.T, c=colour, marker=marker, s=130, label=regime, linewidths=2 if marker == "x" else 0
        )
    for name, p, s, shift in (("muP", 0, 1, (-14, -24)), ("NTP", 1, 0.5, (-14, -24))):
        assert at(s, p).r == (mup(2) if name == "muP" else ntp(2)).r
        ax.annotate(name, (p, s), shift, textcoords="offset points", fontsize=18, weight="bold",
                    path_effects=[plotting.halo(4)])  # fmt: skip
    ax.set_xlabel("p: updates of the hidden layers carry a factor n to the −p", fontsize=15)
    ax.set_ylabel("s: the readout starts at n to the −s", fontsize=15)
    ax.grid(False)
    ax.tick_params(labelsize=14)
    ax.legend(loc="center left", bbox_to_anchor=(1.03, 0.62), fontsize=18, handletextpad=0.3)
    words = (
        "Readout updated by 1/n\n(its largest stable update).\nEvery point computed\nfrom the inequalities."
    )
    fig.text(0.685, 0.38, words, fontsize=15, va="top", linespacing=1.4, color="0.3")
    return fig


def fan(number: int) -> Figure:
    """Outputs of networks of three widths, and of width infinity, while they train; and the distances."""
    x, _, y = digits()
    limit = LinearLimit(x.shape[1], 10, 0.25, 0.25, dtype=torch.float64)
    *_, exact = descend(limit.U.detach(), limit.V.detach(), x, y, 60)
    widths = [32, 128, 512, 2048]
    found = {}
    for n in widths:
        nets = [limit.sample(n, seed=seed) for seed in range(8)]
        found[n] = torch.stack([descend(net.U.detach(), net.V.detach(), x, y, 60)[2] for net in nets])
    fig = slide("Ordinary networks fan into the network of width infinity.", number)
    styles = plotting.style_for([*widths, math.inf])
    for place, n in enumerate((32, 512)):
        ax = fig.add_axes((0.07 + 0.285 * place, 0.16, 0.24, 0.6))
        for run in found[n][:, :, 0, :2].permute(0, 2, 1).flatten(0, 1):
            ax.plot(run, color=styles[n]["color"], linewidth=1.6, alpha=0.8)
        for output in (0, 1):
            ax.plot(exact[:, 0, output], color="black", linewidth=3)
        ax.set_title(f"width {n}", fontsize=18)
        ax.set_xlabel("step of gradient descent", fontsize=15)
        ax.set_ylim(-0.35, 0.25)
        ax.tick_params(labelsize=13)
        if place == 0:
            ax.set_ylabel("two outputs at one image", fontsize=15)
    distance = [(found[n][:, -1] - exact[-1]).square().mean().sqrt().item() for n in widths]
    slope = np.polyfit(np.log(widths), np.log(distance), 1)[0]
    ax = fig.add_axes((0.72, 0.16, 0.25, 0.6))
    ax.plot(widths, distance, "o-", color="black", linewidth=2.4, markersize=9)
    plotting.log_axis(ax, "x", at=widths)
    plotting.log_axis(ax, "y")
    ax.set_title("distance to the limit", fontsize=18)
    ax.set_xlabel(f"width n; slope {plotting.number(slope)} (theory −0.5)", fontsize=15)
    ax.tick_params(labelsize=13)
    return fig


def law(number: int) -> Figure:
    """Coordinates of a trained hidden vector beside the random variable that they become."""
    fig = slide("Coordinates become draws of one random variable.\n"
                "In muP, training changes its distribution.", number)  # fmt: skip
    angle = 2 * math.pi * (torch.arange(8, dtype=torch.float64) + 0.5) / 8
    xi = torch.stack([angle.cos(), angle.sin(), torch.ones_like(angle)], 1)
    y = torch.sign(torch.sin(2 * angle))[:, None]
    h = train_mlp(InfiniteWidth(60_000, 0), xi, y, mup(2), lr=1.0, steps=12).h
    before, after = (h[time][1].values[1].numpy() for time in (0, -1))
    bins = np.linspace(-3, 3, 61)
    cases = (("muP: it moves", mup(2), MUP, after), ("NTP: it stays", ntp(2), NTP, before))
    for place, (title, kind, colour, trained) in enumerate(cases):
        ax = fig.add_axes((0.07 + 0.47 * place, 0.16, 0.41, 0.54))
        ax.hist(_trained(kind, xi, y, 2048), bins=bins[::2], density=True, color=colour, alpha=0.55,
                label="one network, n = 2048, trained")  # fmt: skip
        for samples, line, label in ((trained, "-", "trained"), (before, "--", "initialization")):
            density = np.histogram(samples, bins=bins, density=True)[0]
            ax.plot((bins[1:] + bins[:-1]) / 2, density, line, color="black", linewidth=3 if line == "-" else 1.8,
                    label=f"width infinity, {label}")  # fmt: skip
        ax.set_title(title, fontsize=18)
        ax.set_xlabel("coordinates of the second hidden layer at one input", fontsize=15)
        ax.set_ylim(0, 0.8)
        ax.tick_params(labelsize=13)
        if place == 0:
            ax.legend(fontsize=13, loc="upper left")
    return fig


def _trained(kind: ABC, xi: torch.Tensor, y: torch.Tensor, n: int) -> torch.Tensor:
    """Second hidden preactivations (n,) at the second input, after twelve steps of SGD through autograd."""
    model = MLP(3, n, 1, kind, activation="tanh", bias=False, seed=0).double()
    optimizer = torch.optim.SGD(param_groups(model, 1.0, "sgd"))
    start = model(xi).detach() if kind.r > 0 else 0
    for _ in range(12):
        optimizer.zero_grad()
        ((model(xi) - start - y) ** 2).mean().div(2).backward()
        optimizer.step()
    with torch.no_grad():
        return model.layers[1](torch.tanh(model.layers[0](xi)))[1]


def practice(number: int) -> Figure:
    """The loss against the learning rate at four widths, in SP and in muP."""
    fig = slide("In practice: tune a narrow network, train a wide one.", number)
    x, labels, _ = digits()
    widths, grid = [64, 128, 256, 512], 2.0 ** np.arange(-13.0, -4.0)
    styles = plotting.style_for(widths)
    for place, (name, kind) in enumerate({"SP": sp(2), "muP": mup(2)}.items()):
        ax = fig.add_axes((0.07 + 0.47 * place, 0.16, 0.41, 0.62))
        for n in widths:

            def network(seed: int, n: int = n, kind: ABC = kind) -> MLP:
                return MLP(64, n, 10, kind, activation="relu", base_width=64, std=None, seed=seed)

            found = sweep(network, grid, range(3), x.float(), labels, steps=60, batch_size=64, optimizer="adam",
                          loss="cross_entropy")  # fmt: skip
            loss = found.final_loss(20).mean(1)
            ax.plot(grid, loss, **dict(styles[n], markersize=6), linewidth=2.2, label=f"width {n}")
            best = int(np.argmin(loss))
            ax.plot(grid[best], loss[best], styles[n]["marker"], color=styles[n]["color"], markersize=15,
                    markeredgecolor="black", zorder=5)  # fmt: skip
        ax.set_xscale("log", base=2)
        plotting.log_axis(ax, "y")
        ax.set_title(
            {"SP": "SP, PyTorch's own: the best rate falls", "muP": "muP: it stays"}[name], fontsize=18
        )
        ax.set_xlabel("learning rate of Adam", fontsize=15)
        ax.tick_params(labelsize=13)
        if place == 0:
            ax.set_ylabel("training loss after 60 steps", fontsize=15)
            ax.legend(fontsize=14, loc="lower left")
    return fig


def rules(number: int) -> Figure:
    """What to do for muP with Adam, and where to go on."""
    fig = slide("What to keep: muP with Adam, relative to a base width.", number)
    p = mup(2)
    rows = [("", "initial standard deviation", "learning rate")]
    kinds = ("input weights, biases", "hidden weights", "output weights")
    rows += [
        (kind, _times(-(p.a[l] + p.b[l])), _times(-(p.adam_exponents[l] + p.a[l])))
        for l, kind in enumerate(kinds)  # noqa: E741
    ]
    for line, row in enumerate(rows):
        for left, cell in zip((0.08, 0.38, 0.74), row, strict=True):
            fig.text(left, 0.72 - 0.1 * line, cell, fontsize=21, style="italic" if line == 0 else "normal")
    fig.text(0.08, 0.31, "m: the width over the width at which you tuned.", fontsize=18, color="0.3")
    fig.text(0.08, 0.17, "Next: notebooks 02, 08, 09 for your own models; 01, 03, 07, 10, 11 for the theory.\n"
             "Yang & Hu, Feature Learning in Infinite-Width Neural Networks, arXiv:2011.14522", fontsize=18,
             linespacing=1.6)  # fmt: skip
    return fig


def _times(power: float) -> str:
    return "× 1" if power == 0 else f"× $m^{{{_fraction(power).replace('−', '-')}}}$"


def _fraction(value: float) -> str:
    """``−1/2`` for -0.5."""
    top, bottom = float(value).as_integer_ratio()
    return (str(top) if bottom == 1 else f"{top}/{bottom}").replace("-", "−")


def _tuple(values: tuple[float, ...]) -> str:
    return f"({', '.join(map(_fraction, values))})"


ALL: dict[str, Callable[[int], Figure]] = {
    "1-question": question,
    "2-exponents": exponents,
    "3-step": step,
    "4-dichotomy": dichotomy,
    "5-fan": fan,
    "6-law": law,
    "7-practice": practice,
    "8-rules": rules,
}
"""The slides in order, by the names of their files."""


def digest() -> str:
    """SHA-256 of this file: which code made a slide."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def draw(out: Path, names: list[str] | None = None) -> None:
    """Draw the slides ``names`` (all of them) into the folder ``out``."""
    plotting.use_style()
    out.mkdir(parents=True, exist_ok=True)
    # Letters as outlines: a slide looks the same on the lecturer's machine and on the projector's.
    style = {"svg.fonttype": "path", "savefig.bbox": "standard", "font.family": "DejaVu Sans"}
    with plt.rc_context(style):
        for number, (name, make) in enumerate(ALL.items(), 1):
            if names is None or name in names:
                fig = make(number)
                about = {"Date": None, "Description": digest(), "Title": name}
                drawn = io.StringIO()
                fig.savefig(drawn, format="svg", metadata=about)
                plt.close(fig)
                # A hundredth of a point is finer than any screen.
                small = re.sub(r' d="[^"]*"', lambda d: re.sub(r"(\.\d\d)\d+", r"\1", d[0]), drawn.getvalue())
                (out / f"{name}.svg").write_text(small, "utf-8")
                print(f"{out / name}.svg: {len(small):,} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=SLIDES, help="folder of the slides")
    draw(parser.parse_args().out)
