r"""A Gaussian matrix at width infinity as the Master Theorem states it: derivatives by autograd, or by Stein's lemma.

    Z^{Wx} = Zhat^{Wx} + std^2 sum_k Z^{y_k} E[ dZ^x / dZhat^{W^T y_k} ]      over the earlier products W^T y_k

Source: Yang & Hu 2021, section 7 (definition of Zhat and Zdot); Stein's lemma: Yang 2020, Tensor Programs II and III.
"""

import torch
from torch import Tensor

from tp4lib.base.errors import InputError
from tp4lib.program.samples import OrthonormalRows, SampleWorld
from tp4lib.program.vectors import Vector


class Products:
    """What W (or W^T) was applied to: the vectors y_k, their Zhats, and both in an orthonormal basis.

    y_k = sum_i L_ki u_i and Zhat_k = std sum_i L_ki e_i, with one noise e_i for each member u_i of the basis. L is the
    Cholesky factor of the covariances, E Z^{y_k} Z^{y_l} = (L L^T)_kl, so that Cov(Zhat_k, Zhat_l) is std^2 of it.
    """

    def __init__(self, world: SampleWorld) -> None:
        self.basis, self.noises = OrthonormalRows(world), OrthonormalRows(world)  # u_i, e_i
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
        for row, y in enumerate(values):  # one row of the Cholesky factor at a time
            inside = self.basis.coefficients(y)  # L_ki = E y_k u_i
            rest = y - inside @ self.basis.rows
            again = self.basis.coefficients(rest)  # twice: once loses digits where y is nearly a combination
            inside, rest = inside + again, rest - again @ self.basis.rows
            size = float(rest.square().mean().sqrt())  # L_kk
            # Half of the digits are lost in L_kk^2 = E y^2 - sum_i L_ki^2; a rest below that is rounding.
            if size > 4 * torch.finfo(y.dtype).eps ** 0.5 * float(y.square().mean().sqrt()):
                self.basis.append(rest / size)
                self.noises.append(x.world._noise())
                inside = torch.cat([inside, inside.new_tensor([size])])
                self.pivots.append((len(self.inputs), row, inside))
            found.append(std * (inside @ self.noises.rows[: len(inside)]))
        hat = torch.stack(found).requires_grad_()  # a variable of its own: Zdot is a derivative by it
        self.inputs.append(x)
        self.hats.append(hat)
        return hat

    def derivatives(self, x: Vector, std: float) -> list[Tensor | None]:
        """E[dZ^{x_b} / dZhat_k] for the rows b of a stack x, (B, B_k) for each stack k of Zhats; None for 0."""
        return self.by_stein(x, std) if x.jumps else self.by_autograd(x)

    def by_autograd(self, x: Vector) -> list[Tensor | None]:
        result: list[Tensor | None] = [None] * len(self.hats)
        if not (self.hats and x._tensor.requires_grad):
            return result
        for row in range(len(x)):  # of which autograd can take one at a time
            one = torch.zeros_like(x._tensor)
            one[row] = 1  # sums over samples: the derivative in each, as functions are coordinatewise
            # The graph stays: later products differentiate through it again.
            grads = torch.autograd.grad(x._tensor, self.hats, one, retain_graph=True, allow_unused=True)
            for k, grad in enumerate(grads):
                if grad is not None:
                    if result[k] is None:
                        result[k] = grad.new_zeros(len(x), len(grad))
                    result[k][row] = grad.mean(1)
        return result

    def by_stein(self, x: Vector, std: float) -> list[Tensor | None]:
        # Stein's lemma: E[e_i x] = std sum_k L_ki D_k with D_k = E[dZ^x / dZhat_k]. It is solved for D over the
        # vectors that brought a u_i, whose rows of L are a triangle; combinations of them need no share of their own.
        rank = len(self.pivots)
        result: list[Tensor | None] = [None] * len(self.hats)
        if not rank or std == 0:
            return result
        triangle = self.basis.rows.new_zeros(rank, rank)
        for i, (_, _, row) in enumerate(self.pivots):
            triangle[i, : i + 1] = row
        moments = self.noises.coefficients(x._tensor.detach().to(triangle)) / std  # (B, rank), E[e_i x] / std
        solved = torch.linalg.solve_triangular(triangle, moments, upper=False, left=False)  # D L = moments
        for i, (k, row, _) in enumerate(self.pivots):
            if result[k] is None:
                result[k] = solved.new_zeros(len(x), len(self.inputs[k]))
            result[k][:, row] = solved[:, i]
        return result


class DerivativeMatrix:
    """W at width infinity: never a matrix, only what it and its transpose were applied to."""

    def __init__(self, world: SampleWorld, std: float) -> None:
        self.std, self._sides = std, (Products(world), Products(world))

    @torch.enable_grad()  # inside a user's no_grad too
    def product(self, x: Vector, transposed: bool, scale: float) -> Vector:
        # Zhat correlates with what W itself was applied to, Zdot comes from what its transpose was applied to.
        here, there = self._sides[transposed], self._sides[not transposed]
        stack = x if x.is_stack else x[None]
        x.world.require(4 * len(stack), "a product")
        result, jumps = here.hat(stack, self.std), False
        for share, y in self.corrections(there, stack):
            result, jumps = result + share @ y._tensor, jumps or y.jumps
        result = result if x.is_stack else result[0]
        return Vector(x.world, result if scale == 1 else scale * result, jumps)

    def corrections(self, there: Products, stack: Vector) -> list[tuple[Tensor, Vector]]:
        """Zdot of a stack as pairs of (B, B_k) coefficients and the stacks Z^{y_k} that they multiply."""
        found = there.derivatives(stack, self.std)
        return [(self.std**2 * share, y) for share, y in zip(found, there.inputs) if share is not None]
