"""What all engines of MAML share: their rates, the clipped step and how they are scored."""

import torch
from torch import nn

from tp4lib.base.errors import InputError
from tp4lib.data.few_shot import Batch


class Learner:
    """A model that adapts to a task and learns from a meta-batch of them: the base of every engine here.

    Args:
        network: trained in place (None where an engine keeps its own state).
        inner_lr: epsilon, rate of the adaptation.
        lr: outer rate.
        clip: the outer gradient, **summed** over tasks, is scaled down to this global norm (None: no clipping).
        inner_steps: adaptation steps a task while training.
    """

    recordable = False
    """Whether `outer_step` may become a CUDA graph (`tp4lib.base.recorded`): static shapes, and no wait of the host."""

    def __init__(
        self,
        network: nn.Module | None = None,
        *,
        inner_lr: float = 0.4,
        lr: float = 0.1,
        clip: float | None = 0.5,
        inner_steps: int = 1,
    ) -> None:
        self.network = network
        self.inner_lr, self.lr, self.clip, self.inner_steps = inner_lr, lr, clip, inner_steps

    def outer_step(self, batch: Batch) -> torch.Tensor:
        """One meta-step on a batch of tasks; returns the mean query loss before it (a scalar, still on the device)."""
        raise NotImplementedError

    def predict(self, batch: Batch, inner_steps: int = 1) -> torch.Tensor:
        """Query logits of each task after ``inner_steps`` steps of adaptation: ``(T, Q, o)``."""
        raise NotImplementedError

    def evaluate(self, batch: Batch, inner_steps: int = 1) -> torch.Tensor:
        """Query accuracy of each task after ``inner_steps`` steps of adaptation: ``(T,)`` in [0, 1]."""
        logits = self.predict(batch, inner_steps)
        if not logits.isfinite().all():
            raise InputError(
                "the logits of a task are not finite after its adaptation; expected finite numbers; "
                "try a smaller --lr, --sigma-in or --sigma-out"
            )
        return (logits.argmax(-1) == batch.y[:, batch.supports :]).float().mean(1)  # over a task's queries

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All that training changes."""
        return {name: value.detach() for name, value in self.network.state_dict().items()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Put what `state_dict` gave back."""
        self.network.load_state_dict(state)

    def clip_scale(self, norm: torch.Tensor) -> torch.Tensor | float:
        """What to multiply a gradient of this norm by so that its norm is at most ``clip``."""
        return 1.0 if self.clip is None else (self.clip / (norm + 1e-6)).clamp(max=1.0)
