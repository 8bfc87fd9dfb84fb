"""What the ready programs share: the task, its loss derivative and momentum, and what a training leaves behind."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tp4lib.activations import activation_of
from tp4lib.base.checks import real, whole
from tp4lib.base.divergence import require_stable
from tp4lib.base.errors import InputError
from tp4lib.program.infinite import InfiniteWidth
from tp4lib.program.optimizers import SGD, Adam, AdamRule, SGDRule
from tp4lib.program.vectors import Vector
from tp4lib.program.world import World

Loss = Callable[[Tensor, Tensor], Tensor]


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
class Task:
    """Everything about a training but the world and the parametrization."""

    xi: Tensor
    y: Tensor
    activation: str
    lr: float
    steps: int
    std: list[float]
    loss: Loss
    optimizer: SGD | Adam
    batches: list[Tensor] | None

    def pick(self, x: Vector | Tensor, step: int) -> Vector | Tensor:
        """The rows of this step's batch; without batches x itself, not a copy."""
        return x if self.batches is None else x[self.batches[step]]

    def chi(self, f: Tensor, step: int) -> Tensor:
        """dLoss/df at the inputs of this step's batch, (batch, d_out)."""
        leaf = self.pick(f, step).detach().clone().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(self.loss(leaf, self.pick(self.y, step)), leaf)[0]

    def rule(self) -> SGDRule | AdamRule:
        """The optimizer's rule for one weight."""
        return self.optimizer.rule(self.lr)

    def check(self, outputs: list[Tensor]) -> None:
        """Look at f after the last step so far, beside f of the untrained network and beside the output 0.

        Raises:
            Diverged: f is not finite, or its loss is above `tp4lib.base.divergence.FACTOR` times the untrained one.
        """
        step, f = len(outputs) - 1, outputs[-1]
        loss, first, zero = (float(self.loss(g, self.y)) for g in (f, outputs[0], torch.zeros_like(f)))
        untrained = (
            max(first, zero) if math.isfinite(zero) else math.inf
        )  # some losses are not made for the output 0
        require_stable(f"step {step} of {self.steps}", loss, untrained, f"try a smaller lr than {self.lr}")

    def finish(self, outputs: list[Tensor], h: list[list[Vector]], kernel: Tensor | None = None) -> Training:
        phi, kernels = activation_of(self.activation).phi, []
        for t, layers in enumerate(h):
            same = t > 0 and layers is h[t - 1]
            kernels.append(kernels[-1] if same else torch.stack([gram(phi(h_l)) for h_l in layers]))
        losses = torch.stack([self.loss(f, self.y) for f in outputs]).detach()
        return Training(torch.stack(outputs), losses, h, torch.stack(kernels), kernel)


def gram(x: Vector) -> Tensor:
    """<x_i, x_j> / n of a stack: (P, P)."""
    return x.world.mean(x, x)


def require(world: World, steps: int, layers: int, inputs: int) -> None:
    """Refuse before the work begins what would not fit: 18 to 24 vectors a step, layer and input stay (measured)."""
    if isinstance(world, InfiniteWidth):
        world.require(28 * steps * layers * inputs, "this training")


def make_task(
    world: World,
    xi: Tensor,
    y: Tensor,
    activation: str,
    lr: float,
    steps: int,
    std: list[float],
    loss: Loss,
    optimizer: SGD | Adam,
    batches: Sequence[Sequence[int]] | None,
) -> Task:
    """Check the arguments that the ready programs share, and put the numbers where the world is."""
    if not isinstance(world, World):
        raise InputError(f"world = {world!r}; expected a world; try InfiniteWidth(samples=100_000)")
    activation_of(activation)  # refuses what it does not know
    if y.dim() != 2 or len(xi) != len(y) or len(xi) == 0:
        raise InputError(
            f"xi is {tuple(xi.shape)} and y is {tuple(y.shape)}; expected P inputs and (P, d_out) targets; "
            "try y[:, None] for one output"
        )
    steps, lr = whole("steps", steps, least=0, example=8), real("lr", lr, least=0, example=0.1)
    std = [real(f"std[{layer}]", sigma, least=0) for layer, sigma in enumerate(std)]
    for name, data in (("xi", xi), ("y", y)):
        if not data.isfinite().all():
            raise InputError(
                f"{name} holds numbers that are NaN or infinite; expected finite ones; look at {name}"
            )
    if batches is not None and (len(batches) != steps or any(len(batch) == 0 for batch in batches)):
        raise InputError(
            f"{len(batches)} batches for {steps} steps; expected a list of rows, not empty, for each step; "
            "try batches=None"
        )
    return Task(
        xi=xi.detach().to(world.device, world.dtype),
        y=y.detach().to(world.device, world.dtype) if y.is_floating_point() else y.to(world.device),
        activation=activation, lr=lr, steps=steps, std=std, loss=loss, optimizer=optimizer,
        batches=None if batches is None else [torch.as_tensor(batch, device=world.device) for batch in batches],
    )  # fmt: skip
