"""The world of width infinity: vectors are random variables, held as joint samples (the Master Theorem, executed)."""

from __future__ import annotations

import torch
from torch import Tensor

from tp4lib.base.checks import whole
from tp4lib.base.device import require_memory
from tp4lib.base.errors import InputError
from tp4lib.program.conditioned import ConditionedMatrix, Rows
from tp4lib.program.vectors import Vector
from tp4lib.program.world import Part, World

_SOBOL = 32  # noises that come from one Sobol sequence; more dimensions measured no better


class InfiniteWidth(World):
    r"""The world of width infinity: a vector x is the random variable Z^x, held as M joint samples.

        Z^{Wx}    = Zhat^{Wx} + Zdot^{Wx}
        Zhat^{Wx}   Gaussian, Cov(Zhat^{Wx}, Zhat^{Wy}) = std^2 E Z^x Z^y, independent of everything else, W^T's too
        Zdot^{Wx} = std^2 sum_k Z^{y_k} E[ dZ^x / dZhat^{W^T y_k} ]      over the earlier products W^T y_k

    Source: Yang & Hu 2021, section 7 (Definition of Z and the Master Theorem); the derivative of a function that is
    not smooth is the one for which Stein's lemma holds (Yang 2020, Tensor Programs II and III).

    How. The samples of the vectors that W was applied to get an orthonormal basis (Gram-Schmidt in sample space, which
    grows by one for each vector that is not a combination of earlier ones); each member of the basis owns one fresh
    noise, and Zhat has the vector's coordinates along these noises. Derivatives are autograd's, through the
    coordinatewise functions, with every Zhat a variable of its own and every number from `mean` a constant. Where a
    function that jumps took part (`Vector.jumps`) the derivative holds a delta that autograd does not see, and it is
    found from Stein's lemma, E[Zhat_j Z^x] = sum_k Cov(Zhat_j, Zhat_k) E[dZ^x / dZhat_k], instead.

    The first 32 noises are scrambled Sobol points (quasi-Monte-Carlo), later ones the quantiles of N(0, 1) in random
    order (a Latin hypercube), all made exactly orthonormal to each other and to 1 in the M samples. So what is
    linear is exact to rounding; a smooth average over few noises has an error far below 1 / sqrt(M), and nothing has
    more than about 1 / sqrt(M), as has a network of width M.

    Args:
        samples: M. Memory is about 8 M bytes for each of the program's vectors (they all stay, for the derivatives).
        seed: of every draw. dtype: torch.float64 or torch.float32. device: "cpu", "cuda", "auto".
        derivatives: "autograd", as above; "stein", by Stein's lemma everywhere, many times faster and as good for long
            programs (`tp4lib.program.conditioned`); "none" leaves Zdot out, to see what goes wrong without it.

    Raises:
        InputError: fewer than 16 samples, an unknown dtype or device; later, when the noises or memory run out.

    >>> world = InfiniteWidth(10_000)
    >>> W, x = world.matrix(), world.gaussian()
    >>> f"{world.mean(torch.relu(W @ x) ** 2):.2f}"
    '0.50'
    """

    def __init__(
        self,
        samples: int,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
        derivatives: str = "autograd",
    ) -> None:
        if derivatives not in ("autograd", "stein", "none"):
            raise InputError(
                f"derivatives = {derivatives!r}; expected autograd, stein or none; try derivatives='stein'"
            )
        self.samples, self.derivatives = whole("samples", samples, least=16, example=100_000), derivatives
        super().__init__(self.samples, seed, dtype, device)
        self.require(3 * _SOBOL, "the first noises")
        sobol = torch.quasirandom.SobolEngine(_SOBOL, scramble=True, seed=seed)
        self._sobol = list(sobol.draw(self.samples, dtype=torch.float64).T)  # uniforms, multiples of 2^-30
        middle = (torch.arange(self.samples, dtype=torch.float64) + 0.5) / self.samples
        self._quantiles = torch.special.ndtri(middle)
        self._noises = Rows(self)
        self._noises.append(self._ones())

    def __repr__(self) -> str:
        return f"InfiniteWidth({self.samples} samples)"

    @property
    def noises(self) -> int:
        """How many independent noises the program has drawn; the samples have to be at least twice as many."""
        return self._noises.count - 1

    def require(self, vectors: int, what: str) -> None:
        """Raise InputError if there is no memory for that many more vectors."""
        size = vectors * self.samples * self.dtype.itemsize
        require_memory(
            size, self.device, f"{what} of {self!r}", "choose fewer samples or dtype=torch.float32"
        )

    def _draw(self) -> Tensor:
        """A (samples,) draw of N(0, 1), spread evenly, not yet orthogonal to those before."""
        if 2 * self._noises.count >= self.samples:
            raise InputError(
                f"{self._noises.count} noises in {self.samples} samples; expected far fewer noises than samples; "
                f"try samples={100 * self.samples}"
            )
        if self._sobol:
            noise = torch.special.ndtri(self._sobol.pop(0).clamp(min=2.0**-31))
        else:
            noise = self._quantiles[torch.randperm(self.samples, generator=self._generator)]
        return noise.to(self.device, self.dtype)

    def _noise(self) -> Tensor:
        noise = self._draw()
        noise = noise - self._noises.coefficients(noise) @ self._noises.rows
        noise = noise / noise.square().mean().sqrt()
        self._noises.append(noise)
        return noise

    def _matrix(self, std: float) -> Part:
        if self.derivatives == "autograd":
            return _InfiniteMatrix(self, std)
        return ConditionedMatrix(self, std)


class _Products:
    """What W (or W^T) was applied to: the vectors y_k, their Zhats, and both in an orthonormal basis.

    y_k = sum_i L_ki u_i and Zhat_k = std sum_i L_ki e_i, with one noise e_i for each member u_i of the basis.
    """

    def __init__(self, world: InfiniteWidth) -> None:
        self.basis, self.noises = Rows(world), Rows(world)  # u_i, e_i
        self.inputs: list[Vector] = []  # stacks of vectors y
        self.hats: list[Tensor] = []  # their Zhats, each a variable that derivatives are taken by
        # Where (stack, row) each u_i came from, and its row of L, (i + 1,).
        self.pivots: list[tuple[int, int, Tensor]] = []

    def hat(self, x: Vector, std: float) -> Tensor:
        """Zhat of a stack x: (B, M), a new leaf of autograd's graph."""
        values, found = x._tensor.detach().to(x.world.dtype), []
        if not values.isfinite().all():  # what has NaN in it would count as a combination of earlier vectors
            raise InputError(
                "W @ x of a vector with coordinates that are NaN or infinite; expected finite ones; "
                "look at x.values, or train at a smaller rate"
            )
        for row, y in enumerate(values):
            inside = self.basis.coefficients(y)
            rest = y - inside @ self.basis.rows
            again = self.basis.coefficients(rest)  # twice: once loses digits where y is nearly a combination
            inside, rest = inside + again, rest - again @ self.basis.rows
            size = float(rest.square().mean().sqrt())
            if size > 4 * torch.finfo(y.dtype).eps ** 0.5 * float(y.square().mean().sqrt()):
                self.basis.append(rest / size)
                self.noises.append(x.world._noise())
                inside = torch.cat([inside, inside.new_tensor([size])])
                self.pivots.append((len(self.inputs), row, inside))
            found.append(std * (inside @ self.noises.rows[: len(inside)]))
        hat = torch.stack(found).requires_grad_()
        self.inputs.append(x)
        self.hats.append(hat)
        return hat

    def derivatives(self, x: Vector, std: float) -> list[Tensor | None]:
        """E[dZ^{x_b} / dZhat_k] for the rows b of a stack x, (B, B_k) for each stack k of Zhats; None for 0."""
        return self._stein(x, std) if x.jumps else self._autograd(x)

    def _autograd(self, x: Vector) -> list[Tensor | None]:
        result: list[Tensor | None] = [None] * len(self.hats)
        if not (self.hats and x._tensor.requires_grad):
            return result
        for row in range(len(x)):
            one = torch.zeros_like(x._tensor)
            one[row] = 1
            grads = torch.autograd.grad(x._tensor, self.hats, one, retain_graph=True, allow_unused=True)
            for k, grad in enumerate(grads):
                if grad is not None:
                    if result[k] is None:
                        result[k] = grad.new_zeros(len(x), len(grad))
                    result[k][row] = grad.mean(1)
        return result

    def _stein(self, x: Vector, std: float) -> list[Tensor | None]:
        # E[e_i x] = std sum_k L_ki D_k, solved for D over the vectors that brought a u_i; the others need no share.
        rank = len(self.pivots)
        result: list[Tensor | None] = [None] * len(self.hats)
        if not rank or std == 0:
            return result
        triangle = self.basis._buffer.new_zeros(rank, rank)
        for i, (_, _, row) in enumerate(self.pivots):
            triangle[i, : i + 1] = row
        moments = self.noises.coefficients(x._tensor.detach().to(triangle)) / std  # (B, rank)
        solved = torch.linalg.solve_triangular(triangle, moments, upper=False, left=False)
        for i, (k, row, _) in enumerate(self.pivots):
            if result[k] is None:
                result[k] = solved.new_zeros(len(x), len(self.inputs[k]))
            result[k][:, row] = solved[:, i]
        return result


class _InfiniteMatrix:
    """W at width infinity: never a matrix, only what it and its transpose were applied to."""

    def __init__(self, world: InfiniteWidth, std: float) -> None:
        self.std, self._sides = std, (_Products(world), _Products(world))

    @torch.enable_grad()  # inside a user's no_grad too
    def product(self, x: Vector, transposed: bool, scale: float) -> Vector:
        here, there = self._sides[transposed], self._sides[not transposed]
        stack = x if x.is_stack else x[None]
        x.world.require(4 * len(stack), "a product")
        result, jumps = here.hat(stack, self.std), False
        for share, vector in self._corrections(there, stack):
            result, jumps = result + share @ vector._tensor, jumps or vector.jumps
        result = result if x.is_stack else result[0]
        return Vector(x.world, result if scale == 1 else scale * result, jumps)

    def _corrections(self, there: _Products, stack: Vector) -> list[tuple[Tensor, Vector]]:
        """Zdot of a stack as pairs of (B, B_k) coefficients and the stacks Z^{y_k} that they multiply."""
        found = there.derivatives(stack, self.std)
        return [(self.std**2 * share, y) for share, y in zip(found, there.inputs) if share is not None]
