"""A causal Transformer trained as a tensor program: at width n an ordinary one in muP, at width infinity its limit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tp4lib.activations import activation_of
from tp4lib.base import checks, progress
from tp4lib.base.errors import InputError
from tp4lib.program.infinite import InfiniteWidth
from tp4lib.program.optimizers import SGD, Adam
from tp4lib.program.training import Task, check_world, gram
from tp4lib.program.vectors import Vector
from tp4lib.program.world import Matrix, World, outer

IGNORED = -100
"""A target that does not count: the one of torch's cross-entropy."""


@dataclass(frozen=True)
class Transformer:
    """The shape of a causal Transformer in muP, all but its width n."""

    vocab: int  # number of tokens
    depth: int = 1  # blocks of attention and MLP
    heads: int = 1  # H, each of dimension n
    branch: float = 1.0  # multiplier of every residual branch
    tied: bool = False  # whether the readout is the token embedding
    activation: str = "tanh"  # of the MLP, see `tp4lib.activations.activation_of`
    # Of the embeddings, sqrt(n) times the matrices, n times the readout.
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        checks.whole("vocab", self.vocab, least=2, example=4)
        checks.whole("depth", self.depth, example=1)
        checks.whole("heads", self.heads, example=1)
        checks.real("branch", self.branch)
        activation_of(self.activation)  # refuses what it does not know
        if len(self.std) != 3:
            raise InputError(f"std = {self.std}; expected those of E, W and U; try std=(1, 1, 1)")
        for value in self.std:
            checks.real("std", value, least=0)


@dataclass(frozen=True)
class TransformerTraining:
    """What a Transformer's training for T steps on S sequences of length K left behind.

    Attributes:
        outputs: (T + 1, S, K, vocab), logits before the first step and after every one.
        losses: (T + 1,), cross-entropy over all targets that count, batches or not.
        attention: (T + 1, depth, heads, S, K, K), attention matrices; row k attends to columns 0 .. k.
        feature_kernels: (T + 1, S K, S K), <x, x'> / n of the last residual stream.
        before, after: the residual stream before and after training, at depth 0 .. depth: stacks of S K vectors.
    """

    outputs: Tensor
    losses: Tensor
    attention: Tensor
    feature_kernels: Tensor
    before: list[Vector]
    after: list[Vector]


def train_transformer(
    world: World,
    tokens: Tensor,
    targets: Tensor,
    shape: Transformer,
    *,
    lr: float = 0.1,
    steps: int = 8,
    optimizer: str | SGD | Adam = "sgd",
    batches: Sequence[Sequence[int]] | None = None,
) -> TransformerTraining:
    r"""Train a causal Transformer in muP, as a tensor program.

        x = E[token] + P[position],   then in every block
        q, k, v = W_q x, W_k x, W_v x,   a = softmax(<q, k> / n),   x' = x + beta sum_heads W_o a v
        z = phi(W_1 x'),   x'' = x' + beta W_2 z;          f = <x, U> / n,   loss: cross-entropy

    (<q, k> / n, not over sqrt(n): training correlates q and k, so that their inner product grows like n.) In
    `FiniteWidth(n)` this is the network of width n, trained by `torch.optim` with the rates of
    `tp4lib.program.optimizers`, to rounding. Sources: Yang & Hu 2021,
    section 7; attention as a program: Yang 2019, Tensor Programs I, appendix A; its limit in muP is also studied by
    Bordelon, Chaudhry & Pehlevan 2024 (arXiv 2405.15712).

    Args:
        world: for more than a few steps one with `derivatives="stein"`. lr, steps, optimizer: as in `train_mlp`.
        tokens, targets: (S, K) whole numbers below `shape.vocab`; -100 where nothing is to be predicted.
        batches: for each step the sequences to train on (default: all); logits are recorded for all of them.

    >>> from tp4lib.program import InfiniteWidth
    >>> tokens = torch.tensor([[0, 1, 0], [1, 0, 1]])
    >>> run = train_transformer(InfiniteWidth(500), tokens, 1 - tokens, Transformer(vocab=2), steps=1)
    >>> run.attention.shape, bool(run.losses[1] < run.losses[0])
    (torch.Size([2, 1, 1, 2, 3, 3]), True)
    """
    task = _task(world, tokens, targets, shape, lr=lr, steps=steps, optimizer=optimizer, batches=batches)
    _require_room(task, shape)
    network = _Network(task, shape, tokens.shape)
    before: list[Vector] = []
    attention, kernels = [], []
    for _ in progress.bar(range(task.steps + 1), desc="Transformer", unit="step"):
        stream = network.forward()
        before = before or stream
        attention.append(network.attention())
        kernels.append(gram(stream[-1]))
        chi = task.record(network.logits(), [])
        if chi is not None:
            network.step(chi)
    outputs = torch.stack(task.outputs).unflatten(1, tokens.shape)
    losses, attention, kernels = map(torch.stack, (task.losses, attention, kernels))
    return TransformerTraining(outputs, losses, attention, kernels, before, stream)


class _Network:
    """Weights, their optimizer rules, and the two passes. A row is one token of one sequence: S K rows in all."""

    def __init__(self, task: Task, shape: Transformer, size: tuple[int, int]) -> None:
        self.task, self.world, self.shape, self.size = task, task.world, shape, size
        many, length = size
        device = task.world.device
        at = torch.arange(length, device=device).repeat(many)
        which = torch.arange(many, device=device).repeat_interleave(length)
        # All sequences are one stack, so that attention is one average of all pairs of rows, of which the mask (rows,
        # rows) leaves those of one sequence that look at an earlier place or their own.
        self.mask = (which[:, None] == which) & (at <= at[:, None])
        std_E, std_W, std_U = task.std
        self.E = self.world.gaussian(std_E, count=task.xi.shape[1])  # tokens, then positions
        self.blocks = [_Block(task, shape, std_W) for _ in range(shape.depth)]
        self.U = None if shape.tied else self.world.gaussian(std_U, count=shape.vocab)
        self.of_E, self.of_U = task.rule(), task.rule()

    def forward(self) -> list[Vector]:
        """The residual stream before the first block and after every one."""
        self.stream = [self.task.xi @ self.E]
        for block in self.blocks:
            self.stream.append(block.forward(self.stream[-1], self.mask))
        return self.stream

    def _readout(self) -> Vector:
        return self.E[: self.shape.vocab] if self.U is None else self.U

    def logits(self) -> Tensor:
        return self.world.mean(self.stream[-1], self._readout())

    def attention(self) -> Tensor:
        """(depth, heads, S, K, K): the diagonal blocks of the attention among all rows."""
        many, _ = self.size
        a = torch.stack([torch.stack([a for *_, a in block.tapes]) for block in self.blocks])
        # The sequence of row k is that of column j; elsewhere a is 0.
        each = torch.arange(many, device=a.device)
        return a.unflatten(-1, self.size).unflatten(-3, self.size)[:, :, each, :, each].movedim(0, 2)

    def step(self, chi: Tensor) -> None:
        """One optimizer step from dLoss/df at the rows of a batch, (rows, vocab)."""
        pick = self.task.pick
        dx = chi @ self._readout()  # n times the gradient, as everywhere below: f has the factor 1 / n
        g_U = chi.T @ pick(self.stream[-1])
        for block, x in zip(reversed(self.blocks), reversed(self.stream[:-1])):
            dx = block.backward(dx, pick(x))
        g_E = pick(self.task.xi).T @ dx
        if self.U is None:
            # Tied: the readout's gradient belongs to the tokens, the first rows of E; eye pads it.
            g_E = g_E + torch.eye(len(g_E), len(g_U), dtype=self.world.dtype, device=self.world.device) @ g_U
        else:
            self.U = self.of_U.step(self.U, g_U)
        self.E = self.of_E.step(self.E, g_E)


class _Block:
    """Attention and MLP with their residuals: the weights, and what the forward pass leaves for the backward one."""

    def __init__(self, task: Task, shape: Transformer, std: float) -> None:
        self.task, self.branch = task, shape.branch
        self.heads = [tuple(f"{letter}{head}" for letter in "qkvo") for head in range(shape.heads)]
        names = [name for head in self.heads for name in head] + ["up", "down"]
        self.W: dict[str, Matrix] = {name: task.world.matrix(std) for name in names}
        self.rules = {name: task.rule() for name in names}

    def forward(self, x: Vector, mask: Tensor) -> Vector:
        W, self.tapes = self.W, []
        mixed = 0.0
        for name_q, name_k, name_v, name_o in self.heads:
            q, k, v = W[name_q] @ x, W[name_k] @ x, W[name_v] @ x
            # <q, k> / n, a number of the limit: softmax acts on numbers, not on coordinates.
            a = self.task.world.mean(q, k).masked_fill(~mask, -math.inf).softmax(-1)
            c = a @ v
            mixed = mixed + W[name_o] @ c
            self.tapes.append((q, k, v, c, a))
        self.middle = x + self.branch * mixed
        self.h = W["up"] @ self.middle
        self.z = self.task.phi(self.h)
        return self.middle + self.branch * (W["down"] @ self.z)

    def backward(self, dx: Vector, x: Vector) -> Vector:
        """dLoss/dx below the block from dx above it, both of the batch's rows; then the weights' step."""
        pick, batch = self.task.pick, self.task.batch
        W, found = self.W, {}
        above = self.branch * dx  # of the branch; dx itself passes along the residual
        # Second half, x'' = x' + beta W_2 phi(W_1 x').
        found["down"] = outer(above, pick(self.z))
        dh = (W["down"].T @ above) * self.task.slope(pick(self.h))
        found["up"] = outer(dh, pick(self.middle))
        dx = dx + W["up"].T @ dh
        # First half, x' = x + beta sum_heads W_o a v.
        above = self.branch * dx
        for (name_q, name_k, name_v, name_o), (q, k, v, c, a) in zip(self.heads, self.tapes):
            q, k, v, c = (pick(part) for part in (q, k, v, c))
            # A batch holds whole sequences, so no row attends to one outside it.
            a = a if batch is None else a[batch][:, batch]
            found[name_o] = outer(above, c)
            dc = W[name_o].T @ above
            da = self.task.world.mean(dc, v)
            # Softmax: ds_kj = a_kj (da_kj - sum_i a_ki da_ki), numbers; a row k attends to columns j.
            ds = a * (da - (a * da).sum(-1, keepdim=True))
            dq, dk, dv = ds @ k, ds.T @ q, a.T @ dc  # n times the gradients: d(<q, k> / n)/dq = k / n
            for name, d in ((name_q, dq), (name_k, dk), (name_v, dv)):
                found[name] = outer(d, x)
                dx = dx + W[name].T @ d
        # Last, as all gradients are those of the weights before the step.
        for name, gradient in found.items():
            W[name] = self.rules[name].step(W[name], gradient)
        return dx


def _task(
    world: World,
    tokens: Tensor,
    targets: Tensor,
    shape: Transformer,
    batches: Sequence[Sequence[int]] | None,
    **options: object,
) -> Task:
    """The arguments, checked, as a task whose inputs are the S K tokens and their positions, one-hot."""
    check_world(world)
    if not isinstance(shape, Transformer):
        raise InputError(f"shape = {shape!r}; expected a Transformer; try Transformer(vocab=4)")
    for name, ids, least in (("tokens", tokens, 0), ("targets", targets, IGNORED)):
        if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.is_floating_point() or ids.numel() == 0:
            kind = tuple(ids.shape) if isinstance(ids, Tensor) else type(ids).__name__
            raise InputError(
                f"{name} is {kind}; expected (S, K) whole numbers; try {name}=torch.tensor([[0, 1]])"
            )
        good = (ids >= 0) & (ids < shape.vocab) | (ids == least)
        if not good.all():
            raise InputError(
                f"{name} hold {int(ids[~good][0])}; expected 0 .. {shape.vocab - 1}"
                f"{' or -100' if least else ''}; try Transformer(vocab={int(ids.max()) + 1})"
            )
    if tokens.shape != targets.shape or not (targets != IGNORED).any():
        raise InputError(
            f"tokens are {tuple(tokens.shape)} and targets {tuple(targets.shape)}, "
            f"{int((targets != IGNORED).sum())} of them to predict; expected as many, and one or more to predict; "
            "try tokens=text[:, :-1], targets=text[:, 1:]"
        )
    tokens, targets = tokens.to(world.device).long(), targets.to(world.device).long()
    (many, length), rows = tokens.shape, batches
    position = torch.arange(length, device=world.device)
    if batches is not None:
        batches = [torch.as_tensor(list(batch), device=world.device) for batch in batches]
        if any(
            len(b) == 0 or b.min() < 0 or b.max() >= many or not (targets[b] != IGNORED).any()
            for b in batches
        ):
            raise InputError(
                f"a batch is not a list of sequences 0 .. {many - 1}, some of whose tokens are to be predicted; "
                "expected one for each step; try batches=None"
            )
        # The tokens of these sequences.
        rows = [(batch[:, None] * length + position).flatten() for batch in batches]
    inputs = torch.cat([F.one_hot(tokens.flatten(), shape.vocab), F.one_hot(position).repeat(many, 1)], 1)
    return Task(
        world=world, xi=inputs.to(world.dtype), y=targets.flatten(), layers=3, loss=F.cross_entropy, batches=rows,
        activation=shape.activation, std=shape.std, **options,
    )  # fmt: skip


def _require_room(task: Task, shape: Transformer) -> None:
    """Refuse before the work begins what would not fit."""
    world, matrices = task.world, shape.depth * (4 * shape.heads + 2)
    if isinstance(world, InfiniteWidth):
        products = 2 * matrices * len(task.y) * (1 + task.steps)  # forward and back
        if world.derivatives == "autograd":
            vectors = 9 * products  # 7 or 8 stay (measured)
        else:
            # Three copies of the noises, in buffers that grow by half, of which there are at most M / 2; and the
            # two vectors of every outer product.
            outers = 2 * matrices * len(task.y) * task.steps
            vectors = min(3 * products, 9 * world.samples // 4) + outers + 25 * len(task.y)
        world.require(vectors, "this training")
    task.optimizer.require(world, matrices)
