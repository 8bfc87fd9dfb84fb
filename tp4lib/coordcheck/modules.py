r"""The coordinate check for any module: with which powers of the width its outputs, and their changes, grow.

    |h_0| ~ n^e,   |h_t - h_0| ~ n^d     (root mean square over the output of one module, on one batch)

In muP every module's output changes by Theta(1): d = 0. In the kernel regime hidden ones change like n^-r. Source: Yang
et al. 2022 (Tensor Programs V, arXiv 2203.03466), appendix D, for the check; `ABC.change_exponents` for the powers.

>>> import torch
>>> from torch import nn
>>> from tp4lib.parametrization import mup
>>> def make(width):
...     return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))
>>> x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
>>> def loss(model, x, y):
...     return (model(x) - y).square().mean()
>>> check_module(make, (32, 64, 128), 32, mup(2), loss, [(x, x[:, :1])], lr=0.01).ok
True
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from tp4lib.base.checks import real
from tp4lib.base.powers import power_of_width, shown
from tp4lib.base.tables import TextTable
from tp4lib.coordcheck.runs import BLOW_UP, Runs, rms
from tp4lib.parametrization import ABC
from tp4lib.scale.scaled import Row


@dataclass(frozen=True)
class ModuleCheck:
    """The sizes that `check_module` measured; `powers`, `ok`, `table` and `plot` say what they mean.

    start: {module: (widths, seeds)}, root mean square of its initial output. change: of the change after all steps.
    predicted: {module: power of the change}, absent where a parametrization predicts none. diverged_at: (widths,
    seeds), the step at which a run left the finite numbers, -1 if it did not.
    """

    label: str
    widths: tuple[int, ...]
    start: dict[str, np.ndarray]
    change: dict[str, np.ndarray]
    predicted: dict[str, float]
    diverged_at: np.ndarray
    tolerance: float

    @property
    def powers(self) -> dict[str, float]:
        """{module: power of the width with which its output's change grows}, of those that could be fitted."""
        return {name: power for name in self.change if (power := self._fit(self.change, name)[0]) is not None}

    @property
    def off(self) -> dict[str, float]:
        """{module: power minus prediction}, of those that have both."""
        return {n: power - self.predicted[n] for n, power in self.powers.items() if n in self.predicted}

    @property
    def ok(self) -> bool:
        """Whether nothing diverged, nothing blows up, and every change grows as predicted, within the noise."""
        return bool((self.diverged_at < 0).all()) and not any(
            self.verdict(name).isupper() for name in self.change
        )

    def verdict(self, name: str) -> str:
        """In a word; those in capitals are faults."""
        start, change = self._fit(self.start, name), self._fit(self.change, name)
        predicted = self.predicted.get(name)
        if start[0] is not None and self._beyond(start[0], start[1]):
            return "BLOWS UP AT INITIALIZATION"
        if change[0] is None:
            return "not measured"
        if predicted is None:
            return "BLOWS UP" if self._beyond(*change) else "-"
        if self._beyond(change[0] - predicted, change[1]):
            return "BLOWS UP" if change[0] > 0 else "GROWS MORE THAN PREDICTED"
        if self._beyond(predicted - change[0], change[1]):
            return "FREEZES" if predicted == 0 else "GROWS LESS THAN PREDICTED"
        return "ok" if abs(change[0] - predicted) <= self.tolerance else "ok, but noisy"

    def table(self) -> TextTable:
        """One line per module: powers of the initial output and its change (with standard error), verdict."""
        body = []
        for name in self.change:
            start, change = self._fit(self.start, name), self._fit(self.change, name)
            predicted = self.predicted.get(name)
            cells = [shown(start[0]), shown(*change), "" if predicted is None else shown(predicted)]
            body.append([name or "(the model)", *cells, self.verdict(name)])
        lost = np.argwhere(self.diverged_at >= 0)
        for i, _ in lost[:1]:
            step = self.diverged_at[i][self.diverged_at[i] >= 0].min()
            body.append(
                [f"{len(lost)} runs", "", "", "", f"DIVERGED, first at width {self.widths[i]}, step {step}"]
            )
        return TextTable(
            ["module", "power at initialization", "power of change", "predicted", "verdict"], body
        )

    def plot(self, ax: Any = None) -> Any:
        """Change of every module's output against the width; what is as predicted in grey, the faults labelled."""
        from tp4lib.coordcheck.drawing import one_panel  # only here, so that a check needs no matplotlib

        return one_panel(self, ax)

    def _fit(self, sizes: dict[str, np.ndarray], name: str) -> tuple[float | None, float | None]:
        return power_of_width(np.array(self.widths), sizes[name])

    def _beyond(self, difference: float, error: float | None) -> bool:
        return difference > self.tolerance and difference > 3 * (error or 0.0)


def check_module(
    make: Callable[[int], nn.Module],
    widths: Sequence[int],
    base: int,
    parametrization: ABC | None,
    loss: Callable[..., Tensor],
    batches: Sequence[Any],
    lr: float,
    *,
    tolerance: float = 0.15,
    **options: Any,
) -> ModuleCheck:
    """Train a network at several widths for a few steps and measure how every module's output changes with the width.

    Args:
        tolerance: on powers, in the verdicts.
        options: optimizer, steps, seeds, roles and fold; all else is explained with them, see
            `tp4lib.coordcheck.runs.Runs`.
    """
    runs = Runs(make, widths, base, parametrization, loss, batches, lr, **options)
    tolerance = real("tolerance", tolerance, above=0, example=0.15)
    start, change, diverged_at = runs.sizes(), runs.sizes(), np.full((len(runs.widths), runs.seeds), -1)
    lengths: list[dict[str, int]] = []  # of the outputs, run by run
    for i, seed, net, update in runs.all("coordinate check"):
        first = last = runs.outputs(net.model)
        for step in range(1, runs.steps + 1):
            update(step - 1)
            last = runs.outputs(net.model)
            if not all(rms(h) <= BLOW_UP for h in last.values()):  # also for NaN
                diverged_at[i, seed] = step
                break
        for name, h in first.items():
            start[name][i, seed] = rms(h)
            moved = rms(last[name] - h) if diverged_at[i, seed] < 0 and name in last else math.nan
            change[name][i, seed] = moved
        lengths.append({name: h.numel() for name, h in first.items()})
    rules, predicted = _rules(net), {}
    for name in change:
        grows = lengths[0].get(name) != lengths[-1].get(name)
        if (power := _predicted(parametrization, rules.get(name), grows)) is not None:
            predicted[name] = power
    return ModuleCheck(runs.label, runs.widths, dict(start), dict(change), predicted, diverged_at, tolerance)


def _rules(net: Any) -> dict[str, Row]:
    """The rule of each module's matrix, or of its gain, of modules that have no parts."""
    rules = {}
    for name, module in net.model.named_modules():
        own = [row for key, row in net.rows.items() if key.rpartition(".")[0] == name]
        if own and not list(module.children()):
            rules[name] = max(own, key=lambda row: len(row.shape))
    return rules


def _predicted(p: ABC | None, rule: Row | None, grows: bool) -> float | None:
    """Power of a module's change: 0 in muP, less a fold; else by the role of its matrix, or by what grows."""
    if p is None or not p.is_stable:
        return 0.0  # an unstable parametrization is held to what a stable one keeps
    if p.learns_features:
        return rule.step if rule else 0.0
    role = rule.role if rule else ""
    if role == "input":
        return p.change_exponents[0]
    if role == "output":
        return p.change_exponents[-1]
    return p.change_exponents[-2] if role == "hidden" or grows else None
