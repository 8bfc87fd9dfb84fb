"""Infinite-width feature learning you can run: the notebooks' library.

The names below are the front door; each is imported when it is first used, so that ``import tp4lib`` costs nothing.

>>> from tp4lib import mup
>>> mup(2).regime
'feature learning'
"""

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec

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

# Modules under the names they had before they got folders; kept for one release, for notebooks made with it.
_MOVED = {
    "cheat_sheet": "scale.cheat_sheet",
    "datasets": "data.catalogue",
    "device": "base.device",
    "drift": "sweep.drift",
    "dual": "activations",
    "errors": "base.errors",
    "images": "data.images",
    "ledger": "base.ledger",
    "maml.omniglot": "data.omniglot",
    "maml.pi": "maml.pi_fomaml",
    "paper": "data.published",
    "paths": "base.paths",
    "pilimit": "pi_limit",
    "plotting": "collection.plotting",
    "report": "collection.report",
    "sweep_any": "sweep.any_module",
    "widgets": "collection.widgets",
    "word2vec.analogy": "word2vec.analogies",
    "word2vec.pca": "word2vec.figure1",
    "word2vec.pi": "word2vec.nonlinear",
    "word2vec.sampling": "word2vec.blocks",
    "word2vec.study": "word2vec.table3",
    "word2vec.train": "word2vec.training",
}


def __getattr__(name: str):
    if name in _NAMES:
        return getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)
    if name in _MOVED:
        return import_module(f"{__name__}.{_MOVED[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})


class _Moved(MetaPathFinder, Loader):
    """``import tp4lib.report`` gives the module that is now ``tp4lib.collection.report``: one module, two names."""

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        here = name.removeprefix(f"{__name__}.")
        return ModuleSpec(name, self) if here != name and here in _MOVED else None

    def create_module(self, spec: ModuleSpec):
        module = import_module(f"{__name__}.{_MOVED[spec.name.removeprefix(f'{__name__}.')]}")
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module) -> None:
        module.__spec__ = module.__spec__.loader_state  # the import system has just put the old name's there


sys.meta_path.append(_Moved())
