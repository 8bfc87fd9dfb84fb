"""SGD on a perceptron in any stable abc-parametrization, as a tensor program."""

from typing import Any

import torch
from torch import Tensor

from tp4lib.base.errors import InputError
from tp4lib.parametrization import ABC, check_parametrization
from tp4lib.program.optimizers import SGD, Adam
from tp4lib.program.training import Task, Training, gram, make_task
from tp4lib.program.world import World, outer

_CLOSE = 1e-9  # sums of exponents this close are equal


def train_mlp(
    world: World, xi: Tensor, y: Tensor, parametrization: ABC, *, f0: Tensor | None = None, **options: Any
) -> Training:
    r"""SGD on an L-hidden-layer perceptron in any stable abc-parametrization, as a tensor program.

    Feature learning (r = 0), with v = n^q W^{L+1}, chi = dLoss/df, dx^L = sum_o chi_o v_o, dh^l = dx^l phi'(h^l),
    dx^{l-1} = W^l^T dh^l and <,> the inner product over coordinates:

        f = <v, x^L> / n,   v -= eta chi x^L,   W^l -= eta dh^l (x^{l-1})^T / n,   W^1 -= eta dh^1 xi^T

    Of these terms a parametrization keeps the ones whose power of n is 0: layer l's update if
    r_l = q + c - 1 + 2 a_l + [l = 1] is 0, v's initial value in f if s = a_{L+1} + b_{L+1} is 1, its update if
    u = 2 a_{L+1} + c is 1; and whichever of the two is larger, at q = min(s, u), in dx^L. muP keeps all of them.

    Kernel regime (r > 0): features stay as initialized, with one Gaussian v in the backward pass, and

        f -= eta K chi,   K = [u = 1] <x^L, x^L'>/n + sum_l [s + r_l = 1] <dh^l, dh^l'>/n <x^{l-1}, x^{l-1}'>/n

    (<xi, xi'> itself for l = 1). f starts as a Gaussian process of covariance std_{L+1}^2 <x^L, x^L'>/n if s = 1/2,
    else at 0. Source: Yang & Hu 2021, section 7 and appendix H; the NTP case is Jacot et al. 2018.

    In `FiniteWidth(n)` muP's program is the width-n network itself, to rounding.

    Args:
        xi: (P, d_in) inputs. y: (P, d_out) targets. parametrization: its depth is L, e.g. `mup(2)`.
        f0: (P, d_out), in place of the draw of the initial f in the kernel regime.
        options: activation, lr, steps, std, loss, optimizer and batches, see `tp4lib.program.training.Task`.

    >>> from tp4lib.parametrization import mup
    >>> from tp4lib.program import InfiniteWidth
    >>> xi, y = torch.eye(2, dtype=torch.float64), torch.tensor([[1.0], [-1.0]])
    >>> train_mlp(InfiniteWidth(1000), xi, y, mup(2), steps=3).outputs.shape
    torch.Size([4, 2, 1])
    """
    s, u, r_layers = _powers(parametrization)
    task = make_task(world, xi, y, parametrization.depth + 1, **options)
    if xi.dim() != 2:
        raise InputError(f"xi is {tuple(xi.shape)}; expected (P, d_in); try xi[:, None] for numbers")
    if _is_whole(task.optimizer) and max(abs(s - 1), abs(u - 1), *map(abs, r_layers)) > _CLOSE:
        raise InputError(
            f"{task.optimizer} in {parametrization}; Adam and weight decay are programs in muP alone; "
            f"try mup({parametrization.depth}), or optimizer='momentum'"
        )
    if min(r_layers) > _CLOSE:
        return _train_kernel(task, s, u, r_layers, f0)
    if f0 is not None:
        raise InputError(
            "f0 is given, but features are learned and f starts at 0; it belongs to the kernel regime; drop it"
        )
    return _train_features(task, s, u, r_layers)


def _powers(p: ABC) -> tuple[float, float, list[float]]:
    """s and u, and r_l for l = 1 .. L (see `train_mlp`), of a stable parametrization."""
    check_parametrization(p)
    if not p.is_stable:
        broken = next(c for c in p.stability_conditions if not c.holds)
        raise InputError(f"{p} has no limit: {broken.what_breaks}; expected a stable one; try mup({p.depth})")
    s, u = p.a[-1] + p.b[-1], 2 * p.a[-1] + p.c
    return s, u, [min(s, u) + p.c - 1 + 2 * a + (layer == 0) for layer, a in enumerate(p.a[:-1])]


def _is_whole(rules: SGD | Adam) -> bool:
    """Whether a weight's step needs the weight as a whole, not only the gradient."""
    return isinstance(rules, Adam) or rules.weight_decay > 0


def _train_features(task: Task, s: float, u: float, r_layers: list[float]) -> Training:
    world, xi, phi = task.world, task.xi, task.phi
    depth, moves = len(r_layers), [r < _CLOSE for r in r_layers]
    task.require_room((1 + task.steps) * depth, matrices=depth - 1)
    U = world.gaussian(task.std[0], count=xi.shape[1])  # W^1, a stack of d_in vectors
    W = [None] + [world.matrix(task.std[l]) for l in range(1, depth)]  # noqa: E741 - W[l] leads into layer l + 1
    # v in two parts, since f and dx^L may each keep only one of them: its initial value and its updates.
    start = world.gaussian(task.std[-1], count=task.y.shape[1])  # d_out vectors
    change = 0 * start
    if _is_whole(task.optimizer):
        start, change = change, start  # in muP both count alike, so that v may be kept in one
    of_U, of_v, of_W = task.rule(), task.rule(), [task.rule() for _ in range(depth)]
    for _ in range(task.steps + 1):
        h = [xi @ U]
        for W_l in W[1:]:
            h.append(W_l @ phi(h[-1]))
        x = [phi(h_l) for h_l in h]
        v = [part for part, power in ((start, s), (change, u)) if power < 1 + _CLOSE]  # in f: power of n is 0
        chi = task.record(world.mean(x[-1], sum(v) if v else 0 * start), h)
        if chi is None:
            break
        picked = [task.pick(x_l) for x_l in x]
        # In dx^L only the larger part counts, or both if they are alike.
        dx = chi @ sum(part for part, power in ((start, s), (change, u)) if power < min(s, u) + _CLOSE)
        change = of_v.step(change, chi.T @ picked[-1])
        for l in reversed(range(depth)):  # noqa: E741
            if not any(moves[: l + 1]):  # this layer and all below stay as initialized
                break
            dh = dx * task.slope(task.pick(h[l]))
            if l > 0:
                dx = W[l].T @ dh
                if moves[l]:
                    W[l] = of_W[l].step(W[l], outer(dh, picked[l - 1]))
            elif moves[0]:
                U = of_U.step(U, task.pick(xi).T @ dh)
    return task.finish()


def _train_kernel(task: Task, s: float, u: float, r_layers: list[float], f0: Tensor | None) -> Training:
    world, phi, depth = task.world, task.phi, len(r_layers)
    many, d_out = task.y.shape
    task.require_room(depth)
    W = [None] + [world.matrix(task.std[l]) for l in range(1, depth)]  # noqa: E741
    h = [task.xi @ world.gaussian(task.std[0], count=task.xi.shape[1])]
    for W_l in W[1:]:
        h.append(W_l @ phi(h[-1]))
    x = [phi(h_l) for h_l in h]
    features = [task.xi @ task.xi.T] + [gram(x_l) for x_l in x]

    kernel = features[-1] if u < 1 + _CLOSE else torch.zeros_like(features[-1])
    # Features and backward vectors do not move (r > 0), so the kernel is computed once, and f alone is trained.
    dx = torch.ones(many, 1) @ world.gaussian(task.std[-1], count=1)  # the same v for every input
    for l in reversed(range(depth)):  # noqa: E741
        dh = dx * task.slope(h[l])
        if s + r_layers[l] < 1 + _CLOSE:
            kernel = kernel + gram(dh) * features[l]
        if l > 0:
            dx = W[l].T @ dh
    if f0 is None:
        root = _root(features[-1]) if s < 0.5 + _CLOSE else torch.zeros_like(kernel)
        f = task.std[-1] * root @ world.randn(many, d_out)
    elif f0.shape != (many, d_out):
        raise InputError(
            f"f0 is {tuple(f0.shape)}; expected (P, d_out) = {(many, d_out)}; try f0=None for a draw"
        )
    else:
        f = f0.to(kernel)

    of_f = task.rule()
    while (chi := task.record(f, h)) is not None:  # the same h each time
        f = of_f.step(f, task.pick(kernel).T @ chi)
    return task.finish(kernel)


def _root(covariance: Tensor) -> Tensor:
    """A square root of a covariance matrix that may be singular (two equal inputs)."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt()
