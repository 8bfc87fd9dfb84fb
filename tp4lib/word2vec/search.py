"""The inner loop of analogies on a CPU, compiled where numba is installed."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from tp4lib.base.jit import numba

COLUMNS = 256  # words at a time: their cosines to a thousand words stay in a core's cache


def look(cosines: Tensor, abc: Tensor, barred: Tensor, start: int, score: Tensor, answer: Tensor) -> None:
    """Go through a block of the vocabulary, and note better answers to questions in ``score`` and ``answer`` (Q,).

    Args:
        cosines: (W, block), of the words in questions to those of the block.
        abc: (Q, 3), places of the words of each question among the W.
        barred: (Q, some), words of the vocabulary that are no answers.
        start: place of the block's first word in the vocabulary.
    """
    threads = torch.get_num_threads()
    ends = [len(abc) * i // threads for i in range(threads + 1)]

    def part(low: int, high: int) -> None:
        _look(
            cosines.numpy(), abc[low:high].numpy(), barred[low:high].numpy(), start,
            score[low:high].numpy(), answer[low:high].numpy(), np.empty(COLUMNS, score.numpy().dtype),
        )  # fmt: skip

    with ThreadPoolExecutor(threads) as pool:  # questions do not depend on each other
        list(pool.map(part, ends[:-1], ends[1:]))


def load() -> None:
    """Compile the loop for float32, or read what was compiled before."""
    none, row = np.empty((0, 3), np.int64), np.empty(0, np.float32)
    _look(row[None], none, none, 0, row, none[:, 0], row)


# Sums are not reordered: b + c - a, in this order, is what torch computes.
@(numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"nnan", "nsz"}) if numba else lambda f: f)
def _look(cosines, abc, barred, start, score, answer, s):
    for left in range(0, cosines.shape[1], COLUMNS):
        size = min(COLUMNS, cosines.shape[1] - left)
        for q in range(len(abc)):
            a = cosines[abc[q, 0], left : left + size]
            b = cosines[abc[q, 1], left : left + size]
            c = cosines[abc[q, 2], left : left + size]
            for x in range(size):
                s[x] = b[x] + c[x] - a[x]
            for i in range(barred.shape[1]):
                x = barred[q, i] - start - left
                if 0 <= x < size:
                    s[x] = -np.inf
            top = s[0]
            for x in range(1, size):
                top = max(top, s[x])
            if top > score[q]:
                x = 0
                while s[x] != top:
                    x += 1
                score[q], answer[q] = top, start + left + x
