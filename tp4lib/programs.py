r"""Ready tensor programs: training of perceptrons in every stable abc-parametrization, and of a recurrent network.

They run in `FiniteWidth(n)` and in `InfiniteWidth(samples)` alike. Source: Yang & Hu 2021 (arXiv 2011.14522), sections
6 and 7 and appendix H (limits of abc-parametrizations). A linear network is `train_mlp(.., activation="identity")`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tp4lib.errors import InputError
from tp4lib.nn import ACTIVATIONS
from tp4lib.parametrization import ABC
from tp4lib.program import InfiniteWidth, Matrix, World, outer
from tp4lib.vectors import Vector

Loss = Callable[[Tensor, Tensor], Tensor]

# phi'(h) for each activation of `tp4lib.nn`.
SLOPES: dict[str, Callable[[Vector], Vector]] = {
    "relu": lambda h: 1.0 * (h > 0),
    "tanh": lambda h: 1 - torch.tanh(h) ** 2,
    "gelu": lambda h: (
        0.5 * (1 + torch.erf(h / math.sqrt(2))) + h * torch.exp(-h * h / 2) / math.sqrt(2 * math.pi)
    ),
    "erf": lambda h: 2 / math.sqrt(math.pi) * torch.exp(-h * h),
    "identity": torch.ones_like,
}


def squared_loss(f: Tensor, y: Tensor) -> Tensor:
    """||f - y||^2 / 2, averaged over the batch: (batch, d_out), (batch, d_out) -> ()."""
    return 0.5 * (f - y).square().sum() / len(f)


@dataclass(frozen=True)
class Training:
    """What a program saw while a network of P inputs, d_out outputs and L hidden layers was trained for T steps.

    Attributes:
        outputs: (T + 1, P, d_out), f before the first step and after every one.
        losses: (T + 1,), of all inputs.
        h: T + 1 lists of the hidden preactivations h^1 .. h^L, each a stack of P vectors; their `values` are the
            n coordinates, or the samples of their law.
        feature_kernels: (T + 1, L, P, P), <x^l(xi), x^l(xi')> / n.
        kernel: (P, P), the kernel that training descends in, in the kernel regime; None where features are learned.
    """

    outputs: Tensor
    losses: Tensor
    h: list[list[Vector]]
    feature_kernels: Tensor
    kernel: Tensor | None = None


@dataclass(frozen=True)
class _Task:
    """Everything about a training but the world and the parametrization."""

    xi: Tensor
    y: Tensor
    activation: str
    lr: float
    steps: int
    std: list[float]
    loss: Loss
    momentum: float
    batches: list[Tensor] | None

    def pick(self, x: Vector | Tensor, step: int) -> Vector | Tensor:
        """The rows of this step's batch; without batches x itself, not a copy."""
        return x if self.batches is None else x[self.batches[step]]

    def chi(self, f: Tensor, step: int) -> Tensor:
        """dLoss/df at the inputs of this step's batch, (batch, d_out)."""
        leaf = self.pick(f, step).detach().clone().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(self.loss(leaf, self.pick(self.y, step)), leaf)[0]

    def buffer(self, old: Vector | Matrix | None, gradient: Vector | Matrix) -> Vector | Matrix:
        """torch.optim.SGD's momentum buffer."""
        return gradient if old is None or self.momentum == 0 else self.momentum * old + gradient

    def finish(self, outputs: list[Tensor], h: list[list[Vector]], kernel: Tensor | None = None) -> Training:
        phi, kernels = ACTIVATIONS[self.activation], []
        for t, layers in enumerate(h):
            same = t > 0 and layers is h[t - 1]
            kernels.append(kernels[-1] if same else torch.stack([_gram(phi(h_l)) for h_l in layers]))
        losses = torch.stack([self.loss(f, self.y) for f in outputs]).detach()
        return Training(torch.stack(outputs), losses, h, torch.stack(kernels), kernel)


def train_mlp(
    world: World,
    xi: Tensor,
    y: Tensor,
    parametrization: ABC,
    *,
    activation: str = "tanh",
    lr: float = 0.1,
    steps: int = 8,
    std: float | Sequence[float] = 1.0,
    loss: Loss = squared_loss,
    momentum: float = 0.0,
    batches: Sequence[Sequence[int]] | None = None,
    f0: Tensor | None = None,
) -> Training:
    r"""SGD on an L-hidden-layer perceptron in any stable abc-parametrization, as a tensor program.

    Feature learning (r = 0), with v = n^q W^{L+1}, chi = dLoss/df, dx^L = sum_o chi_o v_o, dh^l = dx^l phi'(h^l),
    dx^{l-1} = W^l^T dh^l and <,> the inner product over coordinates:

        f = <v, x^L> / n,   v -= eta chi x^L,   W^l -= eta dh^l (x^{l-1})^T / n,   W^1 -= eta dh^1 xi^T

    Of these terms a parametrization keeps the ones whose power of n is 0: layer l's update if
    r_l = q + c - 1 + 2 a_l + [l = 1] is 0, v's start in f if s = a_{L+1} + b_{L+1} is 1, its update if
    u = 2 a_{L+1} + c is 1; and whichever of the two is larger, at q = min(s, u), in dx^L. muP keeps all of them.

    Kernel regime (r > 0): features stay as they start, with one Gaussian v in the backward pass, and

        f -= eta K chi,   K = [u = 1] <x^L, x^L'>/n + sum_l [s + r_l = 1] <dh^l, dh^l'>/n <x^{l-1}, x^{l-1}'>/n

    (<xi, xi'> itself for l = 1). f starts as a Gaussian process of covariance std_{L+1}^2 <x^L, x^L'>/n if s = 1/2,
    else at 0. Source: Yang & Hu 2021, section 7 and appendix H; the NTP case is Jacot et al. 2018.

    In `FiniteWidth(n)` muP's program is the width-n network itself, to rounding.

    Args:
        world: `FiniteWidth` or `InfiniteWidth`.
        xi: (P, d_in) inputs. y: (P, d_out) targets for `loss`.
        parametrization: its depth is L, e.g. `mup(2)`.
        activation: "tanh", "relu", "gelu", "erf" or "identity" (a linear network).
        lr: eta. steps: T.
        std: sigma_l, one number or L + 1 of them: w^l starts as N(0, (sigma_l n^{-b_l})^2).
        loss: (batch, d_out) outputs and targets -> () tensor.
        momentum: of torch.optim.SGD: buffer = momentum * buffer + gradient, weight -= lr * buffer.
        batches: for each step the rows of xi to train on (all of them by default); outputs are recorded on all rows.
        f0: (P, d_out), in place of the draw of f at the start in the kernel regime.

    Raises:
        InputError: an unstable parametrization, wrong shapes, names or numbers, or too little memory.

    >>> from tp4lib.parametrization import mup
    >>> xi, y = torch.eye(2, dtype=torch.float64), torch.tensor([[1.0], [-1.0]])
    >>> train_mlp(InfiniteWidth(1000), xi, y, mup(2), steps=3).outputs.shape
    torch.Size([4, 2, 1])
    """
    if not parametrization.is_stable:
        broken = next(c for c in parametrization.stability_conditions if not c.holds)
        raise InputError(
            f"{parametrization} has no limit: {broken.what_breaks}; expected a stable one; "
            f"try mup({parametrization.depth})"
        )
    last = parametrization.depth + 1
    std = [float(std)] * last if isinstance(std, (int, float)) else list(std)
    if len(std) != last:
        raise InputError(f"std has {len(std)} numbers; one per layer, {last}, are needed; try std=1.0")
    task = _task(world, xi, y, activation, lr, steps, std, loss, momentum, batches)
    if xi.dim() != 2:
        raise InputError(f"xi is {tuple(xi.shape)}; expected (P, d_in); try xi[:, None] for numbers")
    s, u, r_layers = _powers(parametrization)
    if min(r_layers) > _CLOSE:
        return _train_kernel(world, task, s, u, r_layers, f0)
    if f0 is not None:
        raise InputError(
            "f0 is given, but features are learned and f starts at 0; it belongs to the kernel regime; drop it"
        )
    return _train_features(world, task, s, u, r_layers)


_CLOSE = 1e-9


def _powers(p: ABC) -> tuple[float, float, list[float]]:
    """s and u, and r_l for l = 1 .. L (see `train_mlp`)."""
    s, u = p.a[-1] + p.b[-1], 2 * p.a[-1] + p.c
    return s, u, [min(s, u) + p.c - 1 + 2 * a + (layer == 0) for layer, a in enumerate(p.a[:-1])]


def _train_features(world: World, task: _Task, s: float, u: float, r_layers: list[float]) -> Training:
    phi, slope, eta, moves = (
        ACTIVATIONS[task.activation],
        SLOPES[task.activation],
        task.lr,
        [r < _CLOSE for r in r_layers],
    )
    depth, xi = len(moves), task.xi
    _require(world, 1 + task.steps, depth, len(xi))
    U = world.gaussian(task.std[0], count=xi.shape[1])  # W^1, a stack of d_in vectors
    W = [None] + [world.matrix(task.std[l]) for l in range(1, depth)]  # noqa: E741 - W[l] leads into layer l + 1
    start = world.gaussian(task.std[-1], count=task.y.shape[1])  # of v, d_out vectors
    change = 0 * start
    m_U, m_v, m_W = None, None, [None] * depth  # momentum buffers
    outputs, hs = [], []
    for step in range(task.steps + 1):
        h = [xi @ U]
        for W_l in W[1:]:
            h.append(W_l @ phi(h[-1]))
        x = [phi(h_l) for h_l in h]
        v = [part for part, power in ((start, s), (change, u)) if power < 1 + _CLOSE]
        outputs.append(world.mean(x[-1], sum(v, 0 * change)))
        hs.append(h)
        if step == task.steps:
            break
        chi, picked = task.chi(outputs[-1], step), [task.pick(x_l, step) for x_l in x]
        dx = chi @ sum(part for part, power in ((start, s), (change, u)) if power < min(s, u) + _CLOSE)
        m_v = task.buffer(m_v, chi.T @ picked[-1])
        change = change - eta * m_v
        for l in reversed(range(depth)):  # noqa: E741
            if not any(moves[: l + 1]):
                break
            dh = dx * slope(task.pick(h[l], step))
            if l > 0:
                dx = W[l].T @ dh
                if moves[l]:
                    m_W[l] = task.buffer(m_W[l], outer(dh, picked[l - 1]))
                    W[l] = W[l] - eta * m_W[l]
            elif moves[0]:
                m_U = task.buffer(m_U, task.pick(xi, step).T @ dh)
                U = U - eta * m_U
    return task.finish(outputs, hs)


def _train_kernel(
    world: World, task: _Task, s: float, u: float, r_layers: list[float], f0: Tensor | None
) -> Training:
    phi, slope, depth = ACTIVATIONS[task.activation], SLOPES[task.activation], len(r_layers)
    many, d_out = len(task.xi), task.y.shape[1]
    _require(world, 1, depth, many)
    W = [None] + [world.matrix(task.std[l]) for l in range(1, depth)]  # noqa: E741
    h = [task.xi @ world.gaussian(task.std[0], count=task.xi.shape[1])]
    for W_l in W[1:]:
        h.append(W_l @ phi(h[-1]))
    x = [phi(h_l) for h_l in h]
    features = [task.xi @ task.xi.T] + [_gram(x_l) for x_l in x]

    kernel = features[-1] if u < 1 + _CLOSE else torch.zeros_like(features[-1])
    dx = torch.ones(many, 1) @ world.gaussian(task.std[-1], count=1)  # the same v for every input
    for l in reversed(range(depth)):  # noqa: E741
        dh = dx * slope(h[l])
        if s + r_layers[l] < 1 + _CLOSE:
            kernel = kernel + _gram(dh) * features[l]
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

    outputs, buffer = [f], None
    for step in range(task.steps):
        buffer = task.buffer(buffer, task.pick(kernel, step).T @ task.chi(f, step))
        f = f - task.lr * buffer
        outputs.append(f)
    return task.finish(outputs, [h] * (task.steps + 1), kernel)


def train_rnn(
    world: World,
    xi: Tensor,
    y: Tensor,
    *,
    activation: str = "tanh",
    lr: float = 0.1,
    steps: int = 4,
    std: Sequence[float] = (1.0, 1.0, 1.0),
    loss: Loss = squared_loss,
    momentum: float = 0.0,
    batches: Sequence[Sequence[int]] | None = None,
) -> Training:
    r"""SGD on a simple recurrent network in muP: one matrix W, reused at every time and trained through time.

        h_k = W x_{k-1} + U xi_k,   x_k = phi(h_k),   x_0 = 0,   f = <v, x_K> / n
        dx_K = chi v,   dh_k = dx_k phi'(h_k),   dx_{k-1} = W^T dh_k
        v -= eta chi x_K,   U -= eta sum_k dh_k xi_k^T,   W -= eta sum_k dh_k x_{k-1}^T / n

    Source: Yang & Hu 2021, section 7 (the recipe covers any architecture; the paper does not run this one).

    Args:
        xi: (P, K, d_in) sequences. y: (P, d_out). std: of U, W and v. The rest as in `train_mlp`.

    Returns:
        `Training`, with the times 1 .. K in the place of layers.

    Raises:
        InputError: wrong shapes, names or numbers, or too little memory.

    >>> xi, y = torch.ones(2, 3, 1, dtype=torch.float64), torch.tensor([[1.0], [-1.0]])
    >>> train_rnn(InfiniteWidth(1000), xi, y, steps=2).feature_kernels.shape
    torch.Size([3, 3, 2, 2])
    """
    if xi.dim() != 3:
        raise InputError(f"xi is {tuple(xi.shape)}; expected (P, K, d_in); try xi[..., None]")
    std = list(std)
    if len(std) != 3:
        raise InputError(f"std has {len(std)} numbers; expected those of U, W and v; try std=(1, 1, 1)")
    task = _task(world, xi, y, activation, lr, steps, std, loss, momentum, batches)
    phi, slope, xi = ACTIVATIONS[activation], SLOPES[activation], task.xi
    times = xi.shape[1]
    _require(world, 1 + steps, times, len(xi))
    U, W, v = (
        world.gaussian(std[0], count=xi.shape[2]),
        world.matrix(std[1]),
        world.gaussian(std[2], count=y.shape[1]),
    )
    m_U = m_v = m_W = None
    outputs, hs = [], []
    for step in range(steps + 1):
        h = [xi[:, 0] @ U]
        for k in range(1, times):
            h.append(W @ phi(h[-1]) + xi[:, k] @ U)
        x = [phi(h_k) for h_k in h]
        outputs.append(world.mean(x[-1], v))
        hs.append(h)
        if step == steps:
            break
        chi, inputs = task.chi(outputs[-1], step), task.pick(xi, step)
        dx, g_U, g_W = chi @ v, 0 * U, Matrix(world, None)
        for k in reversed(range(times)):
            dh = dx * slope(task.pick(h[k], step))
            g_U = g_U + inputs[:, k].T @ dh
            if k > 0:
                g_W = g_W + outer(dh, task.pick(x[k - 1], step))
                dx = W.T @ dh
        m_v = task.buffer(m_v, chi.T @ task.pick(x[-1], step))
        m_U, m_W = task.buffer(m_U, g_U), task.buffer(m_W, g_W)
        v, U, W = v - lr * m_v, U - lr * m_U, W - lr * m_W
    return task.finish(outputs, hs)


def _gram(x: Vector) -> Tensor:
    return x.world.mean(x, x)


def _root(covariance: Tensor) -> Tensor:
    """A square root of a covariance matrix that may be singular (two equal inputs)."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt()


def _require(world: World, steps: int, layers: int, inputs: int) -> None:
    """Refuse before the work begins what would not fit: about 24 vectors a step, layer and input stay (measured)."""
    if isinstance(world, InfiniteWidth):
        world.require(24 * steps * layers * inputs, "this training")


def _task(
    world: World,
    xi: Tensor,
    y: Tensor,
    activation: str,
    lr: float,
    steps: int,
    std: list[float],
    loss: Loss,
    momentum: float,
    batches: Sequence[Sequence[int]] | None,
) -> _Task:
    if not isinstance(world, World):
        raise InputError(f"world = {world!r}; expected a world; try InfiniteWidth(samples=100_000)")
    if activation not in SLOPES:
        raise InputError(f"activation = {activation!r}; known are {', '.join(SLOPES)}; try activation='tanh'")
    if y.dim() != 2 or len(xi) != len(y) or len(xi) == 0:
        raise InputError(
            f"xi is {tuple(xi.shape)} and y is {tuple(y.shape)}; expected P inputs and (P, d_out) targets; "
            "try y[:, None] for one output"
        )
    if steps < 0 or not math.isfinite(lr) or not 0 <= momentum < 1:
        raise InputError(
            f"steps = {steps}, lr = {lr}, momentum = {momentum}; expected steps >= 0, a finite rate, 0 <= momentum < 1"
        )
    if batches is not None and (len(batches) != steps or any(len(batch) == 0 for batch in batches)):
        raise InputError(
            f"{len(batches)} batches for {steps} steps; expected a list of rows, not empty, for each step; "
            "try batches=None"
        )
    return _Task(
        xi=xi.detach().to(world.device, world.dtype),
        y=y.detach().to(world.device, world.dtype) if y.is_floating_point() else y.to(world.device),
        activation=activation, lr=lr, steps=steps, std=std, loss=loss, momentum=momentum,
        batches=None if batches is None else [torch.as_tensor(batch, device=world.device) for batch in batches],
    )  # fmt: skip
