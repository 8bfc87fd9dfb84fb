"""What the ready programs share: their options, the task, its loss derivative, and what a training leaves behind."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tp4lib.activations import activation_of
from tp4lib.base.checks import real, whole
from tp4lib.base.divergence import require_stable
from tp4lib.base.errors import InputError
from tp4lib.program.infinite import InfiniteWidth
from tp4lib.program.optimizers import SGD, Adam, AdamRule, SGDRule, optimizer_of
from tp4lib.program.vectors import Vector
from tp4lib.program.world import World

LossFunction = Callable[[Tensor, Tensor], Tensor]


def squared_loss(f: Tensor, y: Tensor) -> Tensor:
    """||f - y||^2 / 2, averaged over the batch: (batch, d_out), (batch, d_out) -> ()."""
    return 0.5 * (f - y).square().sum() / len(f)


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How a network is trained: the keyword arguments of `train_mlp` and `train_rnn`.

    Attributes:
        activation: "identity" is a linear network; see `tp4lib.activations.activation_of`.
        lr: eta. steps: T.
        std: sigma_l, one number or one for each layer: w^l is initialized as N(0, (sigma_l n^{-b_l})^2).
        loss: (batch, d_out) outputs and targets -> () tensor.
        optimizer: "sgd", "momentum", "adam", "adamw", or `SGD(..)` or `Adam(..)` of `tp4lib.program.optimizers`.
        momentum: of torch.optim.SGD: buffer = momentum * buffer + gradient, weight -= lr * buffer.
        weight_decay: lambda; Adam and weight decay are for muP, where every layer's entries move at one rate.
        batches: for each step the rows of xi to train on (all of them by default); outputs are recorded on all rows.
    """

    activation: str = "tanh"
    lr: float = 0.1
    steps: int = 8
    std: float | Sequence[float] = 1.0
    loss: LossFunction = squared_loss
    optimizer: str | SGD | Adam = "sgd"
    momentum: float = 0.0
    weight_decay: float = 0.0
    batches: Sequence[Sequence[int]] | None = None


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


@dataclass(frozen=True, kw_only=True)
class Task(TrainingOptions):
    """Everything about a training but the world and the parametrization, and what it has recorded so far."""

    xi: Tensor
    y: Tensor
    outputs: list[Tensor] = field(default_factory=list)
    h: list[list[Vector]] = field(default_factory=list)

    def record(self, f: Tensor, h: list[Vector]) -> Tensor | None:
        """Note f and h^1 .. h^L; dLoss/df at the next step's batch, (batch, d_out), or None after the last step.

        Diverged (`tp4lib.base.divergence`) compares with the loss of the untrained network, or of the output 0.
        """
        self.outputs.append(f)
        self.h.append(h)
        step = len(self.outputs) - 1
        loss, first, zero = (float(self.loss(g, self.y)) for g in (f, self.outputs[0], torch.zeros_like(f)))
        # Some losses are not made for the output 0.
        untrained = max(first, zero) if math.isfinite(zero) else math.inf
        require_stable(f"step {step} of {self.steps}", loss, untrained, f"try a smaller lr than {self.lr}")
        if step == self.steps:
            return None
        leaf = self.pick(f).detach().clone().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(self.loss(leaf, self.pick(self.y)), leaf)[0]

    def pick(self, x: Vector | Tensor) -> Vector | Tensor:
        """The rows of the next step's batch; without batches x itself, not a copy."""
        return x if self.batches is None else x[self.batches[len(self.outputs) - 1]]

    def rule(self, lr: float | None = None) -> SGDRule | AdamRule:
        """The optimizer's rule for one weight."""
        return self.optimizer.rule(self.lr if lr is None else lr)

    def finish(self, kernel: Tensor | None = None) -> Training:
        """What was recorded."""
        phi, kernels = activation_of(self.activation).phi, []
        for t, layers in enumerate(self.h):
            same = t > 0 and layers is self.h[t - 1]
            kernels.append(kernels[-1] if same else torch.stack([gram(phi(h_l)) for h_l in layers]))
        losses = torch.stack([self.loss(f, self.y) for f in self.outputs]).detach()
        return Training(torch.stack(self.outputs), losses, self.h, torch.stack(kernels), kernel)


def gram(x: Vector) -> Tensor:
    """<x_i, x_j> / n of a stack: (P, P)."""
    return x.world.mean(x, x)


def require_room(world: World, steps: int, layers: int, inputs: int) -> None:
    """Refuse before the work begins what would not fit: 18 to 24 vectors a step, layer and input stay (measured)."""
    if isinstance(world, InfiniteWidth):
        world.require(28 * steps * layers * inputs, "this training")


def check_world(world: object) -> None:
    if not isinstance(world, World):
        raise InputError(f"world = {world!r}; expected a world; try InfiniteWidth(samples=10_000)")


def make_task(world: World, xi: Tensor, y: Tensor, layers: int, **given: object) -> Task:
    """Check the arguments of a ready program with so many weight layers, and put the numbers where the world is."""
    options = TrainingOptions(**given)
    std = list(options.std) if hasattr(options.std, "__iter__") else [options.std] * layers
    if len(std) != layers:
        raise InputError(f"std has {len(std)} numbers; one per layer, {layers}, are needed; try std=1.0")
    optimizer = optimizer_of(options.optimizer, options.momentum, options.weight_decay)
    check_world(world)
    activation_of(options.activation)  # refuses what it does not know
    if y.dim() != 2 or len(xi) != len(y) or len(xi) == 0:
        raise InputError(
            f"xi is {tuple(xi.shape)} and y is {tuple(y.shape)}; expected P inputs and (P, d_out) targets; "
            "try y[:, None] for one output"
        )
    steps = whole("steps", options.steps, least=0, example=8)
    lr = real("lr", options.lr, least=0, example=0.1)
    std = [real(f"std[{layer}]", sigma, least=0) for layer, sigma in enumerate(std)]
    for name, data in (("xi", xi), ("y", y)):
        if not data.isfinite().all():
            raise InputError(
                f"{name} holds numbers that are NaN or infinite; expected finite ones; look at {name}"
            )
    batches = options.batches
    if batches is not None:
        if len(batches) != steps or any(len(batch) == 0 for batch in batches):
            raise InputError(
                f"{len(batches)} batches for {steps} steps; expected a list of rows, not empty, for each step; "
                "try batches=None"
            )
        batches = [torch.as_tensor(batch, device=world.device) for batch in batches]
    xi = xi.detach().to(world.device, world.dtype)
    y = y.detach().to(world.device, world.dtype) if y.is_floating_point() else y.to(world.device)
    checked = dict(lr=lr, steps=steps, std=std, optimizer=optimizer, batches=batches)
    return Task(**vars(options) | checked, xi=xi, y=y)
