"""Everything that a few-shot run depends on, declared once: for `tp4lib.maml.run` and for ``tp4 maml``."""

import enum
import math
from dataclasses import dataclass, field

from tp4lib.base import options
from tp4lib.base.errors import InputError
from tp4lib.base.options import option

LARGEST_WIDTH = 1e12
LARGEST = 1e6  # rate or scale; squares of it are far from what float32 holds
_SCALE = {"least": -LARGEST, "most": LARGEST}


class Limit(enum.StrEnum):
    """Which infinitely wide network; none for a finite one."""

    mup = "mup"
    ntk = "ntk"
    gp = "gp"
    pi = "pi"
    none = "none"


class Activation(enum.StrEnum):
    """Of the hidden layer."""

    linear = "linear"
    relu = "relu"


@dataclass(frozen=True)
class MAMLSettings:
    """One run of first-order MAML on Omniglot, 5-way 1-shot; rates and scales left out are those of the paper.

    Raises:
        InputError: a value out of its range, or a combination that means nothing.

    >>> MAMLSettings(limit="none", width=512).units
    512
    """

    limit: Limit = field(default=Limit.mup, metadata=option("Infinite-width limit; none for a finite width."))
    width: str = field(default="inf", metadata=option("Hidden width, or inf (then with a limit)."))
    activation: Activation = field(
        default=Activation.linear, metadata=option("relu is for the kernel limits and pi.")
    )
    rank: int = field(default=400, metadata=option("Of the pi-limit (--limit pi)."))
    depth: int = field(default=1, metadata=option("Hidden layers of the pi-limit."))
    meta_steps: int = field(default=10_000, metadata=option("Outer steps, of 32 tasks each."))
    seed: int = field(
        default=0,
        metadata=option("Of the network and the training tasks.", least=0, most=2**63 - 1, example=0),
    )
    lr: float | None = field(
        default=None,
        metadata=option("Outer learning rate, in place of the paper's.", above=0, most=LARGEST, example=0.1),
    )
    sigma_in: float | None = field(
        default=None, metadata=option("Initialization scale of the first layer.", **_SCALE)
    )
    sigma_out: float | None = field(
        default=None, metadata=option("Initialization scale of the second layer.", **_SCALE)
    )
    bias_scale: float | None = field(
        default=None, metadata=option("alpha on the hidden bias; kernels: sigma_b.", **_SCALE)
    )
    patience: int | None = field(
        default=None, metadata=option("Stop after so many epochs without a better one.")
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", str(self.width))
        options.check(self)
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
        if self.activation is Activation.relu and limit in (Limit.mup, Limit.none):
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
