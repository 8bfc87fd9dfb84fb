"""Everything that a few-shot run depends on, declared once: for `tp4lib.maml.run` and for ``tp4 maml``."""

import enum
import math
from dataclasses import dataclass
from typing import Annotated

from tp4lib.base.errors import InputError
from tp4lib.base.options import Option, require_valid

LARGEST_WIDTH = 1e12
LARGEST = 1e6  # rate or scale; squares of it are far from what float32 holds
_SCALE = {"least": -LARGEST, "most": LARGEST}
_RATE = {"above": 0, "most": LARGEST, "example": 0.1}
_SEED = {"least": 0, "most": 2**63 - 1, "example": 0}


class Limit(enum.StrEnum):
    """Which infinitely wide network; none for a finite one."""

    mup = "mup"
    ntk = "ntk"
    gp = "gp"
    pi = "pi"
    none = "none"


class ActivationName(enum.StrEnum):
    """Of the hidden layer."""

    linear = "linear"
    relu = "relu"


@dataclass(frozen=True)
class MAMLSettings:
    """One run of first-order MAML on Omniglot, 5-way 1-shot; rates and scales left out are those of the paper.

    >>> MAMLSettings(limit="none", width=512).units
    512
    """

    limit: Annotated[Limit, Option("Infinite-width limit; none for a finite width.")] = Limit.mup
    width: Annotated[str, Option("Hidden width, or inf (then with a limit).")] = "inf"
    activation: Annotated[ActivationName, Option("relu is for the kernel limits and pi.")] = (
        ActivationName.linear
    )
    rank: Annotated[int, Option("Of the pi-limit (--limit pi).", least=1)] = 400
    depth: Annotated[int, Option("Hidden layers of the pi-limit.", least=1)] = 1
    meta_steps: Annotated[int, Option("Outer steps, of 32 tasks each.", least=1)] = 10_000
    seed: Annotated[int, Option("Of the network and the training tasks.", **_SEED)] = 0
    lr: Annotated[float | None, Option("Outer learning rate, in place of the paper's.", **_RATE)] = None
    sigma_in: Annotated[float | None, Option("Initialization scale of the first layer.", **_SCALE)] = None
    sigma_out: Annotated[float | None, Option("Initialization scale of the second layer.", **_SCALE)] = None
    bias_scale: Annotated[float | None, Option("alpha on the hidden bias; kernels: sigma_b.", **_SCALE)] = (
        None
    )
    patience: Annotated[int | None, Option("Stop after so many epochs without a better one.", least=1)] = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", str(self.width))
        require_valid(self)
        n, limit, width = self.units, self.limit, self.width
        if limit is Limit.none and n == math.inf:
            raise InputError(
                "--limit none is a finite width, but --width is inf; try --limit none --width 512"
            )
        if limit is not Limit.none and n != math.inf:
            raise InputError(
                f"--limit {limit} is infinitely wide, but --width is {width}; expected inf; "
                f"try --limit none --width {width}"
            )
        if self.activation is ActivationName.relu and limit in (Limit.mup, Limit.none):
            raise InputError(
                f"--activation relu with --limit {limit}; expected linear (relu is for ntk, gp and pi); "
                "try --limit ntk --activation relu"
            )

    @property
    def units(self) -> float:
        """The width as a number: an int, or infinity."""
        width = self.width
        if width != "inf" and not (width.isascii() and width.removeprefix("-").isdigit()):
            raise InputError(f"--width {width[:40]}; expected a whole number or inf; try --width 512")
        n = math.inf if width == "inf" else int(width) if len(width) < 20 else 10**20
        if n < 1 or LARGEST_WIDTH < n < math.inf:
            raise InputError(
                f"--width {width[:40]}; expected 1 to {LARGEST_WIDTH:g}, or inf; try --width 512"
            )
        return n

    @property
    def hyperparameters(self) -> dict[str, float]:
        """The rates and scales that are given, in place of the paper's."""
        given = {name: getattr(self, name) for name in ("lr", "sigma_in", "sigma_out", "bias_scale")}
        return {name: value for name, value in given.items() if value is not None}
