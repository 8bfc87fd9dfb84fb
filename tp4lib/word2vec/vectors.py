"""Word vectors in the binary format of the word2vec program, which gensim and others read."""

from pathlib import Path

import numpy as np
import torch

from tp4lib.base.device import require_memory
from tp4lib.base.errors import InputError
from tp4lib.base.files import atomic_path
from tp4lib.base.text import require_file
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

    gensim reads it by ``KeyedVectors.load_word2vec_format(path, binary=True)``. Written atomically, row by row; where
    ranks share the n columns all call this, and the first writes.
    """
    columns = columns or embeddings.shape[1]
    blocks = (shards.gather(embeddings[i : i + _ROWS], columns) for i in range(0, len(words), _ROWS))
    if shards.rank > 0:
        for _ in blocks:  # gathering takes all ranks
            pass
        return
    with atomic_path(path) as part, open(part, "wb") as file:
        file.write(f"{len(words)} {columns}\n".encode())
        rows = (row for block in blocks for row in block.detach().to("cpu", torch.float32).numpy())
        for word, row in zip(words, rows, strict=True):
            file.write(word.encode() + b" " + row.tobytes() + b"\n")


def load_vectors(path: str | Path) -> tuple[list[str], torch.Tensor]:
    """The words and the vectors (|V|, n) of a file that `save_vectors` or another such program wrote."""
    path = Path(path)
    require_file(path, "the vectors.bin of a run of `tp4 word2vec`", "the folder")
    with open(path, "rb") as file:
        head = file.readline(64)
        sizes = [int(size) for size in head.split() if size.isdigit() and len(size) < 16]
        if len(sizes) != 2 or not all(sizes) or not head.endswith(b"\n"):
            raise _damaged(path, "its first line is not the numbers of words and columns")
        count, columns = sizes
        if count * (4 * columns + 2) > path.stat().st_size:
            raise _damaged(path, f"it is too short for {count} words of {columns} columns")
        cpu, hint = torch.device("cpu"), "write it with --save-dim 300"
        require_memory(4 * count * columns, cpu, f"reading {path}", hint)
        words, rows = [], np.empty((count, columns), dtype="<f4")
        for row in rows:
            word = bytearray()
            while (letter := file.read(1)) not in (b" ", b""):
                word += letter.strip(b"\n")  # the original program ends no line
            if file.readinto(row) != row.nbytes:
                raise _damaged(path, f"it ends after {len(words)} of {count} words")
            words.append(word.decode("utf-8", "replace"))
    if not (np.isfinite(rows).all() and len(set(words)) == count):
        raise _damaged(path, "its numbers are not finite, or a word is there twice")
    return words, torch.from_numpy(rows)


def _damaged(path: Path, why: str) -> InputError:
    return InputError(
        f"{path} is damaged: {why}; expected the vectors.bin of a run of `tp4 word2vec`; run it again"
    )
