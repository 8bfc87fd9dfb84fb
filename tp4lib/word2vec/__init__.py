"""Word2Vec (CBOW with negative sampling) at every width, infinity included, by one engine.

The modules, in the order of the data: `corpus` (text to vocabulary to word ids; `words` splits and numbers), `blocks`
(windows and negatives: everything random), `model` (the parameters), `steps` (one SGD step: `steps.reference` is the
formula, the others are fast), `training` (epochs, by `settings`), `checkpoints`, `vectors`, `analogies` (how good the
embeddings are). `run` goes from a text to files; `shards` spreads columns over ranks. Then the paper's results:
`table3`, `figure1` and `nonlinear`.
"""

from importlib import import_module

_NAMES = {"CBOW": "model", "Corpus": "corpus", "Vocabulary": "corpus", "keep_probability": "corpus"}
__all__ = ["CBOW", "Corpus", "Vocabulary", "keep_probability"]


def __getattr__(name: str):
    """Imported when first used, so that the command line's help needs no torch."""
    if name in _NAMES:
        return getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
