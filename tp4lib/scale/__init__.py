"""Any abc-parametrization for any `torch.nn.Module`, without a change to its code: `scale`.

`roles` reads from the shapes at two widths what each parameter is, `scaled` turns that into initialization and rates,
`cheat_sheet` prints the rules.
"""

import sys
from types import ModuleType

from tp4lib.scale.scaled import Scaled, scale

__all__ = ["Scaled", "scale"]


class _Callable(ModuleType):
    """``from tp4lib import scale`` gives the function, or this package once it was imported: either can be called."""

    def __call__(self, *args, **options) -> Scaled:
        return scale(*args, **options)


sys.modules[__name__].__class__ = _Callable
