"""Few-shot learning by first-order MAML, at every width and in the limits (paper, section 9.2 and Table 2).

`reference` is MAML as the paper writes it, for any module. `fomaml` (the linear network), `kernel_fomaml` (GP and NTK
limits) and `pi_fomaml` (nonlinear pi-limit) are fast engines, a whole meta-batch at once; all are a `learner`.
`models` holds the paper's networks and hyperparameters, `train` is the loop with validation and checkpoints,
`settings` and `experiment` make a whole run of it: ``maml.run(MAMLSettings(limit="mup"), out)``.
"""

from importlib import import_module
from typing import Any

from tp4lib.maml.settings import MAMLSettings

__all__ = ["MAMLSettings", "run"]


def __getattr__(name: str) -> Any:
    if name == "run":  # on first use: it loads torch, which the command line's help has no need of
        return import_module("tp4lib.maml.experiment").run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
