"""A step recorded as a CUDA graph: for steps of many small operations, where most time goes into launching them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_TRIALS = 3  # runs before recording, in which libraries set up what may not be recorded


class Recorded:
    """A function of tensors, recorded once and then launched as a whole.

    Args:
        step: takes tensors of always the same shapes and returns a tensor. It may change ``state``, in place, and
            nothing else; it must not make the host wait, nor depend on numbers of the host that change.
        inputs: examples of its arguments, on a GPU.
        state: what it changes; as before when this returns.
    """

    def __init__(
        self, step: Callable[..., Tensor], inputs: Sequence[Tensor], state: Sequence[Tensor]
    ) -> None:
        self._device = inputs[0].device
        self._inputs = [x.clone() for x in inputs]
        before = [x.clone() for x in state]
        with torch.cuda.device(self._device):
            aside, here = torch.cuda.Stream(), torch.cuda.current_stream()
            aside.wait_stream(here)
            with torch.cuda.stream(aside):
                for _ in range(_TRIALS):
                    step(*self._inputs)
            here.wait_stream(aside)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._result = step(*self._inputs)
        for x, old in zip(state, before):
            x.copy_(old)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """``step(*inputs)``."""
        with torch.cuda.device(self._device):
            for own, given in zip(self._inputs, inputs, strict=True):
                own.copy_(given)
            self._graph.replay()
            return self._result.clone()  # the next call writes over it
