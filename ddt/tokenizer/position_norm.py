"""Normalisation of the encoder's outputs at each token position, so that all positions share the codebook.

Shapes: B batch, T tokens, d code dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ddt.tokenizer.ranks import mean_over_ranks


class PositionNorm(nn.Module):
    """Mean one and unit variance over the batch for each position and dimension; averages in evaluation.

    Not in the paper. An encoder's outputs differ more between positions than between images, so on the bare
    sphere each position has only its own corner of the codebook: in early training K/T codes. Centred alike,
    all positions share it. The mean is one, not zero: around zero the unit sphere would drop the length of z
    and blow up what is small. Statistics are those of the global batch, gradients included. With a commitment
    weight of 1 it collapsed (measured around zero: 2 codes a position); use 0.1 or less.
    """

    mean_Td: Tensor
    variance_Td: Tensor
    updates: Tensor

    def __init__(self, num_tokens: int, code_dim: int, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("mean_Td", torch.zeros(num_tokens, code_dim))
        self.register_buffer("variance_Td", torch.ones(num_tokens, code_dim))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def forward(self, z_BTd: Tensor, use_batch: bool) -> Tensor:
        if not use_batch:
            return self._scale(z_BTd, self.mean_Td, self.variance_Td)
        mean_Td = mean_over_ranks(z_BTd.mean(0))
        variance_Td = mean_over_ranks((z_BTd - mean_Td).square().mean(0))
        with torch.no_grad():
            self.updates += 1
            # A plain mean at first, so that the arbitrary start is forgotten at once.
            weight = torch.clamp(self.updates.to(mean_Td.dtype).reciprocal(), min=1 - self.decay)
            self.mean_Td.lerp_(mean_Td, weight)
            self.variance_Td.lerp_(variance_Td, weight)
        return self._scale(z_BTd, mean_Td, variance_Td)

    @staticmethod
    def _scale(z_BTd: Tensor, mean_Td: Tensor, variance_Td: Tensor) -> Tensor:
        return 1 + (z_BTd - mean_Td) * torch.rsqrt(variance_Td + 1e-5)
