r"""Many runs of one network at once: learning rates x seeds, trained as one stack of networks.

    theta_m <- theta_m - eta_m n^{-c} dL/dtheta (theta_m; batch_t),      m = 1 .. M members, batch_t the same for all

Training small networks one after another leaves a machine waiting for Python. Here the M members of a sweep are one
stack (M, ...) per weight, and a step is a few batched matrix products per layer (`tp4lib.sweep.stack`). A member that
diverges is taken out of the stack and the step is written down.

>>> from tp4lib.nn import MLP
>>> from tp4lib.parametrization import mup
>>> g = torch.Generator().manual_seed(0)
>>> x, y = torch.randn(64, 5, generator=g), torch.randn(64, 1, generator=g)
>>> result = sweep(lambda seed: MLP(5, 32, 1, mup(2), seed=seed), [0.01, 1e4], [0, 1], x, y, steps=20, batch_size=16)
>>> result.stable.tolist()
[[True, True], [False, False]]
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tp4lib.base import checks
from tp4lib.base.checks import real, whole
from tp4lib.base.device import available_memory, require_memory
from tp4lib.base.errors import InputError
from tp4lib.base.progress import bar
from tp4lib.scale.scaled import Scaled
from tp4lib.sweep.any_module import Trainer, loss_named
from tp4lib.sweep.stack import Stack

_COPIES = {"sgd": 2, "adam": 5}  # of the weights: themselves and scratch; for Adam gradients and averages too
_CPU_STACK = 2**25  # bytes of stacked weights beyond which a CPU gains nothing from more members at once


@dataclass(frozen=True)
class Sweep:
    """What a sweep over R rates and S seeds measured. No entry is NaN.

    Attributes:
        rates: (R,) learning rates eta, ascending. seeds: (S,) seeds of the start.
        losses: (R, S, steps + 1) loss on minibatch t after t updates; inf from the step of divergence on.
        diverged_at: (R, S) number of updates after which the member was found diverged; -1 if it never was.
        evaluated_at: (E,) numbers of updates at which the test set was evaluated.
        test_loss, test_accuracy: (R, S, E); inf and 0 from the step of divergence on.
    """

    rates: np.ndarray
    seeds: np.ndarray
    losses: np.ndarray
    diverged_at: np.ndarray
    evaluated_at: np.ndarray
    test_loss: np.ndarray
    test_accuracy: np.ndarray

    @property
    def stable(self) -> np.ndarray:
        """(R, S) True where the member did not diverge."""
        return self.diverged_at < 0

    def final_loss(self, last: int = 1) -> np.ndarray:
        """(R, S) loss averaged over the last `last` minibatches; inf where diverged.

        Raises:
            InputError: `last` is not in 1 .. steps + 1.
        """
        last = whole("last", last, most=self.losses.shape[-1], example=1)
        return self.losses[..., -last:].mean(-1)

    def largest_stable_rate(self) -> np.ndarray:
        """(S,) the edge of stability for each seed, halfway (in log rate) between the last good rate and the next.

        A rate is good if neither it nor a smaller one diverged.

        Raises:
            InputError: the grid does not bracket the edge.
        """
        good = np.cumprod(self.stable, axis=0).sum(0)  # (S,)
        if (good == 0).any() or (good == len(self.rates)).any():
            side, way = ("smallest", "lower") if (good == 0).any() else ("largest", "higher")
            outcome = "diverges" if side == "smallest" else "is stable"
            raise InputError(
                f"the {side} rate, {self.rates[0 if side == 'smallest' else -1]:g}, {outcome}, so the edge is outside "
                f"the grid; expected an edge between two rates; add {way} rates"
            )
        return np.sqrt(self.rates[good - 1] * self.rates[good])

    def optimum(self, last: int = 1) -> float:
        """The rate of lowest `final_loss(last)`, geometric mean over seeds, refined by a parabola in log rate.

        The parabola goes through the best rate and its two neighbours; beside a diverged neighbour, or at the end of
        the grid, the best rate itself is returned.

        Raises:
            InputError: every rate diverged for some seed, or a loss is 0.
        """
        losses = self.final_loss(last)
        if not (losses > 0).all():
            raise InputError(
                "a final loss is 0, so it has no logarithm; expected losses > 0; train for fewer steps"
            )
        curve = np.log(losses).mean(1)  # (R,), inf where any seed diverged
        best = int(np.argmin(curve))
        if not np.isfinite(curve[best]):
            raise InputError("every rate diverged for some seed; expected a stable one; add lower rates")
        x = np.log(self.rates)
        if 0 < best < len(x) - 1 and np.isfinite(curve[best + 1]):
            square, linear, _ = np.polyfit(x[best - 1 : best + 2] - x[best], curve[best - 1 : best + 2], 2)
            if square > 0:
                return float(np.exp(x[best] - linear / (2 * square)))
        return float(self.rates[best])


def minibatches(count: int, batch_size: int, steps: int, seed: int = 0) -> Iterator[Tensor]:
    """Indices of `steps` minibatches, each (batch_size,), from shuffled passes over `count` samples.

    A pass's incomplete last batch is left out. The same arguments give the same batches on every device.

    >>> [len(batch) for batch in minibatches(10, 4, 3)]
    [4, 4, 4]
    """
    count = whole("count", count)
    batch_size, steps = whole("batch_size", batch_size, most=count), whole("steps", steps, least=0)
    generator = torch.Generator().manual_seed(checks.seed(seed))
    per_pass = count // batch_size
    for step in range(steps):
        if step % per_pass == 0:
            order = torch.randperm(count, generator=generator)
        place = step % per_pass * batch_size
        yield order[place : place + batch_size]


def sweep(
    make: Callable[[int], nn.Module | Scaled],
    rates: Sequence[float],
    seeds: Sequence[int],
    x: Tensor,
    y: Tensor,
    *,
    steps: int,
    batch_size: int,
    optimizer: str = "sgd",
    loss: str = "square",
    test: tuple[Tensor, Tensor] | None = None,
    evaluate_every: int | None = None,
    blowup: float = 1e4,
    batch_seed: int = 0,
    members: int | None = None,
    weight_decay: float = 0.0,
    schedule: Callable[[int, int], float] | None = None,
    desc: str = "sweep",
) -> Sweep:
    r"""Train `make(seed)` at every rate for every seed, all on the same minibatches, and say what happened.

        SGD:   w <- w - eta_m s_w g          Adam:   w <- w - eta_m s_w mhat / (sqrt(vhat) + 1e-8)

    with s_w the width factors of `tp4lib.nn.rates`, so that member m is what `torch.optim.SGD` or `Adam` would do with
    `param_groups(model, eta_m, optimizer)` (Yang & Hu 2021, section 3; for Adam, Tensor Programs V, Table 8).

    Args:
        make: seed -> network of `ABCLinear` layers, e.g. `lambda seed: MLP(64, 256, 10, mup(2), seed=seed)`; the
            same network but for its start. Members of one seed start from the same weights. Any other network as
            `tp4lib.scale.scale` returns it: those are trained one after another.
        rates: R learning rates eta. seeds: S different seeds.
        x: (N, d_in) inputs. y: targets, (N, d_out) floats for "square", (N,) class numbers for "cross_entropy".
        steps: number of updates. batch_size: samples per update.
        optimizer: "sgd" or "adam". loss: "square", ||f - y||^2 / 2 averaged over samples, or "cross_entropy".
        test: test inputs and targets, like x and y; accuracy takes the largest output (and the largest target).
        evaluate_every: evaluate the test set every so many updates; only after the last one if None.
        blowup: a member is diverged once its loss is not finite or above `blowup` times its loss at the start. Far
            above the 3 at which single runs stop (`base.divergence`): here divergence is a result, and a member that
            overshoots at the edge of stability, and may yet come back, is given the time to.
        batch_seed: of the minibatches.
        members: how many members to stack at once; None takes what fits and is fast here. The result does not
            depend on it beyond rounding.
        weight_decay, schedule: for networks of `scale` alone: decoupled decay (Adam is AdamW), and (update, steps) ->
            factor on all rates, such as `tp4lib.sweep.any_module.warmup_and_decay`. Their x, y may have any shape whose
            first axis is samples; "cross_entropy" is averaged over all positions.

    Raises:
        InputError: any argument that cannot work, or not enough memory for a single member.
    """
    rates = np.sort(_distinct("rates", rates, lambda name, rate: real(name, rate, above=0, example=0.1)))
    seeds = _distinct("seeds", seeds, lambda name, seed: checks.seed(seed, name))
    batch_seed = checks.seed(batch_seed, "batch_seed")
    model = make(int(seeds[0]))
    alone = isinstance(model, Scaled)
    _check(x, y, test, steps, batch_size, evaluate_every, blowup, optimizer, loss, alone)
    if not alone:
        _check_model(model, x, y, loss)
        if weight_decay or schedule:
            raise InputError(
                "weight_decay and schedule are for networks of tp4lib.scale; expected one of those; leave them out"
            )

    every = evaluate_every or steps
    evaluated_at = (
        [t for t in range(1, steps + 1) if t % every == 0 or t == steps] if test is not None else []
    )
    grid = (len(rates), len(seeds))
    result = Sweep(
        rates,
        seeds,
        losses=np.full((*grid, steps + 1), math.inf),
        diverged_at=np.full(grid, -1),
        evaluated_at=np.array(evaluated_at, dtype=int),
        test_loss=np.full((*grid, len(evaluated_at)), math.inf),
        test_accuracy=np.zeros((*grid, len(evaluated_at))),
    )
    if alone:
        shared = (
            x,
            y,
            steps,
            optimizer,
            loss_named(loss),
            blowup,
            test,
            evaluated_at,
            weight_decay,
            schedule,
        )
        _one_by_one(result, make, Trainer(*shared), batch_size, batch_seed, desc)
        return _without_lost(result)
    # Seed by seed, so that a chunk needs few different starts.
    where = np.array([(r, s) for s in range(len(seeds)) for r in range(len(rates))])
    chunk = _members(model, x.device, optimizer, batch_size, members, len(where))
    with bar(total=steps * len(where), desc=desc, unit="update") as progress:
        for begin in range(0, len(where), chunk):
            part = where[begin : begin + chunk]
            starts = {s: model if s == 0 else make(int(seeds[s])) for s in dict.fromkeys(part[:, 1])}
            running = _Members(starts, part, rates, optimizer, _LOSSES[loss])
            for t, batch in enumerate(minibatches(len(x), batch_size, steps + 1, batch_seed)):
                batch = batch.to(x.device)
                running.update(result, t, x[batch], y[batch], blowup, last=t == steps)
                if not len(running.where):
                    progress.update((steps - t) * len(part))
                    break
                if t + 1 in evaluated_at:
                    running.evaluate(result, evaluated_at.index(t + 1), *test)
                if t < steps:
                    progress.update(len(part))
    return _without_lost(result)


def _one_by_one(
    result: Sweep,
    make: Callable[[int], Scaled],
    trainer: Trainer,
    batch_size: int,
    batch_seed: int,
    desc: str,
) -> None:
    with bar(total=result.diverged_at.size, desc=desc, unit="run") as progress:
        for r, s in np.ndindex(*result.diverged_at.shape):
            batches = minibatches(len(trainer.x), batch_size, trainer.steps + 1, batch_seed)
            losses, diverged_at, tests = trainer.run(
                make(int(result.seeds[s])), float(result.rates[r]), batches
            )
            result.losses[r, s], result.diverged_at[r, s] = losses, diverged_at
            result.test_loss[r, s], result.test_accuracy[r, s] = tests
            progress.update()


def _without_lost(result: Sweep) -> Sweep:
    """The last test, and tests between a blow-up and the minibatch that shows it, are of a member already lost."""
    lost = (result.diverged_at[..., None] >= 0) & (result.evaluated_at >= result.diverged_at[..., None])
    lost |= ~np.isfinite(result.test_loss)
    result.test_loss[lost], result.test_accuracy[lost] = math.inf, 0.0
    return result


class _Members:
    """The members in training: their stack, and where each is in the grid."""

    def __init__(self, starts, where, rates, optimizer, loss) -> None:
        self.where, self.loss = where, loss  # (M, 2) indices of rate and seed
        order = {s: i for i, s in enumerate(starts)}
        pick = [order[s] for s in where[:, 1]]
        self.stack = Stack(list(starts.values()), pick, rates[where[:, 0]], optimizer)
        self.limit: np.ndarray | None = None  # (M,) losses that count as diverged

    def update(self, result: Sweep, t: int, x: Tensor, y: Tensor, blowup: float, last: bool) -> None:
        """Write down the losses after t updates, make the next update unless `last`, and take out who diverged."""
        with torch.set_grad_enabled(not last):
            losses = self.loss(self.stack(x), y)
        if not last:
            self.stack.step(losses)
        values = losses.detach().double().cpu().numpy()
        if self.limit is None:
            self.limit = blowup * values
        good = values <= self.limit  # False for NaN
        r, s = self.where.T
        result.losses[r[good], s[good], t] = values[good]
        if not good.all():
            result.diverged_at[r[~good], s[~good]] = t
            self.where, self.limit = self.where[good], self.limit[good]
            self.stack.keep(good)

    @torch.no_grad()
    def evaluate(self, result: Sweep, place: int, x: Tensor, y: Tensor) -> None:
        """Test loss and accuracy, in pieces of the test set whose activations take no more than the weights may."""
        widest = max(w.shape[1] for w in self.stack.weights())
        rows = max(1, _CPU_STACK // (8 * len(self.where) * widest))
        sums = torch.zeros(2, len(self.where), dtype=torch.float64, device=x.device)
        for x_part, y_part in zip(x.split(rows), y.split(rows), strict=True):
            f = self.stack(x_part)
            labels = y_part.argmax(-1) if y_part.is_floating_point() else y_part
            right = (f.argmax(-1) == labels).double().mean(-1)
            sums += torch.stack([self.loss(f, y_part).double(), right]) * len(x_part)
        r, s = self.where.T
        result.test_loss[r, s, place], result.test_accuracy[r, s, place] = (sums / len(x)).cpu().numpy()


def _square(f: Tensor, y: Tensor) -> Tensor:
    """(M, B, o), (B, o) -> (M,)"""
    return (f - y).square().sum(-1).mean(-1) / 2


def _cross_entropy(f: Tensor, y: Tensor) -> Tensor:
    """(M, B, o), (B,) -> (M,)"""
    return F.cross_entropy(f.movedim(0, -1), y[:, None].expand(-1, len(f)), reduction="none").mean(0)


_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"square": _square, "cross_entropy": _cross_entropy}


# -- arguments --------------------------------------------------------------------------------------------------------


def _members(
    model: nn.Module, device: torch.device, optimizer: str, batch: int, asked: int | None, total: int
) -> int:
    """How many members to stack: what was asked for, or what fits in half the memory and in a CPU's caches."""
    weights = sum(w.numel() * w.element_size() for w in model.parameters())
    hidden = sum(w.shape[0] * w.element_size() for w in model.parameters())
    each = _COPIES[optimizer] * weights + 4 * batch * hidden
    if asked is not None:
        asked = whole("members", asked, example=8)
        require_memory(asked * each, device, f"a stack of {asked} members", "try fewer members at once")
        return asked
    require_memory(each, device, "one member of the sweep", "try a smaller width")
    fits = available_memory(device) // 2 // each
    if device.type == "cpu":
        fits = min(fits, _CPU_STACK // weights)
    return int(min(max(fits, 1), total))


def _distinct(name: str, values: Sequence[float], check: Callable[[str, float], float]) -> np.ndarray:
    listed = hasattr(values, "__iter__") and not isinstance(values, str)
    numbers = [check(f"{name}[{index}]", value) for index, value in enumerate(values)] if listed else []
    if not numbers or len(set(numbers)) < len(numbers):
        raise InputError(f"{name} = {values!r}; expected different numbers, at least one; try {name}=[1, 2]")
    return np.array(numbers)


def _check(x, y, test, steps, batch_size, evaluate_every, blowup, optimizer, loss, alone) -> None:
    if not alone and loss not in _LOSSES:
        raise InputError(f"loss = {loss!r}; expected one of {', '.join(_LOSSES)}; try loss='square'")
    if optimizer not in _COPIES:
        raise InputError(f"optimizer = {optimizer!r}; expected sgd or adam; try optimizer='sgd'")
    whole("steps", steps, example=10)
    whole("batch_size", batch_size, most=len(x))
    if evaluate_every is not None:
        whole("evaluate_every", evaluate_every, example=10)
    real("blowup", blowup, above=1, example=1e4)
    for inputs, targets, what in ((x, y, "x and y"), (*(test or (x, y)), "test")):
        if alone and len(inputs) == len(targets):
            continue
        shaped = targets.dim() == (2 if loss == "square" else 1) and len(inputs) == len(targets)
        kind = targets.is_floating_point() if loss == "square" else targets.dtype == torch.int64
        if not (shaped and kind and inputs.dim() == 2):
            expected = "(N, d_out) float targets" if loss == "square" else "(N,) int64 classes"
            raise InputError(
                f"{what} have shapes {tuple(inputs.shape)} and {tuple(targets.shape)} {targets.dtype}; for "
                f"{loss} expected (N, d_in) inputs with {expected}; see tp4lib.data.images.one_hot"
            )
        if not (inputs.isfinite().all() and targets.isfinite().all()):
            raise InputError(
                f"{what} hold numbers that are not finite; expected finite ones; look at how the data were made"
            )


def _check_model(model: nn.Module, x: Tensor, y: Tensor, loss: str) -> None:
    if next(model.buffers(), None) is not None:
        raise InputError(
            "the network has buffers, which a sweep does not stack; expected weights alone; drop batch norm"
        )
    weight = next(model.parameters())
    if (weight.device, weight.dtype) != (x.device, x.dtype):
        raise InputError(
            f"the network is {weight.dtype} on {weight.device}, x is {x.dtype} on {x.device}; expected the same; "
            "give make() a device= and a dtype="
        )
    with torch.no_grad():
        f = model(x[:1])
    if loss == "square" and f.shape[1:] != y.shape[1:]:
        raise InputError(
            f"the network has {f.shape[-1]} outputs and y has {y.shape[-1]}; expected as many; change d_out"
        )
