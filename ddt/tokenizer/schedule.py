"""Time and token prefix: how many of V_1..V_T the decoder sees at time t (paper section 3.1).

t = 1 is pure noise, where all T tokens are needed; as t falls the image itself shows more, and the coarse
tokens at the end of the sequence are hidden first. Shapes: B batch, T tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

# ceil and floor act at this distance from a whole number of tokens: t = i/n in float32 is off by up to 6e-8,
# which T = 2,048 multiplies to about 1e-4 tokens.
TOLERANCE = 1e-3


class TokenSchedule:
    """k(t), and the mask of visible tokens. Linear when no stages are given."""

    def __init__(
        self,
        num_tokens: int,
        stage_ends: tuple[float, ...] = (),
        stage_tokens: tuple[int, ...] = (),
        prefix: str = "ceil",
    ) -> None:
        self.num_tokens = num_tokens
        self.prefix = prefix
        self._ends = (0.0, *(stage_ends or (1.0,)))
        counts = stage_tokens or (num_tokens,)
        self._starts = [sum(counts[:i]) for i in range(len(counts) + 1)]

    def position(self, t_B: Tensor) -> Tensor:
        """Where time t lies on the token axis, in [0, T], before rounding; float64."""
        t_B = t_B.double().clamp(0, 1)
        position_B = torch.zeros_like(t_B)
        for i, (start, end) in enumerate(zip(self._ends, self._ends[1:], strict=False)):
            inside_B = ((t_B - start) / (end - start)).clamp(0, 1)
            position_B = position_B + inside_B * (self._starts[i + 1] - self._starts[i])
        return position_B

    def num_visible(self, t_B: Tensor) -> Tensor:
        """k(t) in 0..T, int64. `ceil`: ⌈position⌉, so k(0) = 0; `inclusive`: ⌊position⌋ + 1, at most T."""
        position_B = self.position(t_B)
        if self.prefix == "ceil":
            k_B = torch.ceil(position_B - TOLERANCE)
        else:
            k_B = torch.floor(position_B + TOLERANCE) + 1
        return k_B.clamp(0, self.num_tokens).long()

    def visible(self, t_B: Tensor, at_most_B: Tensor | None = None) -> Tensor:
        """Boolean [B, T]: True where V_i belongs to the prefix at t, cut to `at_most_B` tokens if given."""
        k_B = self.num_visible(t_B)
        if at_most_B is not None:
            k_B = torch.minimum(k_B, at_most_B)
        return prefix_mask(k_B, self.num_tokens)


def prefix_mask(k_B: Tensor, num_tokens: int) -> Tensor:
    """Boolean [B, T] with the first k of each row True."""
    return torch.arange(num_tokens, device=k_B.device) < k_B[:, None]


def draw_cut(
    batch: int,
    num_tokens: int,
    tail_dropout: float,
    condition_dropout: float,
    generator: torch.Generator | None,
    device: torch.device,
) -> Tensor | None:
    """How many tokens at most each sample sees [B]; None: all of them.

    A share `tail_dropout` is cut at a uniformly drawn length, a share `condition_dropout` sees none.
    """
    if tail_dropout == 0 and condition_dropout == 0:
        return None
    drawn_on = generator.device if generator is not None else device
    kind_B, length_B = torch.rand(2, batch, generator=generator, device=drawn_on).to(device)
    cut_B = torch.where(kind_B < tail_dropout, (length_B * (num_tokens + 1)).long(), num_tokens)
    return torch.where(kind_B >= 1 - condition_dropout, 0, cut_B)
