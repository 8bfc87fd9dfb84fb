"""Many learning rates and seeds at once: `sweep` for perceptrons (as one stack) and for any network of `tp4lib.scale`.

`rates` holds `sweep`, `options` its arguments, `result` what it measured, `stack` the networks trained as one,
`any_module` a single run of any other network, `drift` how the best rate moves with the width.
"""

from tp4lib.sweep.any_module import warmup_and_decay
from tp4lib.sweep.drift import drift_per_doubling, optimum
from tp4lib.sweep.options import SweepOptions, minibatches
from tp4lib.sweep.rates import sweep
from tp4lib.sweep.result import Sweep

__all__ = [
    "Sweep",
    "SweepOptions",
    "drift_per_doubling",
    "minibatches",
    "optimum",
    "sweep",
    "warmup_and_decay",
]
