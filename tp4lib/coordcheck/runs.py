"""Short runs of one network at several widths and seeds, watched by forward hooks: for `check_module` and `blame`."""

import inspect
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tp4lib.base.checks import real, whole
from tp4lib.base.errors import InputError
from tp4lib.base.progress import bar
from tp4lib.parametrization import ABC
from tp4lib.scale.scaled import Scaled, optimizer_kind, scale

BLOW_UP = 1e6  # a run has diverged when some output's root mean square exceeds this, or is not finite
TINY_EPS = 1e-18  # far below any gradient; with less, a gradient whose square underflows in float32 would be blown up

Optimizer = str | Callable[[Scaled, float], torch.optim.Optimizer]


@dataclass(frozen=True)
class Runs:
    """Which networks are trained, and how: the arguments of `check_module` and `blame`.

    Attributes:
        make, base, parametrization, roles, fold: see `tp4lib.scale.scale`. parametrization None takes make's network
            as it is, to check muP written by hand or by another library; the optimizer is then a function.
        widths: three or more, increasing, from the base width on.
        loss: ``(model, *batch)`` -> scalar, or ``(model, batch)`` for batches that are not tuples.
        batches: trained on in turn; the first is also the one that outputs are compared on.
        lr: at the base width. It should be small enough for `steps` steps to be a small change.
        optimizer: "sgd", "adam", or a function (net, lr) -> torch optimizer, such as
            `lambda net, lr: torch.optim.RMSprop(net.groups(lr, "adam"))`.
        seeds: how many initializations at each width.
    """

    make: Callable[[int], nn.Module]
    widths: Sequence[int]
    base: int
    parametrization: ABC | None
    loss: Callable[..., Tensor]
    batches: Sequence[Any]
    lr: float
    optimizer: Optimizer = "adam"
    steps: int = 4
    seeds: int = 3
    roles: Mapping[str, Any] | None = None
    fold: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        widths = tuple(whole("widths", width) for width in self.widths)
        object.__setattr__(self, "widths", widths)
        object.__setattr__(self, "batches", list(self.batches))
        if len(widths) < 3 or list(widths) != sorted(set(widths)):
            raise InputError(f"widths = {widths}; expected three or more, increasing; try (64, 128, 256)")
        whole("steps", self.steps, example=4)
        whole("seeds", self.seeds, example=3)
        real("lr", self.lr, above=0, example=0.01)
        if not self.batches:
            raise InputError("no batches; expected at least one to train on; try batches=[(x, y)]")
        if not callable(self.optimizer):
            optimizer_kind(self.optimizer)
            if self.parametrization is None:
                raise InputError(
                    "without a parametrization there are no rates; expected optimizer to be a function; try "
                    "optimizer=lambda net, lr: torch.optim.Adam(net.model.parameters(), lr)"
                )

    @property
    def label(self) -> str:
        p = self.parametrization
        return "as it is" if p is None else p.name or "this ABC"

    def sizes(self) -> dict[Any, np.ndarray]:
        """{..: (widths, seeds)} of NaN, to be filled in."""
        return defaultdict(lambda: np.full((len(self.widths), self.seeds), math.nan))

    def all(self, what: str) -> Iterator[tuple[int, int, Any, Callable[[int], None]]]:
        """(index of the width, seed, network, function that makes the t-th step), of every width and seed."""
        pairs = [(i, seed) for i in range(len(self.widths)) for seed in range(self.seeds)]
        for i, seed in bar(pairs, desc=f"{what}, {self.label}", unit="run"):
            with self._network(self.widths[i], seed) as (net, update):
                yield i, seed, net, update

    @contextmanager
    def _network(self, width: int, seed: int) -> Iterator[tuple[Any, Callable[[int], None]]]:
        with torch.random.fork_rng():  # torch's random state is as before afterwards
            torch.manual_seed(seed)
            if self.parametrization is None:
                net = SimpleNamespace(model=self.make(width), rows={})
            else:
                net = scale(self.make, width, self.base, self.parametrization, self.roles, self.fold)
            if (data := next(_tensors(self.batches), None)) is not None:
                net.model.to(data.device)  # networks go where the data are
            if callable(self.optimizer):
                moves = self.optimizer(net, self.lr)
            elif optimizer_kind(self.optimizer) == "sgd":
                moves = torch.optim.SGD(net.groups(self.lr, "sgd"))
            else:
                moves = torch.optim.Adam(net.groups(self.lr, "adam", eps=TINY_EPS))

            def update(t: int) -> None:
                moves.zero_grad()
                self._value(net.model, self.batches[t % len(self.batches)]).backward()
                moves.step()

            yield net, update

    def _value(self, model: nn.Module, batch: Any) -> Tensor:
        arguments = (model, *batch) if isinstance(batch, (tuple, list)) else (model, batch)
        try:
            inspect.signature(self.loss).bind(*arguments)
        except TypeError:
            arguments = (model, batch)
        value = self.loss(*arguments)
        if not (isinstance(value, Tensor) and value.dim() == 0):
            what = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InputError(
                f"loss gives {what}; expected one number; try lambda model, x, y: F.cross_entropy(model(x), y)"
            )
        return value

    @torch.no_grad()
    def outputs(
        self, model: nn.Module, only: str | None = None, inputs: dict[str, float] | None = None
    ) -> dict[str, Tensor]:
        """{module: its outputs on the first batch, flat}; dropout draws the same masks each time.

        A module that returns the output of one of its parts unchanged is left out.

        Args:
            only: the one module wanted. inputs: to be filled with the size of each module's input.
        """
        seen: dict[str, list[Tensor]] = {}
        made: dict[int, Tensor] = {}  # kept while the pass lasts, so that no id is used twice

        def hook(name: str) -> Callable:
            def keep(_module: nn.Module, arguments: tuple, output: Any) -> None:
                found = [t for t in _tensors(output) if t.is_floating_point()]
                if found and not all(id(t) in made for t in found):
                    made.update((id(t), t) for t in found)
                    # A copy: what follows may work in place.
                    seen.setdefault(name, []).extend(t.detach().flatten().clone() for t in found)
                given = [t for t in _tensors(arguments) if t.is_floating_point()]
                if inputs is not None and given:
                    inputs[name] = rms(given[0])

            return keep

        watched = [(name, module) for name, module in model.named_modules() if only in (None, name)]
        handles = [module.register_forward_hook(hook(name)) for name, module in watched]
        try:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                self._value(model, self.batches[0])
        finally:
            for handle in handles:
                handle.remove()
        return {name: torch.cat(found) for name, found in seen.items()}


def rms(h: Tensor) -> float:
    """Root mean square, summed in float64.

    >>> round(rms(torch.tensor([3.0, 4.0])) ** 2, 6)
    12.5
    """
    return float(torch.linalg.vector_norm(h.detach(), dtype=torch.float64)) / math.sqrt(h.numel())


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in what a module takes or gives: a tensor, or tuples, lists and dicts of them."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list, Mapping)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(part)
