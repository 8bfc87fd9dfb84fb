"""The step of `steps.reference` on a GPU: three Triton kernels a batch, without synchronizing with the device.

Of a batch: (a) `forward`: hidden means and the scores of negatives and targets, tile of columns by tile; a sum
over tiles, and over ranks; (b) `gradients`, of a few thousand numbers; (c) `update`: each touched row is read and
written once, for every tile of columns by one program, so that no two programs meet. Means over contexts, and their
transposes, are products with a band of zeros and ones. The plan of a block is made on the device; the CPU only draws
the next one. All sums are taken in a fixed order.

Larger batches share more rows, but add up the steps of a frequent word, all from its old value: `Word2VecSettings` has
the limits.
"""

import functools
import importlib.util
import os
import shutil
import sysconfig
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tp4lib.word2vec.blocks import Block
from tp4lib.word2vec.model import CBOW
from tp4lib.word2vec.settings import StepSettings

POSITIONS = 64  # positions, or rows, that a program works on at a time
NEGATIVES = 128  # whose scores a program of `forward` holds
COLUMNS = 64  # of a tile
# 4 warps: a third fewer instructions than 8, which compute the products of `update` twice. A program then takes half
# of a multiprocessor's registers, so that two run at once. More stages of loads ahead do not fit in shared memory.
LAUNCH = dict(num_warps=4, num_stages=1)
AT_ONCE = 2
PRECISION = "tf32x3"  # products of float32 on tensor cores, three for one: as exact as float32's own


def lacking() -> str | None:
    """Name what Triton needs to launch a kernel and does not find; None where nothing is missing."""
    if importlib.util.find_spec("triton") is None:  # it comes with torch's CUDA builds for Linux
        return "triton"
    if _interpreted():
        return None
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "a C compiler (gcc or clang)"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return "Python.h (of python3-dev)"
    return None


def available(model: CBOW, shared: bool) -> bool:
    """Whether this engine can run: nothing is `lacking`, shared negatives, float32 or bfloat16 parameters on a GPU.

    With ``TRITON_INTERPRET=1`` the kernels run on the CPU, for tests, in float64 as well.
    """
    if not shared or lacking():
        return False
    if model.embeddings.device.type == "cuda":
        return model.embeddings.dtype != torch.float64
    return _interpreted()


def triton_steps(model: CBOW, block: Block, settings: StepSettings) -> tuple[Tensor, int]:
    """As `on_torch.torch_steps`, up to rounding; the loss stays on the device, so that the CPU does not wait for it."""
    # Triton launches on torch's current device, whichever the arrays are on.
    with torch.cuda.device(model.embeddings.device) if model.embeddings.is_cuda else nullcontext():
        return _steps(model, block, settings)


def _steps(model: CBOW, block: Block, settings: StepSettings) -> tuple[Tensor, int]:
    import triton.language as tl

    from tp4lib.word2vec.steps import triton_code as kernels

    E, R = model.embeddings, model.readout
    if len(block) == 0:
        return torch.zeros((), dtype=torch.float64, device=E.device), 0
    dtype = torch.float64 if E.dtype == torch.float64 else torch.float32
    plan = LaunchPlan(block, model.vocab_size, settings, dtype, E.device)
    n, batch, K = model.columns, block.batch_size, block.negatives.shape[1]
    tiles, chunks, wide = -(-n // COLUMNS), -(-batch // POSITIONS), _power(K)
    held = min(wide, NEGATIVES)
    # As many programs of `update` as run at once, as each has a room of its own; about as many of `forward`.
    programs = min(AT_ONCE * _processors(E.device), tiles)
    splits = min(-(-programs // (chunks * -(-K // held))), tiles)
    # Scores of negatives (batch, K), then those of targets (batch,): one tensor, so that ranks meet once a batch.
    partial = torch.zeros(splits, batch * (K + 1), dtype=dtype, device=E.device)
    S = torch.zeros(batch * (K + 1), dtype=dtype, device=E.device)
    room = torch.zeros(programs, 3 * batch + 2 * plan.window, COLUMNS, dtype=dtype, device=E.device)
    # A program of `gradients` holds all K scores of its positions in registers.
    at_once = max(1, min(16, 8192 // wide))
    loss = torch.zeros(block.batches, -(-batch // at_once), dtype=dtype, device=E.device)
    kind = dict(FLOAT=tl.float64 if dtype == torch.float64 else tl.float32)
    precision = PRECISION if dtype == torch.float32 else "ieee"
    tile = dict(POSITIONS=POSITIONS, EDGE=_power(plan.window), COLUMNS=COLUMNS, PRECISION=precision, **kind)
    tile |= LAUNCH
    for i in range(block.batches):
        kernels.forward[(chunks, -(-K // held), splits)](
            E, R, plan.tokens, plan.first, plan.last, plan.member, plan.negatives, partial, i,
            len(block), batch, n, E.stride(0), K, NEGATIVES=held, **tile,
        )  # fmt: skip
        torch.sum(partial, 0, out=S)
        model.shards.sum(S)
        size = min(batch, len(block) - i * batch)  # the last batch may be smaller
        kernels.gradients[(-(-size // at_once),)](
            S, loss, plan.member, plan.weight, plan.rates, i, len(block), batch, K,
            POSITIONS=at_once, NEGATIVES=wide, **kind,
        )  # fmt: skip
        own, context = plan.own, plan.context
        kernels.update[(programs,)](
            E, R, plan.tokens, plan.first, plan.last, plan.member, S, room,
            plan.negatives, plan.weight, plan.hits,
            own.words, own.start, own.members, own.count, own.touches,
            context.words, context.start, context.members, context.count, context.touches,
            plan.shrink_in, plan.shrink_out, plan.input_rate, i, len(block), batch, n,
            E.stride(0), K, plan.window, _seed(block, i, model.shards.rank, model.shards.size),
            SUM=settings.window_gradient == "sum", ROUND=E.dtype == torch.bfloat16, **tile,
        )  # fmt: skip
    return loss.sum(dtype=torch.float64), len(block)


class LaunchPlan:
    """Which rows each batch of a block touches: found on the device, for the whole block at once.

    Attributes:
        tokens, first, last: (positions,) of the block.
        window: the largest distance of a context word.
        negatives: (batches, K) distinct negatives of each batch, then -1; weight: what each counts for.
        member: (positions,) the place of the target among the negatives of its batch, or -1; hits: (batches, K) how
            many targets each negative is.
        own: targets that are no negatives, and the positions that have them.
        context: context words, and the places that have them, from ``window`` places before the batch.
        rates, shrink_in, shrink_out: (batches,) the learning rate, and the logarithms of the factors by which one
            touch shrinks a row.
    """

    def __init__(
        self, block: Block, vocab_size: int, settings: StepSettings, dtype: torch.dtype, device: torch.device
    ) -> None:
        batches, batch, positions = block.batches, block.batch_size, len(block)
        parts = (block.tokens, block.first, block.last, block.negatives)
        self.tokens, self.first, self.last, negatives = _moved(
            [torch.from_numpy(x.reshape(-1)) for x in parts], device
        )
        rates = torch.from_numpy(block.rates)
        shrink = [torch.log1p(-rates * x * settings.wd) for x in (settings.input_rate, 1.0)]
        numbers = [x.to(dtype) for x in (rates, *shrink, torch.full_like(rates, settings.input_rate))]
        self.rates, self.shrink_in, self.shrink_out, self.input_rate = _moved(numbers, device)
        here = np.arange(positions)
        self.window = int(max((here - block.first).max(), (block.last - 1 - here).max()))
        place = torch.arange(batches * batch, dtype=torch.int32, device=device).view(batches, batch)
        inside = place < positions
        at = place.clamp(max=positions - 1)
        target = torch.where(inside, self.tokens[at], vocab_size)

        negatives = negatives.view(batches, -1)
        shared = Groups(negatives, vocab_size, torch.full_like(negatives, block.weight, dtype=dtype))
        self.negatives = shared.words
        self.weight = shared.touches * (shared.words >= 0)
        ordered = torch.where(shared.words >= 0, shared.words, vocab_size)
        # Negatives are sorted, so a binary search says which target is one of them.
        found = torch.searchsorted(ordered, target).clamp(max=ordered.shape[1] - 1)
        member = torch.where(inside & (ordered.gather(1, found) == target), found, -1)
        self.member = member.flatten().to(torch.int32)
        hits = torch.zeros(batches, ordered.shape[1] + 1, dtype=torch.int32, device=device)
        to = torch.where(member >= 0, member, ordered.shape[1])  # one place past the end takes the rest
        hits.scatter_add_(1, to, torch.ones_like(hits[:, :1]).expand_as(member))
        self.hits = hits[:, :-1].contiguous()

        one = torch.ones_like(member, dtype=dtype)
        self.own = Groups(torch.where(member < 0, target, vocab_size), vocab_size, one)
        # Every place near a batch, the positions that see it, and how many of the batch they are.
        j = place[:, :1] + torch.arange(-self.window, batch + self.window, dtype=torch.int32, device=device)
        step = torch.arange(1, self.window + 1, dtype=torch.int32, device=device)
        by = j[:, :, None] + torch.cat([-step, step])
        in_batch = (by >= place[:, :1, None]) & (by < (place[:, :1, None] + batch).clamp(max=positions))
        by = by.clamp(0, positions - 1)
        seen = (in_batch & (self.first[by] <= j[:, :, None]) & (j[:, :, None] < self.last[by])).sum(2)
        words = torch.where(seen > 0, self.tokens[j.clamp(0, positions - 1)], vocab_size)
        self.context = Groups(words, vocab_size, seen.to(dtype))


class Groups:
    """The distinct words in each row of a matrix, and which members of the row have them.

    Args:
        words: (rows, size) int32; ``vocab_size`` stands for no word.
        touches: (rows, size) how often each member counts.

    Attributes:
        words: (rows, size) the distinct words, ascending, then -1; count: (rows,) how many.
        start: (rows, size + 2): the members with distinct word x are ``members[start[x]:start[x + 1]]``.
        members: (rows, size). touches: (rows, size) the sum of those of its members for each distinct word.
    """

    def __init__(self, words: Tensor, vocab_size: int, touches: Tensor) -> None:
        rows, size = words.shape
        ordered, order = words.sort(dim=1, stable=True)  # stable: members in one order, sums in one order
        new = torch.ones_like(ordered, dtype=torch.bool)
        new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        # One place past the end takes what is not new.
        to = torch.where(new, new.cumsum(1) - 1, size + 1)
        place = torch.arange(size, dtype=torch.int32, device=words.device).expand(rows, size)
        self.start = torch.full((rows, size + 2), size, dtype=torch.int32, device=words.device)
        self.start.scatter_(1, to, place)
        named = torch.where(ordered < vocab_size, ordered, -1)
        distinct = torch.full_like(self.start, -1).scatter_(1, to, named)
        self.words = distinct[:, :size].contiguous()
        self.count = (new & (ordered < vocab_size)).sum(1, dtype=torch.int32)
        self.members = order.to(torch.int32)
        # Sums over groups are differences of a running sum, at the places where groups start.
        summed = torch.nn.functional.pad(touches.gather(1, order).cumsum(1), (1, 0))
        self.touches = summed.gather(1, self.start[:, :-1].long()).diff(dim=1)


def _moved(parts: list[Tensor], device: torch.device) -> list[Tensor]:
    """Move tensors to the device by one asynchronous copy; each begins at a multiple of 64 numbers.

    Triton compiles a kernel for addresses that are multiples of 16 bytes, and another for each that is not.
    """
    room = [-(-len(x) // 64) * 64 for x in parts]
    together = torch.cat([torch.nn.functional.pad(x, (0, more - len(x))) for x, more in zip(parts, room)])
    if device.type == "cuda":
        together = together.pin_memory()
    moved = together.to(device, non_blocking=True).split(room)
    return [x[: len(part)] for x, part in zip(moved, parts)]


def _seed(block: Block, batch: int, rank: int, ranks: int) -> int:
    """The seed of the rounding: different for each batch and rank, and even, because the embeddings take the next."""
    return (block.seed + 0x9E3779B9 * (batch * ranks + rank)) % (1 << 30) * 2


def _power(x: int) -> int:
    return max(16, 1 << (x - 1).bit_length())


@functools.cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"
