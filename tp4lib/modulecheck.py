r"""The coordinate check for any module: which powers of the width its outputs grow with, and which parameter is to blame.

    |h_0| ~ n^e,   |h_t - h_0| ~ n^d     (root mean square over the output of one module, on one batch, by forward hooks)

In muP every module's output changes by Theta(1): d = 0. Source: Yang et al. 2022 (Tensor Programs V, arXiv 2203.03466),
appendix D, for the check. `blame` moves one parameter at a time by what the optimizer would move it, and looks at the
output of the parameter's own module, per unit of its input: a wrong rate shows in one place, not in all that follow.

>>> from tp4lib.parametrization import mup
>>> def make(width):
...     return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))
>>> x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
>>> def loss(model, x, y):
...     return (model(x) - y).square().mean()
>>> check_module(make, (32, 64, 128), 32, mup(2), loss, [(x, x[:, :1])], lr=0.01).ok
True
"""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from tp4lib.checks import real, whole
from tp4lib.errors import InputError
from tp4lib.parametrization import ABC
from tp4lib.progress import bar
from tp4lib.roles import NORMS
from tp4lib.scale import Scaled, optimizer_kind, scale
from tp4lib.tables import Table

BLOW_UP = 1e6  # a run has diverged when some output's root mean square exceeds this, or is not finite
TINY_EPS = 1e-30  # Adam's: a larger one would hide that its steps do not depend on the gradient's size
SIMPLE = (nn.Linear, _ConvNd, nn.Embedding, *NORMS)  # output = parameter applied to the input, and no more

Optimizer = str | Callable[[Scaled, float], torch.optim.Optimizer]


def power_of_width(widths: np.ndarray, sizes: np.ndarray) -> tuple[float | None, float | None]:
    """Fitted power of the width, and its standard error from leaving out one seed at a time.

    Least squares in log-log of the mean squares over seeds, over the widths at which all sizes are finite.

    Args:
        widths: (W,). sizes: (W, S), one column a seed.

    Returns:
        (None, None) if fewer than three widths are left, or a size is exactly 0; no error for one seed.

    >>> power_of_width(np.array([1, 2, 4]), np.array([[1.0], [2.0], [4.0]]))[0]
    1.0
    """
    kept = np.isfinite(sizes).all(1)
    if kept.sum() < 3 or (sizes[kept] <= 0).any():
        return None, None
    logs, squares = np.log(np.asarray(widths)[kept]), sizes[kept] ** 2

    def slope(columns: np.ndarray) -> float:
        return float(np.polyfit(logs, 0.5 * np.log(columns.mean(1)), 1)[0])

    seeds = squares.shape[1]
    if seeds < 2:
        return slope(squares), None
    jackknife = np.array([slope(np.delete(squares, seed, axis=1)) for seed in range(seeds)])
    return slope(squares), float(np.sqrt((seeds - 1) * jackknife.var()))


@dataclass(frozen=True)
class ModuleCheck:
    """The sizes that `check_module` measured; `powers`, `ok`, `table` and `plot` say what they mean.

    start: {module: (widths, seeds)}, root mean square of its output. change: of the output's change after all steps.
    predicted: {module: power of the change}, absent where a parametrization predicts none. diverged_at: (widths, seeds),
    the step at which a run left the finite numbers, -1 if it did not.
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
    def starts(self) -> dict[str, float]:
        """{module: power of the width with which its output at the start grows}."""
        return {name: power for name in self.start if (power := self._fit(self.start, name)[0]) is not None}

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
            return "START BLOWS UP"
        if change[0] is None:
            return "not measured"
        if predicted is None:
            return "BLOWS UP" if self._beyond(*change) else "-"
        if self._beyond(change[0] - predicted, change[1]):
            return "BLOWS UP" if change[0] > 0 else "GROWS MORE THAN PREDICTED"
        if self._beyond(predicted - change[0], change[1]):
            return "FREEZES" if predicted == 0 else "GROWS LESS THAN PREDICTED"
        return "ok" if abs(change[0] - predicted) <= self.tolerance else "ok, but noisy"

    def table(self) -> Table:
        """One line per module: power of the start, of the change (with standard error), prediction, verdict."""
        body = []
        for name in self.change:
            start, change = self._fit(self.start, name), self._fit(self.change, name)
            predicted = self.predicted.get(name)
            cells = [_shown(start[0]), _shown(*change), "" if predicted is None else _shown(predicted)]
            body.append([name or "(the model)", *cells, self.verdict(name)])
        lost = np.argwhere(self.diverged_at >= 0)
        for i, _ in lost[:1]:
            step = self.diverged_at[i][self.diverged_at[i] >= 0].min()
            body.append(
                [f"{len(lost)} runs", "", "", "", f"DIVERGED, first at width {self.widths[i]}, step {step}"]
            )
        return Table(["module", "power at start", "power of change", "predicted", "verdict"], body)

    def plot(self, ax: Any = None) -> Any:
        """Change of every module's output against the width; what is as predicted in grey, the faults labelled."""
        import matplotlib.pyplot as plt

        from tp4lib.plotting import label_lines, log_axis, number, style_for

        ax = ax or plt.subplots(figsize=(7.5, 4.4))[1]
        faults = sorted(
            (n for n in self.powers if self.verdict(n).isupper()), key=lambda n: -abs(self.powers[n])
        )[:6]
        styles = style_for(faults)
        for name in sorted(self.powers, key=lambda n: n in faults):
            sizes = self.change[name]
            kept = np.isfinite(sizes).all(1)
            label = f"{name or '(the model)'}: {number(self.powers[name], sign=True)}"
            style = styles.get(name, dict(color="0.72", linewidth=1.0, zorder=1))
            middle = np.sqrt((sizes[kept] ** 2).mean(1))
            ax.plot(np.array(self.widths)[kept], middle, label=label if name in faults else None, **style)
        ax.set(xlabel="width", ylabel="change of the output", title=self.label)
        log_axis(ax, "x", at=self.widths)
        log_axis(ax)
        label_lines(ax)
        return ax.figure

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
    optimizer: Optimizer = "adam",
    steps: int = 4,
    seeds: int = 3,
    roles: Mapping[str, Any] | None = None,
    fold: Mapping[str, float] | None = None,
    tolerance: float = 0.15,
) -> ModuleCheck:
    """Train a network at several widths for a few steps and measure how every module's output changes with the width.

    Args:
        make, base, parametrization, roles, fold: see `tp4lib.scale.scale`. parametrization None takes make's network as it
            is, to check muP written by hand or by another library; the optimizer is then a function.
        widths: three or more, increasing, from the base width on.
        loss: (model, *batch) -> scalar, or (model, batch) for batches that are not tuples.
        batches: trained on in turn; the first is also the one that outputs are compared on.
        lr: at the base width. It should be small enough for `steps` steps to be a small change.
        optimizer: "sgd", "adam", or a function (net, lr) -> torch optimizer, such as
            `lambda net, lr: torch.optim.RMSprop(net.groups(lr, "adam"))`.
        seeds: how many initializations at each width. tolerance: on powers, in the verdicts.

    Raises:
        InputError: whatever `scale` raises, fewer than three widths, no batch, a loss that is no number.
    """
    task = _Task(make, widths, base, parametrization, loss, batches, lr, optimizer, steps, seeds, roles, fold)
    shape = (len(task.widths), task.seeds)
    start: dict[str, np.ndarray] = {}
    change: dict[str, np.ndarray] = {}
    diverged_at, outputs, roles_of = np.full(shape, -1), {}, {}
    for i, j, width, seed in task.runs("coordinate check"):
        with task.network(width, seed) as (net, update):
            first = task.outputs(net.model)
            for step in range(1, task.steps + 1):
                update(step - 1)
                if not _calm(last := task.outputs(net.model)):
                    diverged_at[i, j] = step
                    break
            for name, h in first.items():
                start.setdefault(name, np.full(shape, math.nan))[i, j] = _rms(h)
                moved = _rms(last[name] - h) if diverged_at[i, j] < 0 and name in last else math.nan
                change.setdefault(name, np.full(shape, math.nan))[i, j] = moved
            outputs.setdefault(width, {name: h.numel() for name, h in first.items()})
            roles_of = roles_of or {
                name.rpartition(".")[0]: row.role for name, row in net.rows.items() if len(row.shape) > 1
            }
    ends = outputs[task.widths[0]], outputs[task.widths[-1]]
    predicted = {
        name: power
        for name in change
        if (power := _predicted(parametrization, roles_of.get(name), ends[0].get(name) != ends[1].get(name)))
        is not None
    }
    return ModuleCheck(
        task.label, task.widths, start, change, predicted, diverged_at, real("tolerance", tolerance, above=0)
    )


def _predicted(p: ABC | None, role: str | None, grows: bool) -> float | None:
    """Power of a module's change: 0 in muP; else by the role of its matrix, or of the width of its output."""
    if (
        p is None or p.learns_features or not p.is_stable
    ):  # an unstable one is held to what a stable one keeps
        return 0.0
    if role == "input":
        return p.change_exponents[0]
    if role == "output":
        return p.change_exponents[-1]
    return p.change_exponents[-2] if role == "hidden" or grows else None


class Blame(dict):
    """{parameter: how far its power of the width is from what it should be}; 0 is right. Made by `blame`.

    `what` says of what: "start" (the initialization's part of the own module's output), "step" (an update's part), or
    "effect" (an update's effect on any module, when all parts are right, such as attention logits without 1/d).
    """

    def __init__(self, values: dict[str, float], what: str, rows: dict[str, tuple], tolerance: float) -> None:
        super().__init__(values)
        self.what, self.rows, self.tolerance = what, rows, tolerance

    @property
    def ok(self) -> bool:
        return self.worst is None

    @property
    def worst(self) -> str | None:
        """The parameter that is furthest off, or None if all are right within the tolerance."""
        name = max(self, key=lambda n: abs(self[n]), default=None)
        return name if name is not None and abs(self[name]) > self.tolerance else None

    def table(self, most: int = 8) -> Table:
        """The parameters that are furthest off, and by how much in initialization, update and effect."""
        order = sorted(self, key=lambda n: -abs(self[n]))[:most]
        body = [
            [n, *map(_shown, self.rows[n][:3]), self.rows[n][3] or "", "TO BLAME" if n == self.worst else ""]
            for n in order
        ]
        return Table(["parameter", "off at start", "off in a step", "effect", "on", ""], body)


def blame(
    make: Callable[[int], nn.Module],
    widths: Sequence[int],
    base: int,
    parametrization: ABC | None,
    loss: Callable[..., Tensor],
    batches: Sequence[Any],
    lr: float,
    optimizer: Optimizer = "adam",
    steps: int = 3,
    seeds: int = 3,
    roles: Mapping[str, Any] | None = None,
    fold: Mapping[str, float] | None = None,
    tolerance: float = 0.25,
) -> Blame:
    """Which single parameter has the wrong power of the width.

    After `steps` - 1 ordinary steps, the next one is computed, and each parameter alone is moved by its part of it; the change of
    its own module's output, over the size of that module's input, should be Theta(1) in muP. Likewise what the initial
    value puts into the output. Only if all of these are right, effects on other modules are looked at. Repair what is
    blamed, and ask again. Arguments and errors: see `check_module`.
    """
    task = _Task(make, widths, base, parametrization, loss, batches, lr, optimizer, steps, seeds, roles, fold)
    real("tolerance", tolerance, above=0)
    shape = (len(task.widths), task.seeds)
    start, step, effect, table = {}, {}, {}, {}
    for i, j, width, seed in task.runs("blame"):
        with task.network(width, seed) as (net, update):
            table = net.rows
            for name, size in task.contributions(net.model):
                start.setdefault(name, np.full(shape, math.nan))[i, j] = size
            for t in range(task.steps - 1):
                update(t)
            for name, own, others in task.moves(net, update):
                step.setdefault(name, np.full(shape, math.nan))[i, j] = own
                for module, size in others.items():
                    effect.setdefault((name, module), np.full(shape, math.nan))[i, j] = size
    return _judge(task, table, start, step, effect, tolerance)


def _judge(task: "_Task", table: dict, start: dict, step: dict, effect: dict, tolerance: float) -> Blame:
    widths = np.array(task.widths)
    rows: dict[str, tuple] = {}
    for name, sizes in step.items():
        row, simple = table.get(name), name in start or name in task.simple
        expected = min(row.step, 0.0) if row and (simple or not task.maximal) else 0.0
        at_start, own = (
            power_of_width(widths, start[name])[0] if name in start else None,
            power_of_width(widths, sizes)[0],
        )
        at_start = at_start and at_start - (min(row.start, 0.0) if row else 0.0)
        others = {m: power_of_width(widths, sizes) for (n, m), sizes in effect.items() if n == name}
        sure = {m: power for m, (power, error) in others.items() if power and power > 3 * (error or 0.0)}
        where = max(sure, key=sure.get, default=None)
        rows[name] = at_start, None if own is None else own - expected, sure.get(where), where
    for place, what in enumerate(("start", "step", "effect")):
        values = {name: row[place] or 0.0 for name, row in rows.items()}
        if what == "effect" or any(abs(value) > tolerance for value in values.values()):
            return Blame(values, what, rows, tolerance)
    raise AssertionError("the last kind always returns")


# -- networks in training ---------------------------------------------------------------------------------------------


class _Task:
    """The arguments that `check_module` and `blame` share, checked, and the runs over widths and seeds."""

    def __init__(
        self, make, widths, base, p, loss, batches, lr, optimizer, steps, seeds, roles, fold
    ) -> None:
        self.make, self.base, self.p, self.loss = make, base, p, loss
        self.widths = tuple(whole("widths", width) for width in widths)
        if len(self.widths) < 3 or any(a >= b for a, b in zip(self.widths, self.widths[1:], strict=False)):
            raise InputError(
                f"widths = {self.widths}; expected three or more, increasing; try (64, 128, 256)"
            )
        self.steps, self.seeds = whole("steps", steps, example=4), whole("seeds", seeds, example=3)
        self.lr = real("lr", lr, above=0, example=0.01)
        self.batches = list(batches)
        if not self.batches:
            raise InputError("no batches; expected at least one to train on; try batches=[(x, y)]")
        if not callable(optimizer):
            optimizer_kind(optimizer)
            if p is None:
                raise InputError(
                    f"parametrization is None and optimizer = {optimizer!r}; expected a function, as there are no rates; "
                    "try optimizer=lambda net, lr: torch.optim.Adam(net.model.parameters(), lr)"
                )
        self.optimizer, self.roles, self.fold = optimizer, roles, fold
        self.label = "as it is" if p is None else p.name or "this ABC"
        self.maximal = p is None or p.learns_features
        self.simple: set[str] = set()

    def runs(self, what: str) -> Iterator[tuple[int, int, int, int]]:
        pairs = [(i, j) for i in range(len(self.widths)) for j in range(self.seeds)]
        for i, j in bar(pairs, desc=f"{what}, {self.label}", unit="run"):
            yield i, j, self.widths[i], j

    @contextmanager
    def network(self, width: int, seed: int) -> Iterator[tuple[Any, Callable[[int], None]]]:
        """A network, and a function that makes the t-th step; torch's random state is put back afterwards."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if self.p is None:
                net = SimpleNamespace(model=self.make(width), rows={})
            else:
                net = scale(self.make, width, self.base, self.p, self.roles, self.fold)
            moves = self._moves(net)

            def update(t: int) -> None:
                moves.zero_grad()
                value = self.value(net.model, self.batches[t % len(self.batches)])
                value.backward()
                moves.step()

            yield net, update

    def _moves(self, net: Scaled) -> torch.optim.Optimizer:
        if callable(self.optimizer):
            return self.optimizer(net, self.lr)
        if optimizer_kind(self.optimizer) == "sgd":
            return torch.optim.SGD(net.groups(self.lr, "sgd"))
        return torch.optim.Adam(net.groups(self.lr, "adam", eps=TINY_EPS))

    def value(self, model: nn.Module, batch: Any) -> Tensor:
        arguments = (model, *batch) if isinstance(batch, (tuple, list)) else (model, batch)
        try:
            inspect.signature(self.loss).bind(*arguments)
        except TypeError:
            arguments = (model, batch)
        value = self.loss(*arguments)
        if not (isinstance(value, Tensor) and value.dim() == 0):
            raise InputError(
                f"loss gives {type(value).__name__}{' ' + str(tuple(value.shape)) if isinstance(value, Tensor) else ''}; "
                "expected one number; try lambda model, x, y: F.cross_entropy(model(x), y)"
            )
        return value

    @torch.no_grad()
    def outputs(self, model: nn.Module, inputs: dict[str, float] | None = None) -> dict[str, Tensor]:
        """{module: its outputs on the first batch, flat}; dropout masks are the same each time.

        A module that hands on what a part of it made is left out. `inputs` gets the size of each module's input.
        """
        seen: dict[str, list[Tensor]] = {}
        made: dict[int, Tensor] = {}  # kept, so that no number is used twice

        def hook(name: str) -> Callable:
            def keep(_module: nn.Module, arguments: tuple, output: Any) -> None:
                found = [t for t in _tensors(output) if t.is_floating_point()]
                if found and not all(id(t) in made for t in found):
                    made.update((id(t), t) for t in found)
                    seen.setdefault(name, []).extend(t.detach().flatten().clone() for t in found)
                given = [t for t in _tensors(arguments) if t.is_floating_point()]
                if inputs is not None and given:
                    inputs[name] = _rms(given[0])

            return keep

        handles = [module.register_forward_hook(hook(name)) for name, module in model.named_modules()]
        try:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                self.value(model, self.batches[0])
        finally:
            for handle in handles:
                handle.remove()
        return {
            name: torch.cat([t.float() if t.dtype.itemsize < 4 else t for t in found])
            for name, found in seen.items()
        }

    @torch.no_grad()
    def contributions(self, model: nn.Module) -> Iterator[tuple[str, float]]:
        """(parameter, what its initial value puts into its module's output, per unit of input), of simple modules."""
        sizes: dict[str, float] = {}
        before = self.outputs(model, sizes)
        for name, p in model.named_parameters():
            where = name.rpartition(".")[0]
            if isinstance(model.get_submodule(where), SIMPLE) and where in before:
                self.simple.add(name)
                kept = p.detach().clone()
                if kept.any():
                    p.zero_()
                    size = _rms(self.outputs(model)[where] - before[where])
                    p.copy_(kept)
                    yield name, size / (sizes.get(where, 1.0) if self._summed(model, where, p) else 1.0)

    def moves(self, net: Any, update: Callable[[int], None]) -> Iterator[tuple[str, float, dict[str, float]]]:
        """(parameter, change of its own modules' outputs, change of every module's) by its part of the next step."""
        sizes: dict[str, float] = {}
        before, model = self.outputs(net.model, sizes), net.model
        parameters = dict(model.named_parameters())
        uses = list(model.named_parameters(remove_duplicate=False))
        old = {name: p.detach().clone() for name, p in parameters.items()}
        update(self.steps - 1)
        steps = {name: p.detach() - old[name] for name, p in parameters.items()}
        gradients = {name: _rms(p.grad) for name, p in parameters.items() if p.grad is not None}
        for name, p in parameters.items():
            p.data.copy_(old[name])
        for name, p in parameters.items():
            if gradients.get(name, 0.0) <= 1e-6 * max(gradients.values()):
                continue  # none, or rounding noise: a bias of keys, which the softmax ignores
            p.data.add_(steps[name])
            after = self.outputs(model)
            p.data.copy_(old[name])
            changes = {m: _rms(after[m] - h) for m, h in before.items() if m in after}
            own = []
            for where in (use.rpartition(".")[0] for use, q in uses if q is p):
                unit = sizes.get(where, 1.0) if self._summed(model, where, p) else 1.0
                own.append(changes[self._recorded(where, changes)] / unit)
            yield name, own[0], changes

    @staticmethod
    def _summed(model: nn.Module, where: str, p: Tensor) -> bool:
        """Whether the module's output is proportional to its input by this parameter."""
        return p.dim() > 1 and isinstance(model.get_submodule(where), (nn.Linear, _ConvNd))

    @staticmethod
    def _recorded(where: str, changes: dict[str, float]) -> str:
        """The module itself, or the smallest around it whose output was seen."""
        while where not in changes and where:
            where = where.rpartition(".")[0]
        return where if where in changes else next(reversed(changes))


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in what a module takes or gives: a tensor, or tuples, lists and dicts of them."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list, Mapping)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(part)


def _calm(outputs: dict[str, Tensor]) -> bool:
    return all(_rms(h) <= BLOW_UP for h in outputs.values())  # False for NaN


def _rms(h: Tensor) -> float:
    return float(h.detach().double().square().mean().sqrt())


def _shown(power: float | None, error: float | None = None) -> str:
    return "-" if power is None else f"{power + 0.0:+.2f}" + ("" if error is None else f" ± {error:.2f}")
