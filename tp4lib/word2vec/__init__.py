"""Word2Vec (CBOW with negative sampling) at every width, infinity included, by one engine.

The modules, in the order they use each other: `wikipedia` (dump to text), `idstore` (word ids on disk), `corpus` (text
to word ids), `sampling` (everything random), `shards` (columns over ranks), `cbow` (the parameters and one SGD step),
`fast` and `gpu` (the same step in numba and in Triton), `analogy` (how good the embeddings are), `checkpoints`,
`train` (epochs), `run` (from a text to files).
"""

from tp4lib.word2vec.corpus import Corpus, Vocabulary, keep_probability
from tp4lib.word2vec.model import CBOW

__all__ = ["CBOW", "Corpus", "Vocabulary", "keep_probability"]
