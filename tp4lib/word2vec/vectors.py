"""Word vectors in the binary format of the word2vec program, which gensim and others read."""

from pathlib import Path

import numpy as np
import torch

from tp4lib.base.files import atomic_path
from tp4lib.word2vec.shards import ALONE, Shards

_ROWS = 1024


def save_vectors(
    path: str | Path,
    words: list[str],
    embeddings: torch.Tensor,
    columns: int | None = None,
    shards: Shards = ALONE,
) -> None:
    """Write ``embeddings`` (|V|, n) as float32: a line ``|V| n``, then for each word its name, a space, n numbers.

    gensim reads it by ``KeyedVectors.load_word2vec_format(path, binary=True)``. Written atomically, row by row.

    Args:
        columns: n, where ranks share the columns (all call this, the first writes).
    """
    columns = columns or embeddings.shape[1]
    blocks = (shards.gather(embeddings[i : i + _ROWS], columns) for i in range(0, len(words), _ROWS))
    if shards.rank > 0:
        for _ in blocks:
            pass
        return
    with atomic_path(path) as part, open(part, "wb") as file:
        file.write(f"{len(words)} {columns}\n".encode())
        for start, block in zip(range(0, len(words), _ROWS), blocks, strict=True):
            rows = block.detach().to("cpu", torch.float32).numpy()
            for word, row in zip(words[start : start + _ROWS], np.ascontiguousarray(rows)):
                file.write(word.encode() + b" " + row.tobytes() + b"\n")
