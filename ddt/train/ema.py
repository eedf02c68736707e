"""An exponential moving average of a model's parameters."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ddt.train.parallel import local


class Ema:
    """Keeps float32 averages of the trainable parameters of `model`; buffers are the model's own business."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.weights = {n: p.detach().float().clone() for n, p in self._parameters.items()}

    @torch.no_grad()
    def update(self, step: int, broken: Tensor) -> None:
        """Moves the average towards the parameters after optimizer step `step` (from 0).

        Not where the scalar `broken` is 1, which stays on the device.
        """
        # A constant 0.999 would still hold 37 % of the random initial weights after 1,000 steps.
        decay = min(self.decay, (1 + step) / (10 + step))
        current = [local(p.detach()).float() for p in self._parameters.values()]
        averages, weight = map(local, self.weights.values()), (1 - decay) * (1 - broken)
        torch._foreach_lerp_(list(averages), current, [weight] * len(current))

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Writes the averaged weights into `model`, which has the parameters this average was made from."""
        parameters = dict(model.named_parameters())
        for name, weight in self.weights.items():
            parameters[name].copy_(weight)

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Takes the averages of a checkpoint; ValueError where the names differ."""
        if weights.keys() != self.weights.keys():
            raise ValueError(f"EMA weights do not fit the model: {min(weights.keys() ^ self.weights.keys())}")
        for name, weight in weights.items():
            self.weights[name].copy_(weight)
