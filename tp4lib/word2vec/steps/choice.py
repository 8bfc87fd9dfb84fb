"""Which engine trains a model: the one asked for, or the first that can run."""

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch

from tp4lib.base import jit
from tp4lib.base.errors import InputError
from tp4lib.word2vec import search
from tp4lib.word2vec.blocks import Sampler
from tp4lib.word2vec.model import CBOW
from tp4lib.word2vec.settings import StepSettings
from tp4lib.word2vec.steps import on_numba as fast
from tp4lib.word2vec.steps import on_triton as gpu
from tp4lib.word2vec.steps.on_torch import torch_steps

_ROUND = 8  # blocks that a GPU trains on between two looks at the loss
_NEEDS = {
    "numba": "numba, one rank on a CPU, float32 or float64, and shared negatives or batches of 1",
    "triton": "triton and a C compiler, a GPU, float32 or bfloat16, and shared negatives",
}


class Engine(NamedTuple):
    """How blocks are trained on.

    Attributes:
        steps: the function that trains on a block, and returns its loss and positions.
        blocks: how many blocks make a round; at_once: how many of them are trained on at the same time.
        prepare: compiles what is needed, outside of what is timed; does not change the model.
        looks: whether the steps themselves refuse parameters that are no longer finite.
    """

    steps: Callable[..., tuple[float | torch.Tensor, int]]
    blocks: int = 1
    at_once: int = 1
    prepare: Callable[[CBOW, Sampler, StepSettings], object] = lambda model, sampler, step: None
    looks: bool = False


def _compile(model: CBOW, sampler: Sampler, step: StepSettings) -> None:
    print("tp4: compiling the kernels, once on this machine ...", file=sys.stderr, flush=True)
    block = sampler.block(0, 0)
    gpu.triton_steps(model, replace(block, rates=0 * block.rates), step)  # at rate 0 nothing changes


def _load(model: CBOW, sampler: Sampler, step: StepSettings) -> None:
    with jit.announced():
        fast.load(model)
        search.load()


def choose(engine: str, model: CBOW, sampler: Sampler, threads: int | None) -> Engine:
    """The engine asked for, or the first that can run.

    Args:
        threads: None for all cores, which share each step; else the number of blocks trained on at the same time.
    """
    shared = sampler.shared is not None
    fits = {
        "numba": model.shards.size == 1 and fast.available(model, sampler.batch_size, shared),
        "triton": gpu.available(model, shared),
        "torch": True,
    }
    if engine == "auto":  # Triton's interpreter is for tests: it has to be asked for
        on_gpu = model.embeddings.device.type == "cuda"
        engine = next(name for name, can in fits.items() if can and (on_gpu or name != "triton"))
        if on_gpu and engine == "torch" and shared and model.shards.rank == 0 and (missing := gpu.lacking()):
            print(
                f"tp4: the Triton kernels need {missing}; going on with torch's step, which is many times slower",
                file=sys.stderr,
            )
    if engine not in fits:
        raise InputError(f"unknown engine {engine!r}; expected auto, numba, triton or torch; try auto")
    if not fits[engine]:
        missing = gpu.lacking() if engine == "triton" else None
        but = f", but there is no {missing}" if missing else ""
        raise InputError(
            f"the {engine} engine needs {_NEEDS[engine]}; expected all of it{but}; try engine='torch'"
        )
    if engine == "numba":
        team = fast.Team(1 if threads else torch.get_num_threads())
        return Engine(team, threads or 1, threads or 1, _load, looks=True)
    if engine == "triton":
        # The CPU draws the next blocks while the GPU works on the first; they meet once a round.
        return Engine(gpu.triton_steps, _ROUND, prepare=_compile)
    return Engine(torch_steps)
