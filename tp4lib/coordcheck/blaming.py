"""Which single parameter has the wrong power of the width.

The coordinate check shows a wrong rate in every module that follows. Here one parameter at a time is moved by its own
part of an optimizer's step, and the output of its own module is looked at, per unit of that module's input:

    |dW x| / |x| ~ n^0 in muP for every W;    likewise |W_0 x| / |x| ~ n^0, or n^-1/2 in the readout.

Source: Yang & Hu 2021 (Tensor Programs IV, arXiv 2011.14522), section 5: muP is where the update of every parameter
moves the output of its layer by Theta(1), which is as much as is stable.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from tp4lib.base.checks import real
from tp4lib.base.powers import power_of_width, shown
from tp4lib.base.tables import TextTable
from tp4lib.coordcheck.runs import Runs, rms
from tp4lib.scale.roles import NORMS
from tp4lib.scale.scaled import Row

SUMS = (nn.Linear, _ConvNd)  # the output is proportional to the input, by the weight
STEP_PART = 1 / 32  # of a step, so that a softmax does not saturate and hide how its logits grow
SIMPLE = (*SUMS, nn.Embedding, *NORMS)  # a parameter applied to the input, and no more


class Blame(dict):
    """{parameter: how far its power of the width is from what it should be}; 0 is right. Made by `blame`.

    `what` says of what: "start" (the initial value's part of the output), "step" (an update's part), or "effect" (an
    update's effect on any module, when all parts are right, such as attention logits without their 1/d).
    """

    def __init__(self, rows: dict[str, tuple], tolerance: float) -> None:
        self.rows, self.tolerance = rows, tolerance
        for place, what in enumerate(("start", "step", "effect")):  # in the order of cause and effect
            self.what, values = what, {name: row[place] or 0.0 for name, row in rows.items()}
            if any(abs(value) > tolerance for value in values.values()):
                break
        super().__init__(values)

    @property
    def worst(self) -> str | None:
        """The parameter that is furthest off, or None if all are right within the tolerance."""
        name = max(self, key=lambda n: abs(self[n]), default=None)
        return name if name is not None and abs(self[name]) > self.tolerance else None

    @property
    def ok(self) -> bool:
        return self.worst is None

    def table(self, most: int = 8) -> TextTable:
        """The parameters that are furthest off, and by how much: in initialization, in an update, in its effect."""
        body = []
        for name in sorted(self, key=lambda n: -abs(self[n]))[:most]:
            *off, module = self.rows[name]
            body.append([name, *map(shown, off), module or "", "TO BLAME" if name == self.worst else ""])
        return TextTable(["parameter", "off at initialization", "off in a step", "effect", "on", ""], body)


def blame(*network: Any, steps: int = 3, tolerance: float = 0.25, **options: Any) -> Blame:
    """Which single parameter has the wrong power of the width.

    After `steps` - 1 ordinary steps each parameter alone is moved by its part of the next one; the change of its own
    module's output, over the size of that module's input, should be Theta(1) in muP. Likewise what the initial value
    puts into the output. Only if all of these are right, effects on other modules are looked at. Repair what is
    blamed, and ask again.

    Args:
        network, options: as for `check_module`.
    """
    runs = Runs(*network, steps=steps, **options)
    tolerance = real("tolerance", tolerance, above=0, example=0.25)
    # For every parameter, at each width and seed: the part of its module's output that its initial value makes, and its
    # share of a step; and the effect of that share on every module.
    sizes, rules = runs.sizes(), {}
    for i, seed, net, update in runs.all("blame"):
        model, named = net.model, list(net.model.named_parameters())
        rules = {name: net.rows.get(name) for name, _ in named if isinstance(_owner(model, name), SIMPLE)}
        for kind, name, size in _contributions(runs, model):
            sizes[kind, name][i, seed] = size
        for t in range(steps - 1):
            update(t)
        for name, own, changes in _moves(runs, model, update):
            sizes["step", name][i, seed] = own
            for module, size in changes.items():
                sizes["effect", name, module][i, seed] = size
    powers = {key: power_of_width(np.array(runs.widths), found) for key, found in sizes.items()}
    moved = [name for kind, name, *_ in powers if kind == "step"]
    return Blame({name: _off(name, powers, rules.get(name)) for name in moved}, tolerance)


def _off(
    name: str, powers: dict, rule: Row | None
) -> tuple[float | None, float | None, float | None, str | None]:
    """How far a parameter is off in its initial value, in a step, and in its effect, and the module that shows this."""
    # An unstable parametrization predicts growth; here it is held to what a stable one keeps.
    expected = (min(rule.start, 0.0), min(rule.step, 0.0)) if rule else (0.0, 0.0)
    start, step, tied = (powers.get((kind, name), (None,))[0] for kind in ("start", "step", "tied"))
    start = None if start is None else start - expected[0]
    if tied is not None and tied > abs(start or 0.0):  # logits of a tied readout must not grow
        start = tied
    effects = {key[2]: found for key, found in powers.items() if key[:2] == ("effect", name)}
    # An effect counts only beyond three standard errors: there are many modules, and the largest of many is blamed.
    sure = {
        m: power for m, (power, error) in effects.items() if power is not None and power > 3 * (error or 0.0)
    }
    module = max(sure, key=sure.get, default=None)
    return start, None if step is None else step - expected[1], sure.get(module), module


def _contributions(runs: Runs, model: nn.Module) -> Iterator[tuple[str, str, float]]:
    """("start", parameter, what its value puts into its module's output per unit of input), of simple modules.

    ("tied", parameter, what it puts into the output) for the further uses of a tied one.
    """
    inputs: dict[str, float] = {}
    before = runs.outputs(model, inputs=inputs)
    first = {id(p): name for name, p in model.named_parameters()}
    for name, p in model.named_parameters(remove_duplicate=False):
        where = name.rpartition(".")[0]
        if isinstance(_owner(model, name), SIMPLE) and where in before and p.detach().any():
            kept = p.detach().clone()
            p.data.zero_()  # what the output loses is what the parameter puts into it
            size = rms(runs.outputs(model, only=where)[where] - before[where])
            p.data.copy_(kept)
            if first[id(p)] == name:
                yield "start", name, size / _unit(model, name, p, inputs)
            else:
                yield "tied", first[id(p)], size


def _moves(
    runs: Runs, model: nn.Module, update: Callable[[int], None]
) -> Iterator[tuple[str, float, dict[str, float]]]:
    """(parameter, change of its own module's output, of every module's) by its own part of the last step."""
    inputs: dict[str, float] = {}
    before = runs.outputs(model, inputs=inputs)
    parameters = dict(model.named_parameters())
    old = {name: p.detach().clone() for name, p in parameters.items()}
    update(runs.steps - 1)
    moved = {name: p.detach() - old[name] for name, p in parameters.items()}
    gradients = {name: rms(p.grad) for name, p in parameters.items() if p.grad is not None}
    for name, p in parameters.items():  # back to before the step, from where each parameter is moved alone
        p.data.copy_(old[name])
    for name, p in parameters.items():
        if gradients.get(name, 0.0) <= 1e-6 * max(gradients.values()):
            continue  # no gradient but rounding noise: a bias of keys, which the softmax ignores
        p.data.add_(moved[name], alpha=STEP_PART)
        after = runs.outputs(model)
        p.data.copy_(old[name])
        seen = [module for module in before if module in after]  # called both times
        changes = {module: rms(after[module] - before[module]) / STEP_PART for module in seen}
        where = name.rpartition(".")[0]
        if where not in changes:  # a token, or a matrix given to a function: the first module that it moves
            where = next((module for module, size in changes.items() if size), where)
        yield name, changes.get(where, 0.0) / _unit(model, name, p, inputs), changes


def _owner(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def _unit(model: nn.Module, name: str, p: Tensor, inputs: dict[str, float]) -> float:
    """Size of the module's input where its output is proportional to it by this parameter, else 1."""
    proportional = p.dim() > 1 and isinstance(_owner(model, name), SUMS)
    return inputs.get(name.rpartition(".")[0], 1.0) if proportional else 1.0
