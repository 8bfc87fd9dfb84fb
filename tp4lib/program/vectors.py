"""The vectors of a tensor program: torch's coordinatewise functions act on them, all else is refused with its rule."""

from collections.abc import Callable, Iterator
from numbers import Real
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor

from tp4lib.base.errors import InputError

# Functions with jumps, where the derivative contains a delta function, which autograd drops.
JUMPS = {
    "sign", "sgn", "signbit", "heaviside", "floor", "ceil", "round", "trunc", "fix", "frac", "fmod", "remainder",
    "floor_divide", "hardshrink", "threshold", "bucketize", "quantile", "argmax", "argmin", "autograd_slope",
}  # fmt: skip
_SIZES = {"shape", "size", "numel", "nelement", "ndim", "dim", "new_zeros", "new_ones", "stride"}
_RANDOM = {"dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout", "rand_like", "randn_like",
           "randint_like", "bernoulli", "normal", "poisson", "multinomial", "rrelu", "gumbel_softmax"}  # fmt: skip
_CONSTANTS = {"detach", "data", "detach_", "grad", "backward", "requires_grad_"}
# What is not in the language, and what to write in its place.
_RULES = [
    ({"__getitem__"},
     "it picks single coordinates, which have no limit; coordinates are alike; write world.mean(x)"),
    ({"matmul", "rmatmul", "mm", "mv", "bmm", "linear", "einsum", "tensordot", "addmm", "addmv", "outer", "ger", "kron",
      "T", "mT", "H", "t", "transpose"},
     "a matrix over coordinates cannot be built by hand: its entries have to be iid Gaussian of variance "
     "std^2 / n; write W = world.matrix(std); W @ x, or world.mean(x, y) for an inner product"),
    (_SIZES, "a program does not know n: factors of n are what parametrizations are about; write world.mean(x, y)"),
    ({"sum", "mean", "dot", "vdot", "inner", "norm", "vector_norm", "prod", "var", "std", "nansum", "item",
      "__float__", "max", "min", "amax", "amin", "median", "tolist", "numpy"},
     "sums over coordinates grow with n, extremes have no limit; write world.mean(x) or world.mean(x, y)"),
    (_RANDOM, "its random numbers are not the program's, so a limit cannot know them; write world.gaussian()"),
    (_CONSTANTS, "constants come from averages alone; write world.mean(x), or x.values to look at the numbers"),
]  # fmt: skip
_COORDINATEWISE = (
    "coordinate i of the result may depend on coordinate i of the arguments (and on numbers) alone; "
    "write a coordinatewise function such as torch.tanh(x)"
)


class Space(Protocol):
    """What a vector asks of its world."""

    coordinates: int
    dtype: torch.dtype
    device: torch.device
    probe: Tensor


class Vector:
    r"""One n-vector of a program, or a stack of B of them, on which torch's coordinatewise functions act.

        x_i = psi(y^1_i, .., y^k_i; theta_1, .., theta_m)        for every coordinate i, with one psi and scalars theta

    Source: Yang & Hu 2021 (arXiv 2011.14522), section 7: the instruction Nonlin of the language Netsor-T; in the limit
    the random variable Z^x = psi(Z^{y^1}, .., Z^{y^k}; theta).

    Vectors are made by a world (`tp4lib.program`), by `W @ x`, and by functions of vectors: arithmetic, comparisons,
    and any torch function or method that treats coordinates one by one (`torch.tanh(x)`, `x.relu()`, `torch.where`).
    A stack of B vectors behaves like a (B, n) tensor along its first axis: `torch.stack([x, y])`, `X[0]`,
    `for x in X`, and `A @ X` with a (C, B) tensor of numbers for C linear combinations. Numbers are constants: they may
    come from `mean`, and no derivative passes through them. What is coordinatewise is found out by trying: the function
    is applied to a few coordinates alone and must give the same there.

    Attributes:
        world: where the vector lives.
        values: a copy of the (n,) or (B, n) numbers, in the limit M samples of Z^x: to look at, not to compute with.
        jumps: whether a function that jumps (a comparison, sign, ..) went into it; see `InfiniteWidth`.

    Raises:
        InputError: for what is not in the language: sums and products over coordinates, matrices by hand, single
            coordinates, the width itself, random numbers, changes in place, vectors of two worlds in one expression.

    >>> from tp4lib.program import FiniteWidth
    >>> x = FiniteWidth(5).gaussian()
    >>> (torch.tanh(x) + 1).values.shape
    torch.Size([5])
    """

    def __init__(self, world: Space, tensor: Tensor, jumps: bool = False) -> None:
        self.world, self._tensor, self.jumps = world, tensor, jumps

    @property
    def values(self) -> Tensor:
        return self._tensor.detach().clone()

    @property
    def is_stack(self) -> bool:
        return self._tensor.dim() > 1

    def __repr__(self) -> str:
        many = f"stack of {len(self._tensor)} vectors" if self.is_stack else "vector"
        return f"<{many} of {self.world!r}>"

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        return apply(func, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or not hasattr(torch.Tensor, name):
            raise AttributeError(f"a Vector has no attribute {name!r}")
        if name in _SIZES or name in _CONSTANTS:
            refuse(name)
        method = getattr(torch.Tensor, name)
        if not callable(method):
            refuse(name)
        return lambda *args, **kwargs: apply(method, (self, *args), kwargs)

    def __len__(self) -> int:
        return len(self._tensor) if self.is_stack else refuse("shape")

    def __iter__(self) -> Iterator["Vector"]:
        return (self[index] for index in range(len(self))) if self.is_stack else refuse("__getitem__")

    def __getitem__(self, key: Any) -> "Vector":
        return apply(torch.Tensor.__getitem__, (self, key), {})

    def __float__(self) -> NoReturn:
        refuse("__float__")

    __int__ = __bool__ = __array__ = __float__
    __hash__ = object.__hash__
    __array_ufunc__ = None  # numpy's numbers leave arithmetic with vectors to the methods below


def _operator(name: str) -> Callable:
    method = getattr(torch.Tensor, name)

    def operate(self: Vector, *others: Any) -> Any:
        if any(not isinstance(other, (Vector, Tensor, Real)) for other in others):
            return NotImplemented
        return apply(method, (self, *others), {})

    return operate


# Python looks operators up on the class, past `__getattr__`, so each needs a method of its own.
_OPERATORS = """add radd sub rsub mul rmul truediv rtruediv pow rpow mod floordiv neg abs gt ge lt le eq ne
    and or xor invert matmul rmatmul"""
for _name in _OPERATORS.split():
    setattr(Vector, f"__{_name}__", _operator(f"__{_name}__"))


def apply(func: Callable, args: tuple, kwargs: dict) -> Any:
    """Apply a torch function to vectors and numbers, if it acts on every coordinate alone."""
    name = getattr(func, "__name__", str(func))
    if name == "__get__":  # an attribute, such as x.shape
        name = getattr(getattr(func, "__self__", None), "__name__", name)
    vectors = [item for item in _leaves((args, kwargs)) if isinstance(item, Vector)]
    world = one_world(*(vector.world for vector in vectors))
    if (name.endswith("_") and not name.endswith("__")) or kwargs.get("out") is not None:
        raise InputError(
            f"{name} changes a vector in place; a line of a program makes a new vector; write y = {name.rstrip('_')}(x)"
        )
    if name in _CONSTANTS or name in _RANDOM:
        refuse(name)
    try:
        with torch.enable_grad():  # inside a user's no_grad too: the derivatives belong to the limit
            result = func(*_open(args, world), **_open(kwargs, world))
    except (RuntimeError, IndexError) as error:
        refuse(name, str(error).splitlines()[0])
    probe = world.probe
    try:  # once more at a few coordinates alone: what looks at others fails there, or gives something else
        with torch.no_grad():
            part = func(*_open(args, world, probe), **_open(kwargs, world, probe))
    except (RuntimeError, IndexError):
        refuse(name)
    jumps = name in JUMPS or any(vector.jumps for vector in vectors)
    return _close(name, world, result, part, jumps)


def one_world(first: Space, *others: Space) -> Space:
    """The world, if all are one and the same; else an InputError."""
    for other in others:
        if other is not first:
            raise InputError(
                f"vectors of two worlds, {first!r} and {other!r}; one program runs in one world; "
                "make all vectors with the same one"
            )
    return first


def refuse(name: str, detail: str = "") -> NoReturn:
    """Say which rule of the language `name` breaks, and what to write in its place."""
    bare = name.strip("_")
    rule = next((rule for names, rule in _RULES if name in names or bare in names), _COORDINATEWISE)
    raise InputError(
        f"{bare} is not in the language of tensor programs{f' ({detail})' if detail else ''}; {rule}"
    )


def _leaves(item: Any) -> Iterator[Any]:
    if isinstance(item, (list, tuple)):
        for part in item:
            yield from _leaves(part)
    elif isinstance(item, dict):
        yield from _leaves(tuple(item.values()))
    else:
        yield item


def _open(item: Any, world: Space, probe: Tensor | None = None) -> Any:
    """The tensors inside, at all coordinates or at a few; numbers become constants of the world's type and place."""
    if isinstance(item, Vector):
        return item._tensor if probe is None else item._tensor.detach()[..., probe]
    if isinstance(item, Tensor):
        item = item.detach()
        return item.to(world.device, world.dtype) if item.is_floating_point() else item.to(world.device)
    if isinstance(item, (list, tuple)):
        return type(item)(_open(part, world, probe) for part in item)
    if isinstance(item, dict):
        return {key: _open(part, world, probe) for key, part in item.items()}
    return item


def _close(name: str, world: Space, result: Any, part: Any, jumps: bool) -> Any:
    """Wrap what came out, after checking at the probed coordinates that it is coordinatewise."""
    if isinstance(result, (list, tuple)):
        return tuple(_close(name, world, *pair, jumps) for pair in zip(result, part))
    if not isinstance(result, Tensor) or result.is_complex() or result.dim() not in (1, 2):
        refuse(name)
    if result.shape[-1] != world.coordinates:
        refuse(name)
    there, part = result.detach()[..., world.probe].to(world.dtype), part.to(world.dtype)
    # The same function of the same numbers, up to the order in which its sums over a stack were rounded.
    near = torch.finfo(world.dtype).eps ** 0.5 * (1 + float(there.abs().nan_to_num(0, 0, 0).max()))
    if there.shape != part.shape or not torch.allclose(there, part, rtol=0, atol=near, equal_nan=True):
        refuse(name)
    return Vector(world, result, jumps or not result.is_floating_point())
