"""The encoder: image patches and T learned queries, two transformers joined only in attention.

The query stream's output is the token sequence before quantization (paper section 3.2, "encoder").
Shapes: B batch, T queries, L image patches, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ddt.tokenizer.layers import (
    MLP,
    attend,
    compute_dtype,
    grid_points,
    patchify,
    sincos_1d,
    sincos_2d,
)


class EncoderStream(nn.Module):
    """One stream's half of a block: its own norms, projections and MLP."""

    def __init__(self, width: int, activation: str, attention_only: bool = False) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        if attention_only:
            return
        self.project = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width, activation)

    def before(self, x_BLD: Tensor) -> Tensor:
        return self.qkv(self.norm_attention(x_BLD))

    def after(self, x_BLD: Tensor, attended_BLD: Tensor) -> Tensor:
        x_BLD = x_BLD + self.project(attended_BLD)
        return x_BLD + self.mlp(self.norm_mlp(x_BLD))


class EncoderBlock(nn.Module):
    """Joint attention over both streams. In the last block nothing reads the image stream's result."""

    def __init__(self, width: int, heads: int, activation: str, last: bool) -> None:
        super().__init__()
        self.heads, self.last = heads, last
        self.query = EncoderStream(width, activation)
        self.image = EncoderStream(width, activation, attention_only=last)

    def forward(self, query_BTD: Tensor, image_BLD: Tensor) -> tuple[Tensor, Tensor]:
        num_queries = query_BTD.shape[1]
        qkv = torch.cat([self.query.before(query_BTD), self.image.before(image_BLD)], dim=1)
        attended = attend(qkv, self.heads)
        query_BTD = self.query.after(query_BTD, attended[:, :num_queries])
        if not self.last:
            image_BLD = self.image.after(image_BLD, attended[:, num_queries:])
        return query_BTD, image_BLD


class Encoder(nn.Module):
    """Images (or latents) [B, C, S, S] to T vectors of `code_dim` numbers, one for each of T learned queries.

    A query has a place in the token sequence, which is the diffusion's time, and none in the image.
    """

    image_positions: Tensor
    query_positions: Tensor

    def __init__(
        self,
        *,
        side: int,
        channels: int,
        patch: int,
        num_tokens: int,
        code_dim: int,
        depth: int,
        width: int,
        heads: int,
        activation: str,
        position_period: float,
    ) -> None:
        super().__init__()
        self.patch = patch
        self.embed = nn.Linear(channels * patch * patch, width)
        # As large as the positions, so that content counts from the first step (torch's default is a third).
        nn.init.normal_(self.embed.weight, std=(3 / self.embed.in_features) ** 0.5)
        grid = grid_points(side // patch)
        self.register_buffer("image_positions", sincos_2d(grid, width, position_period), persistent=False)
        positions_TD = sincos_1d(torch.arange(num_tokens), width, position_period)
        self.register_buffer("query_positions", positions_TD, persistent=False)
        # As large as the positions: queries that differ from the start learn faster than nearly equal ones.
        self.queries = nn.Parameter(torch.randn(num_tokens, width))
        self.blocks = nn.ModuleList(
            EncoderBlock(width, heads, activation, last=i == depth - 1) for i in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.to_code = nn.Linear(width, code_dim)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, S, S] -> z [B, T, code_dim], not yet normalised."""
        dtype = compute_dtype(x_BCHW)
        image_BLD = (self.embed(patchify(x_BCHW, self.patch)) + self.image_positions).to(dtype)
        query_BTD = (self.queries + self.query_positions).to(dtype).expand(len(x_BCHW), -1, -1)
        for block in self.blocks:
            query_BTD, image_BLD = block(query_BTD, image_BLD)
        return self.to_code(self.norm(query_BTD))
