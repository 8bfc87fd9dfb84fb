"""The world of width infinity: vectors are random variables, held as joint samples (the Master Theorem, executed)."""

import torch

from tp4lib.base.errors import InputError
from tp4lib.program.conditioned import ConditionedMatrix
from tp4lib.program.derivatives import DerivativeMatrix
from tp4lib.program.samples import SampleWorld
from tp4lib.program.world import Part


class InfiniteWidth(SampleWorld):
    r"""The world of width infinity: a vector x is the random variable Z^x, held as M joint samples.

        Z^{Wx}    = Zhat^{Wx} + Zdot^{Wx}
        Zhat^{Wx}   Gaussian, Cov(Zhat^{Wx}, Zhat^{Wy}) = std^2 E Z^x Z^y, independent of everything else, W^T's too
        Zdot^{Wx} = std^2 sum_k Z^{y_k} E[ dZ^x / dZhat^{W^T y_k} ]      over the earlier products W^T y_k

    Source: Yang & Hu 2021, section 7 (Definition of Z and the Master Theorem); the derivative of a function that is
    not smooth is the one for which Stein's lemma holds (Yang 2020, Tensor Programs II and III).

    How. The samples of the vectors that W was applied to get an orthonormal basis (Gram-Schmidt in sample space, which
    grows by one for each vector that is not a combination of earlier ones); each member of the basis owns one fresh
    noise, and Zhat has the vector's coordinates along these noises. Derivatives are autograd's, through the
    coordinatewise functions, with every Zhat a variable of its own and every number from `mean` a constant. After
    a function that jumps (`Vector.jumps`) the derivative contains a delta function, which autograd does not see; there
    it is found from Stein's lemma, E[Zhat_j Z^x] = sum_k Cov(Zhat_j, Zhat_k) E[dZ^x / dZhat_k], instead.

    The first 32 noises are scrambled Sobol points (quasi-Monte-Carlo), later ones the quantiles of N(0, 1) in random
    order (a Latin hypercube), all made exactly orthonormal to each other and to 1 in the M samples. So what is
    linear is exact to rounding; a smooth average over few noises has an error far below 1 / sqrt(M), and nothing has
    more than about 1 / sqrt(M), as has a network of width M.

    Args:
        samples: M. Memory is about 8 M bytes for each of the program's vectors (they all stay, for the derivatives).
        derivatives: "autograd", as above; "stein", by Stein's lemma everywhere, many times faster and as good for long
            programs (`tp4lib.program.conditioned`); "none" leaves Zdot out, to see what goes wrong without it.

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
        self.derivatives = derivatives
        super().__init__(samples, seed, dtype, device)

    def __repr__(self) -> str:
        return f"InfiniteWidth({self.samples} samples)"

    def _matrix(self, std: float) -> Part:
        if self.derivatives == "autograd":
            return DerivativeMatrix(self, std)
        return ConditionedMatrix(self, std, corrected=self.derivatives == "stein")
