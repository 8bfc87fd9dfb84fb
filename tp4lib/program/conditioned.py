r"""A Gaussian matrix at width infinity by Stein's lemma alone: the Gaussian conditioning trick on samples.

Let u_1, u_2, .. be an orthonormal basis (in the M samples) of the vectors that W was applied to and e_i the noise of
W u_i; let u'_i and e'_i be the same for W^T. By Stein's lemma the derivatives in Zdot are moments,
std E[e'_i Z^x] = std^2 sum_k L_ki E[dZ^x / dZhat^{W^T y_k}] with y_k = sum_i L_ki u'_i, so that the sum over k becomes

    Z^{Wx} = std sum_i e_i E[u_i Z^x]  +  std sum_i u'_i E[e'_i Z^x]        (Zhat, and Zdot)

This is how a Gaussian matrix acts, given what it and its transpose did before. Sources: Yang & Hu 2021, section 7; the
conditioning trick is Bolthausen's (2014), and how Yang proves the Master Theorem (2020, Tensor Programs III).
"""

from torch import Tensor

from tp4lib.program.samples import OrthonormalRows, SampleWorld
from tp4lib.program.vectors import Vector


class ConditionedMatrix:
    """W at width infinity as four thin matrices, u, e, u' and e': a product takes four passes over them and no graph.

    A new direction gets a noise of its own only if it makes up more than M^(-1/3) / 2 of the vector: a smaller one
    changes covariances by less than M^(-2/3) / 4, below the sampling error, which is of order M^(-1/2). So the basis
    grows slowly.

    Args:
        corrected: whether Zdot is added; without it, one sees what goes wrong.
    """

    def __init__(self, world: SampleWorld, std: float, corrected: bool) -> None:
        self.world, self.std, self.corrected = world, std, corrected
        # For W and for W^T: the basis u and its noises e.
        self._sides = [(OrthonormalRows(world), OrthonormalRows(world)) for _ in range(2)]

    def product(self, x: Vector, transposed: bool, scale: float) -> Vector:
        # u, e of this side; u', e' of the transpose's.
        (basis, noises), (other, theirs) = self._sides[transposed], self._sides[not transposed]
        stack = x._tensor if x.is_stack else x._tensor[None]
        stack = stack.detach().to(self.world.dtype)
        self.world.require(4 * len(stack), "a product")
        self._learn(stack, basis, noises)
        result = basis.coefficients(stack) @ noises.rows  # Zhat / std
        if self.corrected:
            result = result + theirs.coefficients(stack) @ other.rows  # Zdot / std
        result = scale * self.std * result
        return Vector(self.world, result if x.is_stack else result[0])

    def _learn(self, stack: Tensor, basis: OrthonormalRows, noises: OrthonormalRows) -> None:
        """Extend the basis by the directions of a (B, M) stack that it lacks, and draw their noises."""
        rest = stack
        for _ in range(2):  # twice: once loses digits where a vector is nearly a combination
            rest = rest - basis.coefficients(rest) @ basis.rows
        new: list[Tensor] = []
        for row, y in zip(rest, stack):
            for _ in range(2):  # Gram-Schmidt among the new ones, twice for the same reason
                for u in new:
                    row = row - (row @ u / self.world.samples) * u
            size = row.square().mean().sqrt()  # what is new in y
            if size > 0.5 * self.world.samples ** (-1 / 3) * y.square().mean().sqrt():
                new.append(row / size)
        if new:
            for u, e in zip(new, self.world.fresh(len(new))):
                basis.append(u)
                noises.append(e)
