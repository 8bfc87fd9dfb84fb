r"""Pi-limits: infinitely wide networks, deep and nonlinear, that learn features.

In the limit of width, training in muP moves every hidden layer in directions that become more and more complicated
functions of the initial Gaussians. The pi-limit projects every gradient onto the span of r fixed Gaussian vectors,
``Omega`` (n, r): all preactivations then stay of the form ``h = Omega g`` with g in R^r, and

    g^1     = U x + b^1                                   U (r, d), an ordinary matrix
    g^{l+1} = sum_i A^l_i K(B^l_i, g^l) + b^{l+1}         K(B, g) = E phi(B.z) phi(g.z),  z ~ N(0, I_r)
    f       = sum_i A^L_i K(B^L_i, g^L) + b^{L+1}         with A^L_i in R^o

A step of SGD on a sample appends ``B = g^l``, ``A = -rate dL/dg^{l+1}`` to every list of rows. The projected backward
pass of the network, ``Omega^T (W^T dh * phi'(h)) / n``, is just the derivative of K in g; so autograd of the forward
pass above is all of backpropagation.

Source: Yang, Santacroce & Hu, *Efficient Computation of Deep, Nonlinear, Infinite-Width Neural Networks that Learn
Features*, ICLR 2022, section 3.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tp4lib.activations import ActivationLike, dual
from tp4lib.base import checks
from tp4lib.base.checks import real, whole
from tp4lib.base.device import require_memory, resolve_optional
from tp4lib.base.divergence import Watch
from tp4lib.base.errors import InputError
from tp4lib.pi_limit.compression import Compression
from tp4lib.pi_limit.finite import Loss, PiNetwork, check_step, default_loss
from tp4lib.pi_limit.layer import Rows


class PiMLP(nn.Module):
    r"""A perceptron of ``depth`` infinitely wide hidden layers in the rank-r pi-limit of muP.

    Args:
        d_in, d_out: d and o. rank: r. depth: L, hidden layers.
        activation: of the hidden layers, see `tp4lib.activations.activation_of`.
        sigma_in: U is initialized with ``E |U x|^2 = sigma_in^2 |x|^2``, its columns orthogonal where r allows it.
        sigma_hidden: a hidden matrix is initialized with r rows, B orthonormal, A Gaussian of variance
            ``sigma_hidden^2 / r`` less their mean over rows. (The paper leaves the mean in. But ``K(B_i, g)`` is nearly
            the same for all i and g at high rank, so that all inputs would look alike to the second layer, and training
            would take long to undo it.) At 4, about ``1 / (E phi')^2`` of ReLU, the map keeps lengths; 1 suits linear
            networks.
        sigma_out: the readout is initialized with o rows, ``A = sigma_out e_i`` and B orthogonal to the inputs' images;
            0: without rows.
        bias_scale: multiplies all biases, which are initialized to 0. 0 leaves them out.
        output_bias: False leaves out the output's.
        multipliers: alpha_1 .. alpha_{L+1}, on the layers' outputs (the rate of layer l is in effect alpha_l^2 times
            larger; divide its sigma by alpha_l to keep the initialization).
        max_rows: bound on the rows per layer, kept by compression; None: they grow without bound.
        storage: dtype of the rows, see `tp4lib.pi_limit.layer.Rows`; dtype: of all else.

    Attributes:
        U: ``(r, d)``. layers: `Rows` of layers 2 .. L + 1. biases: L of ``(r,)``, one ``(o,)``, as far as there are.
        kernel: the dual of the activation.

    Example:
        >>> net = PiMLP(d_in=2, d_out=1, rank=20, depth=2)
        >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [-1.0, 0.0]])
        >>> y = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
        >>> losses = [net.loss_step(x, y, lr=0.2).item() for _ in range(100)]
        >>> losses[-1] < 0.1 * losses[0], len(net.layers[0])
        (True, 420)
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        rank: int,
        depth: int,
        activation: ActivationLike = "relu",
        *,
        sigma_in: float = 1.0,
        sigma_hidden: float = 4.0,
        sigma_out: float = 0.0,
        bias_scale: float = 0.0,
        output_bias: bool = True,
        multipliers: Sequence[float] | None = None,
        max_rows: int | None = None,
        storage: torch.dtype | None = None,
        seed: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        d_in, d_out = self.d_in, self.d_out = whole("d_in", d_in), whole("d_out", d_out, example=1)
        self.rank = rank = whole("rank", rank, example=200)
        self.depth = depth = whole("depth", depth, example=2)
        sigma_in = real("sigma_in", sigma_in, least=0)
        sigma_hidden = real("sigma_hidden", sigma_hidden, least=0)
        sigma_out = real("sigma_out", sigma_out, least=0)
        self.bias_scale = real("bias_scale", bias_scale, least=0)
        alphas = [1.0] * (depth + 1) if multipliers is None else multipliers
        self.multipliers = [real(f"multipliers[{i}]", alpha) for i, alpha in enumerate(alphas)]
        if len(self.multipliers) != depth + 1:
            raise InputError(
                f"{len(self.multipliers)} multipliers; expected one for each of {depth + 1} layers; "
                f"try multipliers={[1.0] * (depth + 1)}"
            )
        self.kernel = dual(activation)
        generator = torch.Generator().manual_seed(checks.seed(seed))
        dtype = checks.floating("dtype", dtype) or torch.get_default_dtype()
        device = resolve_optional(device)
        require_memory(  # in float64, while it is drawn
            32 * rank * (d_in + d_out + (depth - 1) * rank),
            torch.device("cpu"),
            f"a pi-limit of rank {rank} and depth {depth}",
            "try a smaller rank or depth",
        )
        # Orthogonal columns: the images of the inputs' coordinates, and the readout's own directions.
        frame = _frame(rank, d_in + (d_out if sigma_out else 0), generator)
        self.U = nn.Parameter((sigma_in * frame[:, :d_in]).to(device, dtype))
        self.layers = nn.ModuleList(
            Rows(self.kernel, rank, columns, max_rows=max_rows, dtype=dtype, device=device, storage=storage)
            for columns in [rank] * (depth - 1) + [d_out]
        )
        sizes = ([rank] * depth + [d_out] * output_bias) if self.bias_scale else []
        self.biases = nn.ParameterList(torch.zeros(size, device=device, dtype=dtype) for size in sizes)
        for layer in self.layers[:-1]:
            A = torch.randn(rank, rank, generator=generator, dtype=torch.float64)
            A = A * (sigma_hidden / math.sqrt(rank))
            layer.append(_frame(rank, rank, generator).to(self.U), (A - A.mean(0)).to(self.U))
        if sigma_out:
            self.layers[-1].append(frame[:, d_in:].T.to(self.U), sigma_out * torch.eye(d_out).to(self.U))
        self._watch = Watch()

    def preactivations(self, x: Tensor) -> list[Tensor]:
        """g^1, .., g^L, each ``(b, r)``, and f ``(b, o)``, at inputs x ``(b, d)``."""
        g = [self._shift(0, self.multipliers[0] * (x @ self.U.T))]
        for index, layer in enumerate(self.layers, start=1):
            g.append(self._shift(index, self.multipliers[index] * layer(g[-1])))
        return g

    def forward(self, x: Tensor) -> Tensor:
        """f: ``(b, d) -> (b, o)``."""
        return self.preactivations(x)[-1]

    def _shift(self, index: int, g: Tensor) -> Tensor:
        return g + self.bias_scale * self.biases[index] if index < len(self.biases) else g

    def loss_step(
        self,
        x: Tensor,
        y: Tensor,
        lr: float,
        *,
        loss: Loss | None = None,
        clip: float | None = None,
        weight_decay: float = 0.0,
    ) -> Tensor:
        r"""One step of SGD on a minibatch; returns the loss before it.

        Args:
            x: ``(b, d)``. y: ``(b,)`` integers for the cross-entropy, or ``(b, o)`` targets for half the mean square
                distance ``|f - y|^2 / 2``; loss: of ``(f, y)``, a scalar, in the place of these two.
            clip: scale the gradient down to this norm. The norm is that of the infinitely wide network,
                ``|dU|^2 + |db|^2 + sum_l sum_ij (A_i.A_j) K(B_i, B_j)`` over the rows (A_i, B_i) of the gradient.
            weight_decay: all weights (not biases) are multiplied by ``1 - lr * weight_decay`` first.

        Where training has diverged (`tp4lib.base.divergence.Watch`), or something that the step would change is not
        finite, the network is as it was before the step.
        """
        lr, clip, weight_decay = check_step(lr, clip, weight_decay)
        loss = loss or default_loss(y)
        f, value, gradients, A, B = self._gradients(x, y, loss)  # A = dL/dg^{l+1}, B = g^l, of every layer
        self._watch(value, loss(torch.zeros_like(f), y), len(x), f"try a smaller lr than {lr}")
        with torch.no_grad():
            step = -lr
            if clip is not None:
                norm = self.norm(gradients, A, B)
                step = step * (clip / (norm + 1e-12)).clamp(max=1.0)
            decay = 1 - lr * weight_decay
            U = self.U * decay + step * gradients[0]
            biases = [bias + step * gradient for bias, gradient in zip(self.biases, gradients[1:])]
            A = [step * rows for rows in A]
            # Everything is checked before anything changes: a step that overflows is not made.
            names = ["U", *["a bias"] * len(biases), *["a new row"] * len(A + B)]
            for what, new in zip(names, [U, *biases, *A, *B]):
                if not new.isfinite().all():
                    raise InputError(
                        f"{what} is no longer finite; expected finite numbers; try a smaller lr than {lr}"
                    )
            self.U.copy_(U)
            for bias, moved in zip(self.biases, biases):
                bias.copy_(moved)
            for layer, rows_A, rows_B in zip(self.layers, A, B):
                if weight_decay:
                    layer.decay(decay)
                layer.append(rows_B, rows_A)
        return value

    def _gradients(
        self, x: Tensor, y: Tensor, loss: Loss
    ) -> tuple[Tensor, Tensor, Sequence[Tensor], list[Tensor], list[Tensor]]:
        """f, the loss, its gradients by U and the biases, and the rows A, B of its gradients by the layers."""
        with torch.enable_grad():
            g = self.preactivations(x)
            value = loss(g[-1], y)
            parameters = [self.U, *self.biases]
            found = torch.autograd.grad(value, [*parameters, *g[1:]])
        A = [alpha * part for alpha, part in zip(self.multipliers[1:], found[len(parameters) :])]
        return g[-1].detach(), value.detach(), found[: len(parameters)], A, [part.detach() for part in g[:-1]]

    @torch.no_grad()
    def norm(self, gradients: Sequence[Tensor], A: Sequence[Tensor], B: Sequence[Tensor]) -> Tensor:
        """Of a gradient of the infinitely wide network: by U and biases, and rows of layers; see `loss_step`."""
        squares = [part.square().sum() for part in gradients]
        squares += [(a * (self.kernel(b, b) @ a)).sum().clamp(min=0) for a, b in zip(A, B)]
        return torch.stack(squares).sum().sqrt()

    def compress(self, budget: int) -> list[Compression]:
        """Refit every layer to at most ``budget`` rows; reports the errors, see `tp4lib.pi_limit.compression`."""
        return [layer.compress(budget) for layer in self.layers]

    @property
    def nbytes(self) -> int:
        """Of all weights in use."""
        return sum(layer.nbytes for layer in self.layers) + sum(p.nbytes for p in self.parameters())

    @torch.no_grad()
    def sample(self, width: int, seed: int = 0) -> PiNetwork:
        r"""Draw a width-n network of this limit, in its present state.

        With Gaussian Omega (n, r) and the limit's rows (A, B) of each layer,

            W^1 = Omega U,      W = Omega A^T phi(B Omega^T) / n,      V = A^T phi(B Omega^T),      biases Omega b

        Example:
            >>> PiMLP(d_in=3, d_out=2, rank=4, depth=2).sample(width=50)(torch.ones(5, 3)).shape
            torch.Size([5, 2])
        """
        width = whole("width", width, least=self.rank, example=4 * self.rank)
        seed, rows = checks.seed(seed), sum(len(layer) for layer in self.layers)
        needed = self.U.itemsize * width * (width * (self.depth - 1) + 2 * self.d_in + self.rank + rows)
        require_memory(3 * needed, self.U.device, f"a pi-network of width {width}", "choose a smaller width")
        generator = torch.Generator().manual_seed(seed)
        exact = torch.randn(width, self.rank, generator=generator, dtype=torch.float64)
        omega = exact.to(self.U)
        weights = [omega @ self.U]
        for layer in self.layers:
            features = self.kernel.phi(omega @ layer.B.T)  # (n, rows)
            weights.append((features @ layer.A).T)  # (r or o, n)
        weights[1:-1] = [omega @ weight / width for weight in weights[1:-1]]
        biases = [omega @ b for b in self.biases[: self.depth]] + [
            b.clone() for b in self.biases[self.depth :]
        ]
        return PiNetwork(exact, weights, biases, self.kernel.phi, self.multipliers, self.bias_scale)

    def extra_repr(self) -> str:
        return f"d_in={self.d_in}, d_out={self.d_out}, rank={self.rank}, depth={self.depth}"


def _frame(rank: int, columns: int, generator: torch.Generator) -> Tensor:
    """``(rank, columns)``, uniformly random: orthonormal columns if there is room, else the nearest thing to it."""
    tall = torch.randn(max(rank, columns), min(rank, columns), generator=generator, dtype=torch.float64)
    Q, R = torch.linalg.qr(tall)
    Q = Q * R.diagonal().sign()
    return Q if rank >= columns else Q.T * math.sqrt(columns / rank)
