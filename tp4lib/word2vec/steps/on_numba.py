"""The step of `steps.reference`, in numba: for CPUs, where torch's calls cost more than its work on small matrices.

Only the B x K scores of a batch, 2 B n K flops each way, are matrix products (`products`); contexts (about nine a
position) and targets are sums and inner products of vectors. The compiled code is in `loops`.

Numba is optional; `available` says whether it is installed.
"""

import functools
import math
import time
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import torch

from tp4lib.base.divergence import Diverged
from tp4lib.base.jit import numba
from tp4lib.word2vec.blocks import Block
from tp4lib.word2vec.model import CBOW
from tp4lib.word2vec.settings import StepSettings
from tp4lib.word2vec.steps import lines, loops, meeting
from tp4lib.word2vec.steps.on_torch import require_finite

TILE = 512  # columns worked on at a time, so that they stay in a core's cache
LEAST = 512  # numbers of hidden vectors that are worth a thread more


def available(model: CBOW, batch_size: int, shared: bool) -> bool:
    """Whether this engine can run: numba, float32 or float64 parameters on the CPU, and negatives that are shared or
    batches of one position."""
    fits = model.embeddings.device.type == "cpu" and model.embeddings.dtype != torch.bfloat16
    return numba is not None and fits and (shared or batch_size == 1)


def numba_steps(model: CBOW, block: Block, settings: StepSettings, cores: int = 1) -> tuple[float, int]:
    """Train on a block; see `on_torch.torch_steps`, of which these are the numbers up to rounding.

    ``cores`` threads may share the work of each step; the bits do not depend on it.
    """
    E, R = model.embeddings.numpy(), model.readout.numpy()
    n, K, B = model.columns, block.negatives.shape[1], min(block.batch_size, max(len(block), 1))
    tile, tiles = tiling(n)
    workers = min(cores, tiles, max(B * n // LEAST, 1)) if meeting.SUPPORTED else 1
    # What all workers see, as `loops.all_batches` names it: H, N, S, s of each tile; G, g, keep_m, keep_t; losses.
    columns = room(tile, E.itemsize)
    of_tiles = ((B, columns), (K, columns), (B, K), (B,))
    shared = (
        *(np.empty((tiles, *shape), E.dtype) for shape in of_tiles),
        *(np.empty(size, E.dtype) for size in (B * K, B, K, B)),
        np.empty(B),
    )
    place = meeting.place()

    def work(worker: int) -> tuple[float, int, float]:
        try:
            return loops.all_batches(
                (worker, workers, place), E, R, block.tokens, block.first, block.last, block.negatives, block.weight,
                block.batch_size, block.rates, settings.wd, settings.window_gradient == "sum", settings.input_rate,
                shared, tile,
            )  # fmt: skip
        except BaseException:
            meeting.leave_open(place)
            raise

    others = [_pool(workers - 1).submit(work, worker) for worker in range(1, workers)]
    try:
        loss, steps, seen = work(0)
    finally:
        wait(others)
    written = [seen, *(other.result()[2] for other in others)]  # raises what a thread has raised
    if not math.isfinite(loss):
        raise Diverged(f"the loss of step {steps} of {block.batches} is {loss:g}")
    if not all(map(math.isfinite, written)):
        require_finite(model, block)  # a sum may be too large while its numbers are finite
    return float(loss), len(block)


class Team:
    """`numba_steps` on all cores or on one, whichever is faster now: the bits are the same.

    Threads that meet twice in a step need their cores at the same time, which a busy machine does not give them.
    """

    AGAIN = 32  # blocks after which the slower way is tried again

    def __init__(self, cores: int) -> None:
        self.pace, self.blocks = dict.fromkeys((cores, 1), 0.0), 0  # seconds a position; 0 until it is tried

    def __call__(self, model: CBOW, block: Block, settings: StepSettings) -> tuple[float, int]:
        ways = sorted(self.pace, key=self.pace.get)  # the fastest first, and before it what was never tried
        self.blocks += 1
        cores, started = ways[-1 if self.blocks % self.AGAIN == 0 else 0], time.perf_counter()
        result = numba_steps(model, block, settings, cores)
        pace, before = (time.perf_counter() - started) / max(len(block), 1), self.pace[cores]
        self.pace[cores] = 0.7 * before + 0.3 * pace if before else pace  # one slow block decides nothing
        return result


def load(model: CBOW) -> None:
    """Compile the loops for a model, or read what was compiled before: training on no position changes nothing."""
    none = np.empty(0, np.int32)
    numba_steps(model, Block(none, none, none, none.reshape(0, 1), True, 1.0, 1, np.empty(0)), StepSettings())


def tiling(columns: int) -> tuple[int, int]:
    """Columns of a tile, and the number of tiles: even, of equal size, and the same for any number of cores."""
    tiles = 2 * -(-columns // (2 * TILE))
    tile = -(-columns // (16 * tiles)) * 16  # 16 float32 are a cache line: no two tiles share one
    return min(tile, columns), -(-columns // tile)


def room(tile: int, itemsize: int) -> int:
    """Columns to hold a tile in: whole lines, and an odd number of them, because rows a multiple of 1 KiB apart would
    compete for few places in the cache."""
    count = -(-tile * itemsize // lines.BYTES)
    return (count | 1) * lines.BYTES // itemsize


@functools.cache
def _pool(size: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(size, 1), thread_name_prefix="tp4-step")
