"""One progress bar for all long work."""

from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from tp4lib.base import environment


def bar(
    iterable: Iterable[Any] | None = None,
    *,
    total: int | None = None,
    desc: str = "",
    unit: str = "it",
    initial: int = 0,
) -> tqdm:
    """A tqdm bar on stderr, refreshed at most twice a second; silent where ``TP4_PROGRESS`` is 0, false, no or off.

    ``initial`` is where a resumed run starts. Numbers are shortened (1.2M) once ``total`` is large.
    """
    return tqdm(
        iterable,
        total=total,
        desc=desc,
        unit=unit,
        initial=initial,
        unit_scale=(total or 0) >= 100_000,
        mininterval=0.5,
        dynamic_ncols=True,
        disable=not environment.flag("TP4_PROGRESS", default=True),
    )
