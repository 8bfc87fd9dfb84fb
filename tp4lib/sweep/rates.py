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

from collections.abc import Callable, Sequence

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
from tp4lib.sweep.any_module import Trainer
from tp4lib.sweep.options import LOSSES, SweepOptions
from tp4lib.sweep.result import Sweep
from tp4lib.sweep.stack import Stack

_COPIES = {"sgd": 2, "adam": 5}  # of the weights: themselves and scratch; for Adam gradients and averages too
_CPU_STACK = 2**25  # bytes of stacked weights beyond which a CPU gains nothing from more members at once


def sweep(
    make: Callable[[int], nn.Module | Scaled],
    rates: Sequence[float],
    seeds: Sequence[int],
    x: Tensor,
    y: Tensor,
    **options: object,
) -> Sweep:
    r"""Train `make(seed)` at every rate for every seed, all on the same minibatches, and say what happened.

        SGD:   w <- w - eta_m s_w g          Adam:   w <- w - eta_m s_w mhat / (sqrt(vhat) + 1e-8)

    with s_w the width factors of `tp4lib.nn.rates`, so that member m is what `torch.optim.SGD` or `Adam` would do with
    `param_groups(model, eta_m, optimizer)` (Yang & Hu 2021, section 3; for Adam, Tensor Programs V, Table 8).

    Args:
        make: seed -> network of `ABCLinear` layers, e.g. `lambda seed: MLP(64, 256, 10, mup(2), seed=seed)`; the
            same network but for its initialization. Or any network as `tp4lib.scale.scale` returns it: those are
            trained one after another.
        rates: R learning rates eta. seeds: S different seeds.
        x: (N, d_in) inputs. y: targets, (N, d_out) floats for "square", (N,) class numbers for "cross_entropy".
        options: steps and batch_size, and those of `tp4lib.sweep.options.SweepOptions`: optimizer, loss, test,
            evaluate_every, blowup, batch_seed, weight_decay, schedule, desc.
    """
    rates = np.sort(_distinct("rates", rates, lambda name, rate: real(name, rate, above=0, example=0.1)))
    seeds = _distinct("seeds", seeds, lambda name, seed: checks.seed(seed, name))
    options = SweepOptions(**options)
    whole("batch_size", options.batch_size, most=len(x))
    model = make(int(seeds[0]))
    alone = isinstance(model, Scaled)
    _check_data(x, y, options, alone)
    if not alone:
        _check_model(model, x, y, options)
    grid, tests = (len(rates), len(seeds)), len(options.evaluated_at)
    result = Sweep(
        rates,
        seeds,
        losses=np.full((*grid, options.steps + 1), np.inf),
        diverged_at=np.full(grid, -1),
        evaluated_at=np.array(options.evaluated_at, dtype=int),
        test_loss=np.full((*grid, tests), np.inf),
        test_accuracy=np.zeros((*grid, tests)),
    )
    if alone:
        trainer = Trainer(x, y, options)
        for r, s in bar(list(np.ndindex(*grid)), desc=options.desc, unit="run"):
            found = trainer.run(make(int(seeds[s])), float(rates[r]))
            result.losses[r, s], result.diverged_at[r, s] = found[:2]
            result.test_loss[r, s], result.test_accuracy[r, s] = found[2]
    else:
        _stacked(result, make, model, x, y, options)
    # The last test, and tests between a blow-up and the minibatch that shows it, are of a member already lost.
    lost = (result.diverged_at[..., None] >= 0) & (result.evaluated_at >= result.diverged_at[..., None])
    lost |= ~np.isfinite(result.test_loss)
    result.test_loss[lost], result.test_accuracy[lost] = np.inf, 0.0
    return result


def _stacked(
    result: Sweep,
    make: Callable[[int], nn.Module],
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    options: SweepOptions,
) -> None:
    """Train all members, as many at once as fit; `model` is that of the first seed."""
    steps, tested = options.steps, options.evaluated_at
    # Seed by seed, so that a chunk needs few different initializations.
    where = np.array([(r, s) for s in range(len(result.seeds)) for r in range(len(result.rates))])
    chunk = _members_at_once(model, x.device, options, len(where))
    with bar(total=steps * len(where), desc=options.desc, unit="update") as progress:
        for begin in range(0, len(where), chunk):
            part = where[begin : begin + chunk]
            starts = {s: model if s == 0 else make(int(result.seeds[s])) for s in dict.fromkeys(part[:, 1])}
            running = _Members(result, starts, part, options)
            for t, batch in enumerate(options.batches(len(x))):
                batch = batch.to(x.device)
                running.update(t, x[batch], y[batch])
                if not len(running.where):
                    progress.update((steps - t) * len(part))
                    break
                if t + 1 in tested:
                    running.evaluate(tested.index(t + 1), *options.test)
                if t < steps:
                    progress.update(len(part))


class _Members:
    """The members in training: their stack, and where each is in the grid."""

    def __init__(
        self, result: Sweep, starts: dict[int, nn.Module], where: np.ndarray, options: SweepOptions
    ) -> None:
        self.result, self.options, self.loss = result, options, _STACKED_LOSSES[options.loss]
        self.where = where  # (M, 2) indices of rate and seed
        order = {s: i for i, s in enumerate(starts)}
        pick = [order[s] for s in where[:, 1]]
        self.stack = Stack(list(starts.values()), pick, result.rates[where[:, 0]], options.optimizer)
        self.limit: np.ndarray | None = None  # (M,) losses that count as diverged

    def update(self, t: int, x: Tensor, y: Tensor) -> None:
        """Write down the losses after t updates, make the next update if there is one, and take out who diverged."""
        last = t == self.options.steps
        # One pass gives the loss after t updates and the gradient of the next one.
        with torch.set_grad_enabled(not last):
            losses = self.loss(self.stack(x), y)
        if not last:
            self.stack.step(losses)
        values = losses.detach().double().cpu().numpy()
        if self.limit is None:
            self.limit = self.options.blowup * values
        good = values <= self.limit  # False for NaN
        r, s = self.where.T
        self.result.losses[r[good], s[good], t] = values[good]
        if not good.all():
            self.result.diverged_at[r[~good], s[~good]] = t
            self.where, self.limit = self.where[good], self.limit[good]
            self.stack.keep(good)

    @torch.no_grad()
    def evaluate(self, place: int, x: Tensor, y: Tensor) -> None:
        """Test loss and accuracy, in pieces of the test set that stay in a CPU's caches, or fit on a GPU."""
        widest = max(w.shape[1] for w in self.stack.weights())
        room = _CPU_STACK if x.device.type == "cpu" else available_memory(x.device) // 4
        rows = max(1, room // (8 * len(self.where) * widest))
        sums = torch.zeros(2, len(self.where), dtype=torch.float64, device=x.device)
        for x_part, y_part in zip(x.split(rows), y.split(rows), strict=True):
            f = self.stack(x_part)
            labels = y_part.argmax(-1) if y_part.is_floating_point() else y_part
            right = (f.argmax(-1) == labels).double().mean(-1)
            sums += torch.stack([self.loss(f, y_part).double(), right]) * len(x_part)
        r, s = self.where.T
        found = (sums / len(x)).cpu().numpy()
        self.result.test_loss[r, s, place], self.result.test_accuracy[r, s, place] = found


def _square(f: Tensor, y: Tensor) -> Tensor:
    """(M, B, o), (B, o) -> (M,)"""
    return (f - y).square().sum(-1).mean(-1) / 2


def _cross_entropy(f: Tensor, y: Tensor) -> Tensor:
    """(M, B, o), (B,) -> (M,)"""
    return F.cross_entropy(f.movedim(0, -1), y[:, None].expand(-1, len(f)), reduction="none").mean(0)


_STACKED_LOSSES = {"square": _square, "cross_entropy": _cross_entropy}


def _members_at_once(model: nn.Module, device: torch.device, options: SweepOptions, total: int) -> int:
    """How many members to stack: what fits in half the memory and in a CPU's caches."""
    weights = sum(w.numel() * w.element_size() for w in model.parameters())
    hidden = sum(w.shape[0] * w.element_size() for w in model.parameters())  # activations of one sample
    each = _COPIES[options.optimizer] * weights + 4 * options.batch_size * hidden
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


def _check_data(x: Tensor, y: Tensor, options: SweepOptions, alone: bool) -> None:
    loss = options.loss
    if not alone and callable(loss):
        raise InputError(f"loss = {loss!r}; expected one of {', '.join(LOSSES)}; try loss='square'")
    for inputs, targets, what in ((x, y, "x and y"), (*(options.test or (x, y)), "test")):
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


def _check_model(model: nn.Module, x: Tensor, y: Tensor, options: SweepOptions) -> None:
    if options.weight_decay or options.schedule:
        raise InputError(
            "weight_decay and schedule are for networks of tp4lib.scale; expected one of those; leave them out"
        )
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
    if options.loss == "square" and f.shape[1:] != y.shape[1:]:
        raise InputError(
            f"the network has {f.shape[-1]} outputs and y has {y.shape[-1]}; expected as many; change d_out"
        )
