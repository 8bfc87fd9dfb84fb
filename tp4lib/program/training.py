"""What the ready programs share: their options, the loss and its derivative, and what a training leaves behind."""

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


@dataclass(kw_only=True)
class Task:
    """How a network is trained (the keyword arguments of `train_mlp`), checked, and what has been recorded so far.

    Attributes:
        world, xi, y: where the program runs, its P inputs and targets. layers: number of weight layers, L + 1.
        activation: "identity" is a linear network; see `tp4lib.activations.activation_of`.
        lr: eta. steps: T.
        std: sigma_l, one number or one for each layer: w^l is initialized as N(0, (sigma_l n^{-b_l})^2).
        loss: (batch, d_out) outputs and targets -> () tensor.
        optimizer: "sgd", "momentum" (0.9), "adam", or `SGD(..)` or `Adam(..)` of `tp4lib.program.optimizers`. Adam and
            weight decay are for muP, where every layer's entries move at one rate.
        batches: for each step the rows of xi to train on (all of them by default); outputs are recorded on all rows.
    """

    world: World
    xi: Tensor
    y: Tensor
    layers: int
    activation: str = "tanh"
    lr: float = 0.1
    steps: int = 8
    std: float | Sequence[float] = 1.0
    loss: LossFunction = squared_loss
    optimizer: str | SGD | Adam = "sgd"
    batches: Sequence[Sequence[int]] | None = None
    outputs: list[Tensor] = field(default_factory=list, init=False)
    losses: list[Tensor] = field(default_factory=list, init=False)
    h: list[list[Vector]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        _, self.phi, self.slope, _ = activation_of(self.activation)
        self.optimizer = optimizer_of(self.optimizer)
        self.steps = whole("steps", self.steps, least=0, example=8)
        self.lr = real("lr", self.lr, least=0, example=0.1)
        std = list(self.std) if hasattr(self.std, "__iter__") else [self.std] * self.layers
        if len(std) != self.layers:
            raise InputError(
                f"std has {len(std)} numbers; one per layer, {self.layers}, are needed; try std=1.0"
            )
        self.std = [real(f"std[{layer}]", sigma, least=0) for layer, sigma in enumerate(std)]
        if self.batches is not None:
            if len(self.batches) != self.steps or any(len(batch) == 0 for batch in self.batches):
                raise InputError(
                    f"{len(self.batches)} batches for {self.steps} steps; expected a list of rows, not empty, for each "
                    "step; try batches=None"
                )
            self.batches = [torch.as_tensor(batch, device=self.world.device) for batch in self.batches]

    def record(self, f: Tensor, h: list[Vector]) -> Tensor | None:
        """Note f and h^1 .. h^L; dLoss/df at the next step's batch, (batch, d_out), or None after the last step.

        Diverged (`tp4lib.base.divergence`) compares with the loss of the untrained network, or of the output 0.
        """
        self.outputs.append(f)
        self.h.append(h)
        self.losses.append(self.loss(f, self.y).detach())
        step, zero = len(self.outputs) - 1, float(self.loss(torch.zeros_like(f), self.y))
        # Some losses are not made for the output 0.
        untrained = max(float(self.losses[0]), zero) if math.isfinite(zero) else math.inf
        advice = f"try a smaller lr than {self.lr}"
        require_stable(f"step {step} of {self.steps}", float(self.losses[-1]), untrained, advice)
        if step == self.steps:
            return None
        leaf = self.pick(f).detach().clone().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(self.loss(leaf, self.pick(self.y)), leaf)[0]

    @property
    def batch(self) -> Tensor | None:
        """The rows of the next step; None: all of them."""
        return None if self.batches is None else self.batches[len(self.outputs) - 1]

    def pick(self, x: Vector | Tensor) -> Vector | Tensor:
        """The rows of the next step's batch; without batches x itself, not a copy."""
        return x if self.batch is None else x[self.batch]

    def rule(self, lr: float | None = None) -> SGDRule | AdamRule:
        """The optimizer's rule for one weight."""
        return self.optimizer.rule(self.lr if lr is None else lr)

    def require_room(self, layers: int, matrices: int = 0) -> None:
        """Refuse before the work begins what would not fit: so many layers in all passes, Adam's tables of matrices."""
        if isinstance(self.world, InfiniteWidth):
            # 18 to 24 vectors a layer and input stay (measured).
            self.world.require(28 * layers * len(self.xi), "this training")
        self.optimizer.require(self.world, matrices)

    def finish(self, kernel: Tensor | None = None) -> Training:
        """What was recorded."""
        kernels: list[Tensor] = []
        for t, layers in enumerate(self.h):
            same = t > 0 and layers is self.h[t - 1]  # features that stay, in the kernel regime
            kernels.append(kernels[-1] if same else torch.stack([gram(self.phi(h_l)) for h_l in layers]))
        outputs, losses = torch.stack(self.outputs), torch.stack(self.losses)
        return Training(outputs, losses, self.h, torch.stack(kernels), kernel)


def gram(x: Vector) -> Tensor:
    """<x_i, x_j> / n of a stack: (P, P)."""
    return x.world.mean(x, x)


def check_world(world: object) -> None:
    if not isinstance(world, World):
        raise InputError(f"world = {world!r}; expected a world; try InfiniteWidth(samples=10_000)")


def make_task(world: World, xi: Tensor, y: Tensor, layers: int, **options: object) -> Task:
    """The task of a ready program with so many weight layers: data checked, and put where the world is."""
    check_world(world)
    if y.dim() != 2 or len(xi) != len(y) or len(xi) == 0:
        raise InputError(
            f"xi is {tuple(xi.shape)} and y is {tuple(y.shape)}; expected P inputs and (P, d_out) targets; "
            "try y[:, None] for one output"
        )
    for name, data in (("xi", xi), ("y", y)):
        if not data.isfinite().all():
            raise InputError(
                f"{name} holds numbers that are NaN or infinite; expected finite ones; look at {name}"
            )
    xi = xi.detach().to(world.device, world.dtype)
    y = y.detach().to(world.device, world.dtype) if y.is_floating_point() else y.to(world.device)
    return Task(world=world, xi=xi, y=y, layers=layers, **options)
