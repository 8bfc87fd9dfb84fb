r"""The coordinate check: how the size of every layer grows with width, measured beside the predicted exponent.

    |h^l_0| ~ n^{e_l},   |h^l_t - h^l_0| ~ n^{d_l}     (root mean square over coordinates and inputs)

A parametrization fixes e_l and d_l (`ABC.initial_exponents`, `ABC.change_exponents`); d_L = -r tells feature learning
(0) from the kernel regime (< 0). Source: Yang & Hu 2021 (arXiv 2011.14522), section 3, for the exponents; Yang et al.
2022 (Tensor Programs V, arXiv 2203.03466), appendix D, for the check. Initial size and change are kept apart: the
former hides smaller changes. A run that diverges is reported with its width and step; it never enters a mean or a plot
as NaN.

>>> from tp4lib.parametrization import mup
>>> x, y = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), torch.ones(8, 1)
>>> check(mup(1), x, y, widths=(64, 128, 256), seeds=2, steps=2).growth()[0].predicted
0.0
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tp4lib.base import checks
from tp4lib.base.checks import real, whole
from tp4lib.base.device import resolve
from tp4lib.base.errors import InputError
from tp4lib.base.powers import power_of_width, shown
from tp4lib.base.progress import bar
from tp4lib.coordcheck.runs import BLOW_UP, TINY_EPS, rms
from tp4lib.nn import MLP, param_groups
from tp4lib.parametrization import ABC, check_parametrization

_OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


@dataclass(frozen=True)
class Growth:
    """One line of the table: how the size of `quantity` goes with width, predicted and measured.

    `quantity` is "start" (of |h_0|) or "change" (of |h_t - h_0|); `layer` is "h1" .. "hL" or "f". `measured` is the
    fitted power of n and `error` its standard error over seeds; both are None if fewer than three widths survived.
    """

    layer: str
    quantity: str
    predicted: float
    measured: float | None
    error: float | None
    verdict: str


@dataclass(frozen=True)
class CoordCheck:
    """The sizes that `check` measured; see `growth`, `table` and `plot` for what they say.

    start: (widths, seeds, layers), root mean squares of h^1_0 .. h^L_0, f_0.
    change: (widths, seeds, steps, layers), of h_t - h_0 after t = 1 .. steps; NaN from the step of divergence on.
    loss: (widths, seeds, steps + 1), NaN likewise.
    diverged_at: (widths, seeds), the first step whose result was not finite or beyond `BLOW_UP`; -1 if none was.
    """

    parametrization: ABC
    widths: tuple[int, ...]
    start: np.ndarray
    change: np.ndarray
    loss: np.ndarray
    diverged_at: np.ndarray
    tolerance: float

    @property
    def layers(self) -> list[str]:
        return [f"h{l}" for l in range(1, self.parametrization.depth + 1)] + ["f"]  # noqa: E741

    @property
    def steps(self) -> int:
        return self.change.shape[2]

    @property
    def divergence(self) -> str:
        """One line on the runs that diverged, "" if none did."""
        bad = self.diverged_at >= 0
        if not bad.any():
            return ""
        first = self.diverged_at[bad].min()
        width = self.widths[int(np.argmax((self.diverged_at == first).any(1)))]
        return f"unstable: {bad.sum()} of {bad.size} runs diverged, the first at step {first} (width {width})"

    def predicted(self, step: int) -> tuple[float, ...]:
        """Predicted powers of n of every layer's change after `step` steps (0: of its initial size)."""
        p, step = self.parametrization, whole("step", step, least=0, example=self.steps)
        return (p.initial_exponents, p.first_step_exponents, p.change_exponents)[min(step, 2)]

    def exponent(self, layer: int, step: int | None = None) -> tuple[float | None, float | None]:
        """Fitted power of n of a layer's change after `step` steps (None: all; 0: of its initial size), and its error.

        Widths at which a seed diverged are left out; see `tp4lib.base.powers.power_of_width`.
        """
        return power_of_width(np.array(self.widths), self.sizes(step)[:, :, layer])

    def growth(self, step: int | None = None) -> list[Growth]:
        """Predicted and measured exponent and a verdict, for each layer's initial size and its change."""
        rows, step = [], self.steps if step is None else step
        for quantity, when in (("start", 0), ("change", step)):
            predicted = self.predicted(when)
            for layer, name in enumerate(self.layers):
                measured, error = self.exponent(layer, when)
                verdict = self._verdict(quantity, predicted[layer], measured, error)
                rows.append(Growth(name, quantity, predicted[layer], measured, error, verdict))
        return rows

    def table(self, step: int | None = None) -> str:
        """`growth` as text, one line per layer and quantity, with the divergence, if any, below."""
        lines = [f"{'layer':<7}{'of':<9}{'predicted':>9}  {'measured':<16}verdict"]
        for row in self.growth(step):
            measured = shown(row.measured, row.error)
            lines.append(
                f"{row.layer:<7}{row.quantity:<9}{row.predicted:>+9.2f}  {measured:<16}{row.verdict}"
            )
        return "\n".join(lines + ([self.divergence] if self.divergence else []))

    def plot(self, step: int | None = None) -> Any:
        """Two panels, initial size and change after `step` steps: size against width, one line per layer.

        Bands are one standard deviation over seeds, dashed lines the predicted slopes, and labels give the exponents.
        Widths at which a seed diverged are left out and marked by a cross at the top with the step it happened at.
        """
        from tp4lib.coordcheck.drawing import two_panels  # only here, so that a check needs no matplotlib

        return two_panels(self, step)

    def sizes(self, step: int | None) -> np.ndarray:
        """(widths, seeds, layers): `change` after `step` steps (None: all), or `start` for 0."""
        step = self.steps if step is None else step
        step = whole("step", step, least=0, most=self.steps, example=self.steps)
        return self.start if step == 0 else self.change[:, :, step - 1]

    def _verdict(self, quantity: str, predicted: float, measured: float | None, error: float | None) -> str:
        if measured is None:
            return "not measured: too few widths" + " survived" * bool(self.divergence)
        if quantity == "change" and not self.parametrization.is_stable:
            return "blows up as width grows" if measured > self.tolerance else "does not grow so far"
        if abs(measured - predicted) > self.tolerance:
            noisy = error is not None and abs(measured - predicted) <= 3 * error
            return "compatible but noisy: use more seeds" if noisy else "DIFFERS from the prediction"
        if quantity == "start":
            return "ok" if abs(predicted) < 1e-9 else "ok, shrinks" if predicted < 0 else "ok, blows up"
        if abs(predicted) < 1e-9:
            return "ok, moves at every width"
        return "ok, freezes as width grows"


def check(
    parametrization: ABC,
    x: Tensor,
    y: Tensor,
    *,
    widths: Sequence[int] = (64, 128, 256, 512, 1024),
    seeds: int | Sequence[int] = 4,
    steps: int = 4,
    lr: float = 0.1,
    optimizer: str = "sgd",
    tolerance: float = 0.1,
    device: torch.device | str | None = None,
    **mlp: Any,
) -> CoordCheck:
    r"""Train perceptrons of several widths and seeds for a few full-batch steps and measure every layer's growth.

        loss = sum over inputs and outputs of (f - y)^2 / (2 batch)

    Source: Tensor Programs V (arXiv 2203.03466), appendix D, and Yang & Hu 2021, section 3. At least two steps are
    needed to see the readout's update act on the features; a readout initialized at 0 needs two to move them at all.

    Args:
        x: (batch, d_in) inputs, coordinates of size about 1/sqrt(d_in). y: (batch, d_out) targets of size about 1.
            Their dtype is used throughout: float64 shows changes below 1e-6 that float32 would round away.
        widths: at least two, increasing. seeds: how many, or which.
        steps: number of steps; all of them are recorded. lr: eta (the rate at n = width / base_width = 1).
        optimizer: "sgd" or "adam". tolerance: on |measured - predicted| in the verdicts.
        device: where to train (None: where x is). mlp: passed on to `tp4lib.nn.MLP` (activation, bias, base_width, ..).
    """
    widths = [whole(f"widths[{i}]", width) for i, width in enumerate(widths)]
    if not hasattr(seeds, "__iter__"):
        seeds = range(whole("seeds", seeds, example=4))
    seeds = [checks.seed(seed, f"seeds[{i}]") for i, seed in enumerate(seeds)]
    steps, tolerance = whole("steps", steps, example=4), real("tolerance", tolerance, above=0, example=0.1)
    _check_input(parametrization, x, y, widths, seeds, optimizer)
    x, y = (data if device is None else data.to(resolve(device)) for data in (x, y.to(x.device)))
    grid, layers = (len(widths), len(seeds)), parametrization.depth + 1
    result = CoordCheck(
        parametrization,
        tuple(widths),
        start=np.full((*grid, layers), math.nan),
        change=np.full((*grid, steps, layers), math.nan),
        loss=np.full((*grid, steps + 1), math.nan),
        diverged_at=np.full(grid, -1),
        tolerance=tolerance,
    )
    of = dict(device=x.device, dtype=x.dtype) | mlp
    runs, label = list(np.ndindex(*grid)), f"coordinate check, {parametrization.name or 'abc'}"
    for i, j in bar(runs, desc=label, unit="run"):
        model = MLP(x.shape[1], widths[i], y.shape[1], parametrization, seed=seeds[j], **of)
        groups = param_groups(model, lr, optimizer)
        # Adam's epsilon would hide the scale invariance that its exponents rest on (gradients shrink with width).
        moves = _OPTIMIZERS[optimizer](groups, **({"eps": TINY_EPS} if optimizer == "adam" else {}))
        _run(result, (i, j), model, moves, x, y)
    return result


def _run(
    result: CoordCheck, at: tuple[int, int], model: MLP, moves: torch.optim.Optimizer, x: Tensor, y: Tensor
) -> None:
    """Train one network, and write down its sizes at [width, seed] until it diverges."""
    h_0: list[Tensor] = []
    for step in range(result.steps + 1):
        h = model.preactivations(x)
        loss = 0.5 * (h[-1] - y).square().sum() / len(x)
        if not all(rms(h_l) <= BLOW_UP for h_l in h):  # also of NaN, which max() would pass over
            result.diverged_at[at] = step
            return
        result.loss[(*at, step)] = float(loss.detach())
        if step == 0:
            h_0 = [h_l.detach() for h_l in h]
            result.start[at] = [rms(h_l) for h_l in h_0]
        else:
            result.change[(*at, step - 1)] = [rms(h_l - h_l0) for h_l, h_l0 in zip(h, h_0, strict=True)]
        if step < result.steps:
            moves.zero_grad(set_to_none=True)
            loss.backward()
            moves.step()


def _check_input(
    p: ABC, x: Tensor, y: Tensor, widths: Sequence[int], seeds: list[int], optimizer: str
) -> None:
    check_parametrization(p)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) == 0:
        raise InputError(
            f"x is {tuple(x.shape)} and y is {tuple(y.shape)}; expected (batch, d_in) and (batch, d_out); "
            "try y[:, None] for one output"
        )
    if len(widths) < 2 or any(small >= large for small, large in zip(widths, widths[1:])):  # noqa: RUF007
        raise InputError(f"widths = {tuple(widths)}; expected two or more, increasing; try (64, 128, 256)")
    if not seeds:
        raise InputError("no seeds; at least one run per width is needed; try seeds=4")
    if optimizer not in _OPTIMIZERS:
        raise InputError(f"optimizer = {optimizer!r}; known are 'sgd' and 'adam'; try optimizer='sgd'")
