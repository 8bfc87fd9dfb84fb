"""Everything random in Word2Vec training: subsampling, windows, negatives. No arithmetic on parameters happens here.

The text is cut into blocks of tokens. The block numbered k of epoch e draws from a generator seeded by (seed, e, k)
alone, so that every width, every engine and every resumed run sees the same randomness.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from tp4lib.base.checks import real, whole
from tp4lib.base.checks import seed as seed_of
from tp4lib.base.device import require_memory
from tp4lib.word2vec.corpus import Vocabulary, keep_probability

LARGEST = 10**9


@dataclass(frozen=True)
class Block:
    """Positions to train on, in batches of consecutive ones. One batch is one SGD step.

    The context of position i is ``tokens[first[i]:last[i]]`` without ``tokens[i]``, its target.

    Attributes:
        tokens: (P,) int32 word ids.
        first, last: (P,) int32, the window of each position; at least two words long.
        negatives: int32 word ids; (batches, K) where a batch shares them, (P, K) where each position has its own.
        shared: which of the two it is.
        weight: what one negative counts for: 1, or (negatives a position should see) / K where they are shared.
        batch_size: positions in a batch; the last batch may be smaller.
        rates: (batches,) float64, the learning rate of each batch.
        seed: for whatever an engine draws itself.
    """

    tokens: np.ndarray
    first: np.ndarray
    last: np.ndarray
    negatives: np.ndarray
    shared: bool
    weight: float
    batch_size: int
    rates: np.ndarray
    seed: int = 0

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def batches(self) -> int:
        return -(-len(self.tokens) // self.batch_size)


def context_pairs(block: Block, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """Every (position, context word) of positions low..high, as two int64 arrays."""
    first = block.first[low:high].astype(np.int64)
    count = block.last[low:high] - first - 1
    position = np.repeat(np.arange(low, high), count)
    # Places count up from `first` within each position: all pairs are numbered, less the pairs before the position.
    place = np.arange(len(position)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    place += place >= position  # step over the target
    return position, block.tokens[place].astype(np.int64)


@dataclass(frozen=True)
class Sampler:
    """Draws the blocks of a training run.

    Args:
        vocab: for the frequencies. ids: (tokens,) int32, the corpus.
        window: largest window; the window of a position is uniform in 1..window.
        num_negatives: negatives that a position sees (k), drawn in proportion to count^0.75.
        subsample: threshold t of `keep_probability`. batch_size: positions a step.
        shared: None for ``num_negatives`` fresh ones per position, else K, the number that a whole batch shares; each
            of them then has the weight ``num_negatives / K``, so that the expected gradient is the same.
        lr: learning rate, falling linearly to 1e-4 of itself over ``epochs``.
        block_tokens: tokens in a block, before subsampling. Windows do not reach over its ends.
    """

    vocab: Vocabulary
    ids: np.ndarray
    window: int = 8
    num_negatives: int = 25
    subsample: float = 1e-4
    batch_size: int = 1
    shared: int | None = None
    lr: float = 0.05
    epochs: int = 1
    seed: int = 0
    block_tokens: int = 1 << 14

    def __post_init__(self) -> None:
        whole("block_tokens", self.block_tokens, example=1 << 14)
        whole("window", self.window, most=self.block_tokens, example=8)
        whole("num_negatives", self.num_negatives, most=LARGEST, example=25)
        whole("batch_size", self.batch_size, most=LARGEST, example=32)
        whole("epochs", self.epochs, most=LARGEST, example=5)
        seed_of(self.seed)
        real("lr", self.lr, above=0, example=0.05)
        if self.shared is not None:
            whole("shared_negatives", self.shared, most=LARGEST, example=24)
        batches = -(-self.block_tokens // self.batch_size)
        draws = self.shared * batches if self.shared else self.num_negatives * self.block_tokens
        needed, hint = 16 * draws, "try --num-negatives 25, and a smaller --batch-size or --shared-negatives"
        require_memory(needed, torch.device("cpu"), "drawing the negatives of a block", hint)
        keep = keep_probability(self.vocab.counts, self.vocab.counts.sum(), self.subsample)
        object.__setattr__(self, "_keep", keep.astype(np.float32))
        object.__setattr__(self, "_alias", AliasTable(self.vocab.counts**0.75))

    @property
    def blocks(self) -> int:
        """Blocks in an epoch."""
        return -(-len(self.ids) // self.block_tokens)

    def block_size(self, number: int) -> int:
        """Tokens of the corpus that block ``number`` covers."""
        return min(self.block_tokens, len(self.ids) - number * self.block_tokens)

    def block(self, epoch: int, number: int) -> Block:
        """Draw block ``number`` (from 0) of epoch ``epoch`` (from 0)."""
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, epoch, number])))
        start = number * self.block_tokens
        raw = self.ids[start : start + self.block_tokens]
        # The order of the draws is part of the format: every run with a seed sees these numbers.
        place = np.flatnonzero(rng.random(len(raw), dtype=np.float32) < self._keep[raw])  # subsampling
        tokens = raw[place]
        size = len(tokens)
        here = np.arange(size, dtype=np.int32)
        reach = rng.integers(1, self.window + 1, size, dtype=np.int32)  # over the words that are left
        first = np.maximum(here - reach, 0)
        last = np.minimum(here + reach + 1, size).astype(np.int32)
        if size < 2:  # no context: nothing to learn from
            size, tokens, first, last = 0, tokens[:0], first[:0], last[:0]
        batches = -(-size // self.batch_size)
        # The rate falls with the tokens of the text that came before a batch's first one, kept or not.
        done = epoch * len(self.ids) + start + place[: size : self.batch_size]
        rates = self.lr * np.maximum(1.0 - done / (self.epochs * len(self.ids)), 1e-4)
        shape = (batches, self.shared) if self.shared else (size, self.num_negatives)
        return Block(
            tokens,
            first,
            last,
            negatives=self._alias.draw(rng, shape),
            seed=int(rng.integers(1 << 62)),
            shared=self.shared is not None,
            weight=self.num_negatives / self.shared if self.shared else 1.0,
            batch_size=self.batch_size,
            rates=rates,
        )


class Ahead:
    """Draws the next block on a thread of its own while the last one is trained on.

    The blocks are the sampler's: each has a generator of its own, so it does not matter when it is drawn.
    """

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self._next: tuple[tuple[int, int] | None, Future[Block] | None] = None, None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tp4-draw")

    def block(self, epoch: int, number: int) -> Block:
        """As `Sampler.block`; at once where this one follows on the last."""
        place, drawn = self._next
        block = drawn.result() if place == (epoch, number) else self.sampler.block(epoch, number)
        after = (epoch, number + 1) if number + 1 < self.sampler.blocks else (epoch + 1, 0)
        self._next = None, None
        if after[0] < self.sampler.epochs:
            self._next = after, self._thread.submit(self.sampler.block, *after)
        return block


class AliasTable:
    """Draws from a discrete distribution in constant time (Walker's alias method, exact).

    Args:
        weights: (|V|,) non-negative, not all zero.
    """

    def __init__(self, weights: np.ndarray) -> None:
        p = np.asarray(weights, dtype=np.float64)
        size = len(p)
        p = p * (size / p.sum())
        self.accept = np.ones(size, dtype=np.float32)
        self.alias = np.arange(size, dtype=np.int32)
        small = [int(i) for i in np.flatnonzero(p < 1.0)]
        large = [int(i) for i in np.flatnonzero(p >= 1.0)]
        while small and large:
            low, high = small.pop(), large[-1]
            self.accept[low] = p[low]  # column `low` holds itself with probability p, and for the rest `high`
            self.alias[low] = high
            p[high] -= 1.0 - p[low]  # what `high` has given away
            if p[high] < 1.0:
                small.append(large.pop())

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Independent draws, int32 of the given shape."""
        column = rng.integers(0, len(self.accept), shape, dtype=np.int32)
        keep = rng.random(shape, dtype=np.float32) < self.accept[column]
        return np.where(keep, column, self.alias[column])
