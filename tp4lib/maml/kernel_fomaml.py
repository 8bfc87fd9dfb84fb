"""First-order MAML in the kernel limits: descent on functions, one coefficient per distinct training image."""

from dataclasses import asdict, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from tp4lib.activations import activation_of
from tp4lib.data.few_shot import Batch, Tasks
from tp4lib.data.omniglot import SIZE
from tp4lib.maml.kernel_spaces import FeatureSpace, GramSpace, limit_kernel
from tp4lib.maml.learner import Learner
from tp4lib.maml.models import Hyperparameters

SETTINGS: dict[tuple[str, str], Hyperparameters] = {
    ("gp", "relu"): Hyperparameters(lr=0.01, sigma_in=0.5, sigma_out=0.5, bias_scale=1),
    ("ntk", "relu"): Hyperparameters(lr=0.01, sigma_in=0.5, sigma_out=0.5, bias_scale=1),
    ("gp", "linear"): Hyperparameters(lr=0.01, sigma_in=0.25, sigma_out=1, bias_scale=1),
    ("ntk", "linear"): Hyperparameters(lr=0.01, sigma_in=0.25, sigma_out=0.25, bias_scale=1),
}
"""Best by validation in the sweep of ``benchmarks/maml_kernels.py``."""


def kernel_learner(
    limit: str,
    activation: str,
    tasks: Tasks,
    space: FeatureSpace | GramSpace | None = None,
    **overrides: float,
) -> "KernelFOMAML":
    """A learner in a kernel limit for these training tasks, with the hyperparameters found for it.

    Args:
        limit: "gp" or "ntk".
        space: from another learner with the same kernel and images (``learner.space``): any number of seeds and rates
            can share one Gram table.
        overrides: fields of `Hyperparameters` to change.
    """
    limit_kernel(limit, activation)  # refuses what it does not know
    settings = replace(SETTINGS.get((limit, activation), SETTINGS[limit, "relu"]), **overrides)
    if space is None:
        kernel = limit_kernel(limit, activation, settings.sigma_in, settings.sigma_out, settings.bias_scale)
        if activation_of(activation).name == "identity":
            space = FeatureSpace(kernel, tasks.table.shape[1], tasks.table.device, tasks.dtype)
        else:
            space = GramSpace(tasks.table, kernel, tasks.dtype)
    learner = KernelFOMAML(space, ways=tasks.ways, inner_lr=settings.inner_lr, lr=settings.lr)
    learner.settings = asdict(settings)
    return learner


class KernelFOMAML(Learner):
    """First-order MAML of an infinitely wide network in the GP or NTK limit, in function space.

    In these limits ``f(x) = J(x) . w`` with features J that never change, ``J(x).J(y) = K(x, y)``. A gradient step on w
    of a loss at points x_i moves f by ``-rate * sum_i K(., x_i) chi_i``, with errors ``chi_i = dL/df(x_i)``. So MAML,
    starting from f = 0, reads

        adapt:  f_t = f - eps sum_{i in supports of t} K(., x_i) chi_i         (forgotten after the task)
        learn:  f  <- f - lr s sum_t sum_{i in queries of t} K(., x_i) chi_i    (chi at f_t: first order)

    and the factor s clips the gradient, ``g = sum_i J(x_i) chi_i`` as a vector of weights, whose squared norm in terms
    of functions is ``|g|^2 = sum_ij K(x_i, x_j) chi_i . chi_j = tr(chi^T K chi)``, i and j over all queries.

    Labels are assigned to characters at random, task by task, so the mean of chi over assignments is 0 wherever f
    treats the labels alike: the kernel has nothing to learn from a task that would help on the next.

    Source: Yang & Hu, section 9.2 and appendix D (GP and NTK baselines).

    Args:
        space: of the images that will be trained on (`kernel_learner` makes it). ways: o, the number of outputs.

    Example:
        >>> from tp4lib.data import drawn_characters, omniglot
        >>> tasks = omniglot.Tasks(omniglot.rotations(drawn_characters.draw(classes=8, drawers=4)))
        >>> learner = kernel_learner("gp", "linear", tasks)
        >>> learner.outer_step(tasks.batch(32)).shape, learner.evaluate(tasks.batch(3), inner_steps=20).shape
        (torch.Size([]), torch.Size([3]))
    """

    def __init__(self, space: FeatureSpace | GramSpace, *, ways: int = 5, **rates: float | None) -> None:
        super().__init__(**rates)
        self.space = space
        self.coefficients = space.like.new_zeros((space.size, ways))
        # Random odd factors, one a pixel: an image is known by the sum of its pixels times these, modulo 2^64.
        odd = torch.randint(-(2**62), 2**62, (SIZE * SIZE,), generator=torch.Generator().manual_seed(0)) | 1
        self._hash = odd.to(self.coefficients.device)
        self._forget()

    @torch.no_grad()
    def outer_step(self, batch: Batch) -> Tensor:
        T, both, d = batch.x.shape
        S, o = batch.supports, self.coefficients.shape[1]
        x, index = batch.x.reshape(-1, d), batch.index.reshape(-1)
        f = self.space.values(self.coefficients, x, index).view(T, both, o)  # before adaptation
        # One product for all pairs of images, K[t, i, u, j] = K(x_ti, x_uj): adapting needs t = u, clipping all.
        K = self.space.kernel(x, x).view(T, both, T, both)
        within = K.diagonal(dim1=0, dim2=2).permute(2, 0, 1)  # (T, S + Q, S + Q)
        logits = self._adapt(f, within[:, :, :S], batch.y[:, :S], self.inner_steps)
        loss = F.cross_entropy(logits.reshape(-1, o), batch.y[:, S:].reshape(-1))
        chi = _errors(logits, batch.y[:, S:]).reshape(-1, o)  # at the adapted f: first order
        # Squared norm of sum_i J(x_i) chi_i over all queries i: tr(chi^T K chi). Rounding may take it below 0.
        between = K[:, S:, :, S:].reshape(len(chi), len(chi))
        norm = (chi * (between @ chi)).sum().clamp(min=0).sqrt()
        chi *= -self.lr * self.clip_scale(norm)
        self.space.add_(self.coefficients, batch.x[:, S:].reshape(-1, d), batch.index[:, S:].reshape(-1), chi)
        self._forget()
        return loss

    @torch.no_grad()
    def predict(self, batch: Batch, inner_steps: int = 1) -> Tensor:
        """Query logits of each task after adaptation, at images of any split: ``(T, Q, o)``."""
        T, both, d = batch.x.shape
        S = batch.supports
        f = self._at(batch.x.reshape(-1, d)).view(T, both, -1)
        logits = []
        for tasks in torch.arange(T).split(32):  # the kernel of all pairs grows with the square of the tasks
            x = batch.x[tasks]
            K = self.space.kernel(x.reshape(-1, d), x.reshape(-1, d)).view(len(tasks), both, len(tasks), both)
            within = K.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
            logits.append(self._adapt(f[tasks], within[:, :, :S], batch.y[tasks, :S], inner_steps))
        return torch.cat(logits)

    def _adapt(self, f: Tensor, K: Tensor, y: Tensor, steps: int) -> Tensor:
        """Query logits: ``f`` (T, S + Q, o) before, ``K`` (T, S + Q, S) against the supports, ``y`` (T, S)."""
        S = K.shape[2]
        own = f.new_zeros(f.shape[0], S, f.shape[2])  # f_t = f + sum_i K(., x_i) own_i: what a task adds
        for _ in range(steps):  # errors at the supports, from f_t there
            own = own - self.inner_lr * _errors(torch.baddbmm(f[:, :S], K[:, :S], own), y)
        return torch.baddbmm(f[:, S:], K[:, S:], own)

    def _at(self, x: Tensor) -> Tensor:
        """f before adaptation, computed once for each distinct image until f changes: ``(n, d)`` -> ``(n, o)``."""
        # A product of whole numbers that wraps around is the same in every batch, which no sum of floats would be.
        keys = ((x * 255).round().long() * self._hash).sum(1).tolist()
        fresh = {key: i for i, key in enumerate(keys) if key not in self._known}
        if fresh:
            new = x[torch.tensor(list(fresh.values()), device=x.device)]
            values = self.space.values_elsewhere(self.coefficients, new, list(fresh))
            self._known.update((key, len(self._f) + i) for i, key in enumerate(fresh))
            self._f = torch.cat([self._f, values])
        return self._f[torch.tensor([self._known[key] for key in keys], device=x.device)]

    def _forget(self) -> None:
        """Drop the values of f at evaluation images: f has changed."""
        self._known: dict[int, int] = {}
        self._f = self.coefficients.new_empty((0, self.coefficients.shape[1]))

    def state_dict(self) -> dict[str, Tensor]:
        return {"coefficients": self.coefficients}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.coefficients.copy_(torch.as_tensor(state["coefficients"]))
        self._forget()


def _errors(logits: Tensor, y: Tensor) -> Tensor:
    """chi = d(mean cross-entropy of a task) / d logits: ``(T, m, o), (T, m)`` -> ``(T, m, o)``."""
    return (logits.softmax(-1) - F.one_hot(y, logits.shape[-1])) / logits.shape[1]
