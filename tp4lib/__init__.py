"""Infinite-width feature learning you can run: the notebooks' library.

The names below are the front door; each is imported when it is first used, so that ``import tp4lib`` costs nothing.

>>> from tp4lib import mup
>>> mup(2).regime
'feature learning'
"""

from importlib import import_module

__version__ = "0.1.0"

_NAMES = {
    "ABC": "parametrization",
    "mean_field": "parametrization",
    "mup": "parametrization",
    "ntp": "parametrization",
    "standard": "parametrization",
    "MLP": "nn",
    "param_groups": "nn",
    "scale": "scale",
    "nngp": "kernels",
    "ntk": "kernels",
    "LinearLimit": "linear_limit",
    "FiniteWidth": "program",
    "InfiniteWidth": "program",
    "PiMLP": "pi_limit",
    "CBOW": "word2vec",
    "Corpus": "word2vec",
    "Report": "collection.report",
}


def __getattr__(name: str):
    if name in _NAMES:
        return getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})
