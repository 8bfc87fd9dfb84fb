"""What programs are written with: worlds, matrices, outer products; and the world of width n."""

from __future__ import annotations

import math
from numbers import Real
from typing import Protocol

import torch
from torch import Tensor

from tp4lib.base import checks
from tp4lib.base.checks import real, whole
from tp4lib.base.device import require_memory, resolve
from tp4lib.base.errors import InputError
from tp4lib.program.vectors import Vector, one_world


class Part(Protocol):
    """A Gaussian matrix as its world holds it, or an outer product."""

    def product(self, x: Vector, transposed: bool, scale: float) -> Vector:
        """scale * W @ x, or scale * W.T @ x."""


class World:
    """What the two widths have in common; use `FiniteWidth` or `InfiniteWidth`.

    Attributes:
        coordinates: n, or the number of samples that stand for one coordinate's law.
        dtype, device: of all numbers.
        probe: the few coordinates at which functions are tried (see `tp4lib.program.vectors`).
    """

    def __init__(self, coordinates: int, seed: int, dtype: torch.dtype, device: torch.device | str) -> None:
        if not (isinstance(dtype, torch.dtype) and dtype in (torch.float64, torch.float32)):
            raise InputError(
                f"dtype = {dtype!r}; expected torch.float64 or torch.float32; try dtype=torch.float64"
            )
        self.coordinates, self.dtype, self.device = coordinates, dtype, resolve(device)
        # Random numbers are drawn on the CPU, so that every device starts from the same ones.
        self._generator = torch.Generator().manual_seed(checks.seed(seed))
        self.probe = torch.tensor(
            [coordinates - 1, 0, coordinates // 2, coordinates // 3], device=self.device
        )

    def gaussian(self, std: float = 1.0, count: int | None = None) -> Vector:
        """A new vector with iid N(0, std^2) coordinates, or a stack of `count` independent ones."""
        std, rows = real("std", std, least=0), []
        for _ in range(1 if count is None else whole("count", count, example=3)):
            rows.append(std * self._noise())
        return Vector(self, rows[0] if count is None else torch.stack(rows))

    def matrix(self, std: float = 1.0) -> Matrix:
        """A new n x n matrix W with iid N(0, std^2 / n) entries; see `Matrix` for what it does."""
        return as_matrix(self, self._matrix(real("std", std, least=0)))

    def mean(self, x: Vector, y: Vector | None = None, se: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        r"""The average over coordinates, <x, 1> / n or <x, y> / n; in the limit E Z^x or E Z^x Z^y. A constant.

        Source: Yang & Hu 2021, section 7 (the instruction Moment, and the Master Theorem for what it tends to).

        Args:
            x, y: vectors or stacks of B and C of them.
            se: also return a standard error, the spread over coordinates divided by the root of their number: that
                of this average alone (for the error of a whole program run it with other seeds), and in practice less
                at infinite width, where samples are spread evenly.

        Returns:
            () for single vectors, (B,) for a stack, (C,) or (B, C) for every pair: a tensor without derivative.
        """
        for vector in (x,) if y is None else (x, y):
            if not isinstance(vector, Vector):
                raise InputError(
                    f"mean of a {type(vector).__name__}; expected vectors of the program; write mean(x)"
                )
            one_world(vector.world, self)
        a = x._tensor.detach().to(self.dtype)
        b = self._ones() if y is None else y._tensor.detach().to(self.dtype)
        average = _pairs(a, b)
        if not se:
            return average
        spread = (_pairs(a * a, b * b) - average**2).clamp(min=0)
        return average, (spread / max(1, self.coordinates - 1)) ** 0.5

    def randn(self, *shape: int) -> Tensor:
        """Independent N(0, 1) numbers, not vectors: for scalars that stay random in the limit."""
        shape = [whole(f"shape[{axis}]", size, least=0, example=3) for axis, size in enumerate(shape)]
        return torch.randn(shape, generator=self._generator, dtype=torch.float64).to(self.device, self.dtype)

    def _ones(self) -> Tensor:
        return torch.ones(self.coordinates, dtype=self.dtype, device=self.device)

    def _noise(self) -> Tensor:
        """A new (coordinates,) standard Gaussian, independent of all before."""
        raise NotImplementedError

    def _matrix(self, std: float) -> Part:
        raise NotImplementedError


class Matrix:
    r"""A random n x n matrix, and what training makes of it: W + sum_k c_k u_k v_k^T / n.

        W @ x,   W.T @ x,   (W + c outer(u, v)) @ x = W @ x + c u <v, x> / n

    Source: Yang & Hu 2021, section 7 (MatMul; how a trained matrix is written as a program). `x` may be a stack.
    An outer product is a matrix of entries of size 1/n; `+`, `-`, multiplication by numbers and `.T` work as in linear
    algebra, for Gaussian matrices too. Products of matrices and functions of entries are not in the language: apply the
    matrices to vectors, one after the other.

    >>> world = FiniteWidth(5)
    >>> W, x = world.matrix(), world.gaussian()
    >>> ((W - 0.1 * outer(W @ x, x)).T @ x).values.shape
    torch.Size([5])
    """

    __array_ufunc__ = None  # numpy's numbers leave multiplication to __rmul__

    def __init__(self, world: World, parts: dict[tuple[int, bool], tuple[float, Part]] | None = None) -> None:
        # By the part's identity and whether it is transposed, so that momentum's repeated terms stay one.
        self.world, self._parts = world, parts or {}

    @property
    def T(self) -> Matrix:
        return Matrix(self.world, {(key, not flipped): term for (key, flipped), term in self._parts.items()})

    def __matmul__(self, x: Vector) -> Vector:
        if not isinstance(x, Vector):
            hint = "write W @ (V @ x)" if isinstance(x, Matrix) else "make it a vector of the program first"
            raise InputError(f"W @ {type(x).__name__}; a matrix of a program multiplies its vectors; {hint}")
        one_world(x.world, self.world)
        result = None
        for (_, transposed), (scale, part) in self._parts.items():
            term = part.product(x, transposed, scale)
            result = term if result is None else result + term
        return 0 * x if result is None else result

    def __add__(self, other: Matrix) -> Matrix:
        if not isinstance(other, Matrix) or other.world is not self.world:
            raise InputError("W + something else; expected a matrix of the same world; write W + outer(u, v)")
        parts = dict(self._parts)
        for key, (scale, part) in other._parts.items():
            parts[key] = (scale + parts[key][0] if key in parts else scale, part)
        return Matrix(self.world, parts)

    def __mul__(self, number: float) -> Matrix:
        if not isinstance(number, (Real, Tensor)) or (isinstance(number, Tensor) and number.numel() != 1):
            raise InputError(
                f"W * {type(number).__name__}; entries of a matrix are not touched one by one; expected a number; "
                "try 0.1 * outer(u, v)"
            )
        return Matrix(self.world, {key: (float(number) * c, part) for key, (c, part) in self._parts.items()})

    __rmul__ = __mul__

    def __truediv__(self, number: float) -> Matrix:
        return self * (1 / number)

    def __neg__(self) -> Matrix:
        return -1.0 * self

    def __sub__(self, other: Matrix) -> Matrix:
        return self + (-1.0) * other if isinstance(other, Matrix) else self + other

    def __rmatmul__(self, other: object) -> None:
        raise InputError("x @ W; a matrix stands on the left of a vector here; write W.T @ x")

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", str(func)).strip("_")
        if name in ("mul", "rmul") and isinstance(args[0], Tensor) and isinstance(args[1], Matrix):
            return args[1] * args[0]
        raise InputError(
            f"{name} of a matrix; entries of a matrix are not touched one by one, because the limit knows its products "
            "with vectors only; write W @ x"
        )


class _Outer:
    """u v^T / n for stacks u and v: a part of a matrix."""

    def __init__(self, u: Vector, v: Vector) -> None:
        self.u, self.v = u, v

    def product(self, x: Vector, transposed: bool, scale: float) -> Vector:
        u, v = (self.v, self.u) if transposed else (self.u, self.v)
        return (scale * x.world.mean(x, v)) @ u


def outer(u: Vector, v: Vector) -> Matrix:
    """The matrix u v^T / n, or sum_b u_b v_b^T / n for two stacks: what one SGD step adds to a hidden weight."""
    if not (isinstance(u, Vector) and isinstance(v, Vector)):
        raise InputError(
            "outer of something else than vectors; expected two of one program; write outer(u, v)"
        )
    one_world(u.world, v.world)
    u, v = (vector if vector.is_stack else vector[None] for vector in (u, v))
    if len(u) != len(v):
        raise InputError(f"outer of stacks of {len(u)} and {len(v)}; expected as many; pair them one to one")
    return as_matrix(u.world, _Outer(u, v))


def as_matrix(world: World, part: Part) -> Matrix:
    """A matrix of one part."""
    return Matrix(world, {(id(part), False): (1.0, part)})


class FiniteWidth(World):
    """The world of width n: vectors have n coordinates, matrices n x n entries, averages are over n.

    Source: Yang & Hu 2021, section 7.

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
        self.n = whole("n", n, example=256)
        super().__init__(self.n, seed, dtype, device)

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

    def product(self, x: Vector, transposed: bool, scale: float) -> Vector:
        right = self.entries if transposed else self.entries.T
        return Vector(x.world, (x._tensor.to(right) * scale if scale != 1 else x._tensor.to(right)) @ right)


def _pairs(a: Tensor, b: Tensor) -> Tensor:
    """<a_i, b_j> / n of two vectors or stacks."""
    return a @ (b if b.dim() == 1 else b.T) / a.shape[-1]
