"""Word vectors in the binary format of the word2vec program, which gensim and others read."""

from pathlib import Path

import numpy as np
import torch

from tp4lib.files import atomic_path

_ROWS = 1024


def save_vectors(path: str | Path, words: list[str], embeddings: torch.Tensor) -> None:
    """Write ``embeddings`` (|V|, n) as float32: a line ``|V| n``, then for each word its name, a space, n numbers.

    gensim reads it by ``KeyedVectors.load_word2vec_format(path, binary=True)``. Written atomically, row by row.
    """
    with atomic_path(path) as part, open(part, "wb") as file:
        file.write(f"{embeddings.shape[0]} {embeddings.shape[1]}\n".encode())
        for start in range(0, len(words), _ROWS):
            rows = embeddings[start : start + _ROWS].detach().to("cpu", torch.float32).numpy()
            for word, row in zip(words[start : start + _ROWS], np.ascontiguousarray(rows)):
                file.write(word.encode() + b" " + row.tobytes() + b"\n")
