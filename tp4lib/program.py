r"""Tensor programs: a computation written once as a Python function, run at width n or at width infinity.

    g, h  Gaussian vectors       W @ x, W.T @ x  products with n x n Gaussian matrices
    psi(g, h, ..)  any coordinatewise torch function       mean(x, y) = <x, y> / n  numbers

`FiniteWidth(n)` computes with n coordinates. `InfiniteWidth(samples)` computes with the random variables that the
coordinates become as n grows: the Master Theorem, executed. Source: Yang & Hu 2021 (arXiv 2011.14522), section 7.

>>> def second_moment(world):  # <W^T W x, x> / n
...     x, W = world.gaussian(), world.matrix()
...     return world.mean(W.T @ (W @ x), x)
>>> f"{second_moment(InfiniteWidth(1000)):.3f}"
'1.000'
"""

from __future__ import annotations

import math
from numbers import Integral, Real

import torch
from torch import Tensor

from tp4lib.device import require_memory, resolve
from tp4lib.errors import InputError
from tp4lib.vectors import Vector, one_world

_SOBOL = 32  # noises that come from one Sobol sequence; more dimensions measured no better


class World:
    """What the two widths have in common; use `FiniteWidth` or `InfiniteWidth`.

    Attributes:
        coordinates: n, or the number of samples that stand for one coordinate's law.
        dtype, device: of all numbers.
        probe: the few coordinates at which functions are tried (see `tp4lib.vectors`).
    """

    def __init__(self, coordinates: int, seed: int, dtype: torch.dtype, device: torch.device | str) -> None:
        if not (isinstance(dtype, torch.dtype) and dtype in (torch.float64, torch.float32)):
            raise InputError(f"dtype = {dtype!r}; expected torch.float64 or torch.float32; try torch.float64")
        self.coordinates, self.dtype, self.device = coordinates, dtype, resolve(device)
        # Random numbers are drawn on the CPU, so that every device starts from the same ones.
        self._generator = torch.Generator().manual_seed(seed)
        self.probe = torch.tensor(
            [coordinates - 1, 0, coordinates // 2, coordinates // 3], device=self.device
        )

    def gaussian(self, std: float = 1.0, count: int | None = None) -> Vector:
        """A new vector with iid N(0, std^2) coordinates, or a stack of `count` independent ones.

        Raises:
            InputError: a negative std, a count below 1, too many vectors for the samples or the memory.
        """
        _check_std(std)
        if count is not None and (not isinstance(count, Integral) or count < 1):
            raise InputError(f"count = {count!r}; expected a whole number >= 1; try count=3")
        rows = [std * self._noise() for _ in range(count or 1)]
        return Vector(self, rows[0] if count is None else torch.stack(rows))

    def matrix(self, std: float = 1.0) -> Matrix:
        """A new n x n matrix W with iid N(0, std^2 / n) entries; see `Matrix` for what it does.

        Raises:
            InputError: a negative std, or (at finite width) no memory for n x n numbers.
        """
        _check_std(std)
        return Matrix(self, self._matrix(std))

    def mean(self, x: Vector, y: Vector | None = None, se: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        r"""The average over coordinates, <x, 1> / n or <x, y> / n; in the limit E Z^x or E Z^x Z^y. A constant.

        Source: Yang & Hu 2021, section 7 (the instruction Moment, and the Master Theorem for what it tends to).

        Args:
            x, y: vectors or stacks of B and C of them.
            se: also return a standard error, the spread over coordinates divided by the root of their number. It
                is that of this average, given the numbers that were averaged before it: for the error of a whole
                program run it with other seeds. At infinite width samples are spread evenly, which makes the error
                smaller than this in practice.

        Returns:
            () for single vectors, (B,) for a stack, (C,) or (B, C) for every pair: a tensor without derivative.

        Raises:
            InputError: not vectors, or vectors of another world.
        """
        for vector in (x,) if y is None else (x, y):
            if not isinstance(vector, Vector):
                raise InputError(
                    f"mean of a {type(vector).__name__}; expected vectors of the program; write mean(x)"
                )
            one_world([vector, Vector(self, self.probe)])
        a = x._tensor.detach().to(self.dtype)
        b = self._ones() if y is None else y._tensor.detach().to(self.dtype)
        average = _pairs(a, b)
        if not se:
            return average
        spread = (_pairs(a * a, b * b) - average**2).clamp(min=0)
        return average, (spread / max(1, self.coordinates - 1)) ** 0.5

    def randn(self, *shape: int) -> Tensor:
        """Independent N(0, 1) numbers, not vectors: for scalars that stay random in the limit."""
        return torch.randn(shape, generator=self._generator, dtype=torch.float64).to(self.device, self.dtype)

    def _ones(self) -> Tensor:
        return torch.ones(self.coordinates, dtype=self.dtype, device=self.device)

    def _noise(self) -> Tensor:
        """A new (coordinates,) standard Gaussian, independent of all before."""
        raise NotImplementedError

    def _matrix(self, std: float) -> _FiniteMatrix | _InfiniteMatrix:
        raise NotImplementedError


class Matrix:
    r"""A random n x n matrix, and what training makes of it: W + sum_k c_k u_k v_k^T / n.

        W @ x,   W.T @ x,   (W + c outer(u, v)) @ x = W @ x + c u <v, x> / n

    Source: Yang & Hu 2021, section 7 (MatMul; how a trained matrix is written as a program). `x` may be a stack.
    An outer product is a matrix of entries of size 1/n that adds to W; `+`, `-`, multiplication by numbers and `.T` work
    as in linear algebra. Two Gaussian matrices, and functions of entries, do not combine: apply them to vectors.

    >>> world = FiniteWidth(5)
    >>> W, x = world.matrix(), world.gaussian()
    >>> ((W - 0.1 * outer(W @ x, x)).T @ x).values.shape
    torch.Size([5])
    """

    def __init__(
        self,
        world: World,
        start: _FiniteMatrix | _InfiniteMatrix | None,
        terms: dict[tuple[int, int], tuple[float, Vector, Vector]] | None = None,
        transposed: bool = False,
    ) -> None:
        self.world, self._start, self._transposed = world, start, transposed
        self._terms = terms or {}  # by the identity of u and v, so that momentum's repeated terms stay one

    @property
    def T(self) -> Matrix:
        flipped = {(v, u): (c, right, left) for (u, v), (c, left, right) in self._terms.items()}
        return Matrix(self.world, self._start, flipped, not self._transposed)

    def __matmul__(self, x: Vector) -> Vector:
        if not isinstance(x, Vector):
            hint = "write W @ (V @ x)" if isinstance(x, Matrix) else "make it a vector of the program first"
            raise InputError(f"W @ {type(x).__name__}; a matrix of a program multiplies its vectors; {hint}")
        one_world([x, Vector(self.world, self.world.probe)])
        result = None if self._start is None else self._start.product(x, self._transposed)
        for c, u, v in self._terms.values():
            term = (c * self.world.mean(x, v)) @ u
            result = term if result is None else result + term
        return 0 * x if result is None else result

    def __add__(self, other: Matrix) -> Matrix:
        if not isinstance(other, Matrix) or other.world is not self.world:
            raise InputError("W + something else; expected a matrix of the same world; write W + outer(u, v)")
        if self._start is not None and other._start is not None:
            raise InputError(
                "W + V of two Gaussian matrices; only outer products add up; write W @ x + V @ x"
            )
        terms = dict(self._terms)
        for key, (c, u, v) in other._terms.items():
            terms[key] = (c + terms[key][0] if key in terms else c, u, v)
        owner = self if self._start is not None else other
        return Matrix(self.world, owner._start, terms, owner._transposed)

    def __mul__(self, number: float) -> Matrix:
        if self._start is not None:
            raise InputError(
                "a number times a Gaussian matrix; its scale is set once; write world.matrix(std)"
            )
        if not isinstance(number, (Real, Tensor)):
            raise InputError(
                f"outer(u, v) * {type(number).__name__}; expected a number; try 0.1 * outer(u, v)"
            )
        return Matrix(
            self.world, None, {key: (float(number) * c, u, v) for key, (c, u, v) in self._terms.items()}
        )

    __rmul__ = __mul__

    def __neg__(self) -> Matrix:
        return -1.0 * self

    def __sub__(self, other: Matrix) -> Matrix:
        return self + (-1.0) * other

    def __rmatmul__(self, other: object) -> None:
        raise InputError("x @ W; a matrix stands on the left of a vector here; write W.T @ x")

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        raise InputError(
            f"{getattr(func, '__name__', func)} of a matrix; entries of a matrix are not touched one by one, because "
            "the limit knows its products with vectors only; write W @ x"
        )


def outer(u: Vector, v: Vector) -> Matrix:
    """The matrix u v^T / n, or sum_b u_b v_b^T / n for two stacks: what one SGD step adds to a hidden weight.

    Raises:
        InputError: not vectors, of two worlds, or stacks of different lengths.
    """
    if not (isinstance(u, Vector) and isinstance(v, Vector)):
        raise InputError(
            "outer of something else than vectors; expected two of one program; write outer(u, v)"
        )
    world = one_world([u, v])
    u, v = (vector if vector.is_stack else vector[None] for vector in (u, v))
    if len(u) != len(v):
        raise InputError(f"outer of stacks of {len(u)} and {len(v)}; expected as many; pair them one to one")
    return Matrix(world, None, {(id(u), id(v)): (1.0, u, v)})


class FiniteWidth(World):
    """The world of width n: vectors have n coordinates, matrices n x n entries, averages are over n.

    Source: Yang & Hu 2021, section 7.

    Args:
        n: the width. seed: of every draw. dtype: torch.float64 or torch.float32. device: "cpu", "cuda", "auto".

    Raises:
        InputError: n below 1, an unknown dtype or device.

    >>> world = FiniteWidth(1000, seed=1)
    >>> bool(abs(world.mean(world.gaussian())) < 0.1)
    True
    """

    def __init__(
        self,
        n: int,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        if isinstance(n, bool) or not isinstance(n, Integral) or n < 1:
            raise InputError(
                f"n = {n!r}; a width is a whole number >= 1; try n=256, or InfiniteWidth(samples=100_000)"
            )
        super().__init__(int(n), seed, dtype, device)
        self.n = int(n)

    def __repr__(self) -> str:
        return f"FiniteWidth({self.n})"

    def _noise(self) -> Tensor:
        return self.randn(self.n)

    def _matrix(self, std: float) -> _FiniteMatrix:
        require_memory(16 * self.n**2, self.device, f"a {self.n} x {self.n} matrix", "choose a smaller n")
        return _FiniteMatrix(self.randn(self.n, self.n).mul_(std / math.sqrt(self.n)))


class _FiniteMatrix:
    def __init__(self, entries: Tensor) -> None:
        self.entries = entries

    def product(self, x: Vector, transposed: bool) -> Vector:
        return Vector(x.world, x._tensor.to(self.entries) @ (self.entries if transposed else self.entries.T))


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
    order (a Latin hypercube), and all are made exactly orthonormal to each other and to 1 in the M samples. So whatever is
    linear is exact to rounding; a smooth average over few noises has an error far below 1 / sqrt(M), and nothing has
    more than about 1 / sqrt(M), as has a network of width M.

    Args:
        samples: M. Memory is about 8 M bytes for each of the program's vectors (they all stay, for the derivatives).
        seed: of every draw. dtype: torch.float64 or torch.float32. device: "cpu", "cuda", "auto".

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
    ) -> None:
        if isinstance(samples, bool) or not isinstance(samples, Integral) or samples < 16:
            raise InputError(f"samples = {samples!r}; expected a whole number >= 16; try samples=100_000")
        super().__init__(int(samples), seed, dtype, device)
        self.samples = int(samples)
        self.require(3 * _SOBOL, "the first noises")
        sobol = torch.quasirandom.SobolEngine(_SOBOL, scramble=True, seed=seed)
        self._sobol = list(sobol.draw(self.samples, dtype=torch.float64).T)  # uniforms, multiples of 2^-30
        middle = (torch.arange(self.samples, dtype=torch.float64) + 0.5) / self.samples
        self._quantiles = torch.special.ndtri(middle)
        self._noises = _Rows(self)
        self._noises.append(self._ones())

    def __repr__(self) -> str:
        return f"InfiniteWidth({self.samples} samples)"

    def require(self, vectors: int, what: str) -> None:
        """Raise InputError if there is no memory for that many more vectors."""
        size = vectors * self.samples * self.dtype.itemsize
        require_memory(
            size, self.device, f"{what} of {self!r}", "choose fewer samples or dtype=torch.float32"
        )

    def _noise(self) -> Tensor:
        if 2 * self._noises.count >= self.samples:
            raise InputError(
                f"{self._noises.count} noises in {self.samples} samples; expected far fewer noises than samples; "
                f"try samples={100 * self.samples}"
            )
        if self._sobol:
            noise = torch.special.ndtri(self._sobol.pop(0).clamp(min=2.0**-31))
        else:
            noise = self._quantiles[torch.randperm(self.samples, generator=self._generator)]
        noise = noise.to(self.device, self.dtype)
        noise = noise - self._noises.coefficients(noise) @ self._noises.rows
        noise = noise / noise.square().mean().sqrt()
        self._noises.append(noise)
        return noise

    def _matrix(self, std: float) -> _InfiniteMatrix:
        return _InfiniteMatrix(self, std)


class _Rows:
    """A growing (count, samples) list of orthogonal vectors of mean square 1."""

    def __init__(self, world: InfiniteWidth) -> None:
        self.world, self.count = world, 0
        self._buffer = torch.empty(0, world.samples, dtype=world.dtype, device=world.device)

    @property
    def rows(self) -> Tensor:
        return self._buffer[: self.count]

    def append(self, row: Tensor) -> None:
        if self.count == len(self._buffer):
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


class _Products:
    """What W (or W^T) was applied to: the vectors y_k, their Zhats, and both in an orthonormal basis.

    y_k = sum_i L_ki u_i and Zhat_k = std sum_i L_ki e_i, with one noise e_i for each member u_i of the basis.
    """

    def __init__(self, world: InfiniteWidth) -> None:
        self.basis, self.noises = _Rows(world), _Rows(world)  # u_i, e_i
        self.inputs: list[Vector] = []  # stacks of vectors y
        self.hats: list[Tensor] = []  # their Zhats, each a variable that derivatives are taken by
        self.pivots: list[
            tuple[int, int, Tensor]
        ] = []  # where (stack, row) u_i came from, and its row L_i (i + 1,)

    def hat(self, x: Vector, std: float) -> Tensor:
        """Zhat of a stack x: (B, M), a new leaf of autograd's graph."""
        values, found = x._tensor.detach().to(x.world.dtype), []
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

    def product(self, x: Vector, transposed: bool) -> Vector:
        here, there = self._sides[transposed], self._sides[not transposed]
        stack = x if x.is_stack else x[None]
        x.world.require(4 * len(stack), "a product")
        result, jumps = here.hat(stack, self.std), False
        for share, vector in self._corrections(there, stack):
            result, jumps = result + share @ vector._tensor, jumps or vector.jumps
        return Vector(x.world, result if x.is_stack else result[0], jumps)

    def _corrections(self, there: _Products, stack: Vector) -> list[tuple[Tensor, Vector]]:
        """Zdot of a stack as pairs of (B, B_k) coefficients and the stacks Z^{y_k} that they multiply."""
        found = there.derivatives(stack, self.std)
        return [(self.std**2 * share, y) for share, y in zip(found, there.inputs) if share is not None]


def _pairs(a: Tensor, b: Tensor) -> Tensor:
    """<a_i, b_j> / n of two vectors or stacks."""
    return a @ (b if b.dim() == 1 else b.T) / a.shape[-1]


def _check_std(std: float) -> None:
    if not (isinstance(std, Real) and math.isfinite(std) and std >= 0):
        raise InputError(f"std = {std!r}; a standard deviation is a finite number >= 0; try std=1.0")
