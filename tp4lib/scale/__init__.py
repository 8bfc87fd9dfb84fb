"""Any abc-parametrization for any `torch.nn.Module`, without a change to its code: `scale`.

`roles` reads from the shapes at two widths what each parameter is, `scaled` turns that into initialization and rates,
`cheat_sheet` prints the rules.
"""

from tp4lib.scale.scaled import Scaled, scale

__all__ = ["Scaled", "scale"]
