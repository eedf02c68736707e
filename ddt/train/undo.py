"""Taking back what a step moved beside the weights, such as a codebook, where the step is not finite."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ddt.train.state import persistent_buffers


class Undo:
    """The buffers that are part of a model's state, as they were before a step.

    A forward pass moves some of them before its loss is known, and on an accelerator that is not read after
    every step. So all are kept, a few megabytes for a codebook, and the device chooses.
    """

    def __init__(self, model: nn.Module) -> None:
        self.buffers = list(persistent_buffers(model).values())
        self._kept: list[tuple[int, Tensor]] = []

    @torch.no_grad()
    def keep(self) -> None:
        """Remembers the buffers as they are now."""
        self._kept = [(buffer._version, buffer.clone()) for buffer in self.buffers]

    @torch.no_grad()
    def undo(self, broken: Tensor) -> None:
        """Writes back what was written since, where the scalar `broken` is not 0."""
        for buffer, (version, before) in zip(self.buffers, self._kept, strict=True):
            if buffer._version != version:  # a flag that was not would have to be read from the device again
                buffer.copy_(torch.where(broken.bool(), before, buffer))
        self._kept = []
