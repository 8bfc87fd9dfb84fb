"""Joint samples of random variables: what both forms of a Gaussian matrix at width infinity are computed with."""

import torch
from torch import Tensor

from tp4lib.base.checks import whole
from tp4lib.base.device import require_memory
from tp4lib.base.errors import InputError
from tp4lib.program.world import World

SOBOL = 32  # noises that come from one Sobol sequence; more dimensions measured no better


class SampleWorld(World):
    """A world whose vectors are M joint samples, with a supply of noises that are orthonormal in these samples.

    Attributes:
        samples: M. noises: how many independent noises the program has drawn.
    """

    def __init__(self, samples: int, seed: int, dtype: torch.dtype, device: torch.device | str) -> None:
        self.samples = whole("samples", samples, least=16, example=100_000)
        super().__init__(self.samples, seed, dtype, device)
        self.require(3 * SOBOL, "the first noises")
        sobol = torch.quasirandom.SobolEngine(SOBOL, scramble=True, seed=seed)
        self._sobol = list(sobol.draw(self.samples, dtype=torch.float64).T)  # uniforms, multiples of 2^-30
        middle = (torch.arange(self.samples, dtype=torch.float64) + 0.5) / self.samples
        self._quantiles = torch.special.ndtri(middle)
        self._noises = OrthonormalRows(self)
        self._noises.append(self._ones())  # so that all noises have mean 0

    @property
    def noises(self) -> int:
        return self._noises.count - 1

    def require(self, vectors: int, what: str) -> None:
        """Raise InputError if there is no memory for that many more vectors."""
        size = vectors * self.samples * self.dtype.itemsize
        require_memory(
            size, self.device, f"{what} of {self!r}", "choose fewer samples or dtype=torch.float32"
        )

    def fresh(self, count: int) -> Tensor:
        """(count, M) new noises, orthonormal to each other and to all earlier ones, drawn in one go."""
        self._require_samples(count)
        seen = self._noises
        noise = torch.stack([self._draw() for _ in range(count)])
        noise = noise - seen.coefficients(noise) @ seen.rows
        # E noise noise^T = L L^T, so that L^-1 noise has the identity for its second moments: as Gram-Schmidt gives,
        # row by row, but as two matrix products.
        lower = torch.linalg.cholesky(noise @ noise.T / self.samples)
        noise = torch.linalg.solve_triangular(lower, noise, upper=False)
        for row in noise:
            seen.append(row)
        return noise

    def _noise(self) -> Tensor:
        """(M,) one new noise: Gram-Schmidt against all earlier ones."""
        self._require_samples(1)
        noise = self._draw()
        noise = noise - self._noises.coefficients(noise) @ self._noises.rows
        noise = noise / noise.square().mean().sqrt()
        self._noises.append(noise)
        return noise

    def _require_samples(self, count: int) -> None:
        # Each noise takes one of M dimensions; when few are left, a new one is nearly determined by those before.
        if 2 * (self._noises.count + count) > self.samples:
            raise InputError(
                f"{self._noises.count + count} noises in {self.samples} samples; expected at most "
                f"{self.samples // 2}, half as many; try samples={4 * self.samples}, fewer steps or fewer inputs"
            )

    def _draw(self) -> Tensor:
        """(M,) numbers of N(0, 1), spread evenly, not yet orthogonal to those before."""
        if self._sobol:  # clamped: the sequence may hold a 0, whose quantile is -infinity
            noise = torch.special.ndtri(self._sobol.pop(0).clamp(min=2.0**-31))
        else:  # a Latin hypercube: every quantile once, in random order
            noise = self._quantiles[torch.randperm(self.samples, generator=self._generator)]
        return noise.to(self.device, self.dtype)


class OrthonormalRows:
    """A growing (count, M) list of vectors that are orthogonal in the samples, of mean square 1."""

    def __init__(self, world: SampleWorld) -> None:
        self.world, self.count = world, 0
        self._buffer = torch.empty(0, world.samples, dtype=world.dtype, device=world.device)

    @property
    def rows(self) -> Tensor:
        return self._buffer[: self.count]

    def append(self, row: Tensor) -> None:
        if self.count == len(self._buffer):  # grown by half, so that M appends copy O(M) rows
            room = max(8, 3 * self.count // 2)
            self.world.require(room, f"{room} vectors more")
            grown = self._buffer.new_empty(room, self._buffer.shape[1])
            grown[: self.count] = self._buffer
            self._buffer = grown
        self._buffer[self.count] = row
        self.count += 1

    def coefficients(self, x: Tensor) -> Tensor:
        """(..., count): E x u_i for all rows u_i."""
        return x @ self.rows.T / self.world.samples
