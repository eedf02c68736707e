"""The encoder: image patches and T learned queries, two transformers joined only in attention.

The query stream's output is the token sequence before quantization (paper section 3.2, "encoder").
Shapes: B batch, T queries, L image patches, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddt.tokenizer.layers import (
    MLP,
    align_attention,
    attend,
    compute_dtype,
    grid_points,
    patchify,
    region_points,
    sincos_1d,
    sincos_2d,
)


class EncoderStream(nn.Module):
    """One stream's half of a block: its own norms, projections and MLP."""

    def __init__(self, width: int, mlp_ratio: float, activation: str, attention_only: bool = False) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        if attention_only:
            return
        self.project = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width, mlp_ratio, activation)

    def before(self, x_BLD: Tensor, places_LD: Tensor | None) -> Tensor:
        qkv_BLD3 = self.qkv(self.norm_attention(x_BLD))
        if places_LD is None:
            return qkv_BLD3
        # In q and k alone: what attention collects then says nothing of where it was.
        width = x_BLD.shape[-1]
        qk_LD2 = F.linear(places_LD, self.qkv.weight[: 2 * width])
        return qkv_BLD3 + F.pad(qk_LD2, (0, width)).to(qkv_BLD3.dtype)

    def after(self, x_BLD: Tensor, attended_BLD: Tensor) -> Tensor:
        x_BLD = x_BLD + self.project(attended_BLD)
        return x_BLD + self.mlp(self.norm_mlp(x_BLD))


class EncoderBlock(nn.Module):
    """Joint attention over both streams. In the last block nothing reads the image stream's result."""

    def __init__(
        self, width: int, heads: int, mlp_ratio: float, activation: str, last: bool, regional: bool
    ) -> None:
        super().__init__()
        self.heads, self.last = heads, last
        self.query = EncoderStream(width, mlp_ratio, activation)
        self.image = EncoderStream(width, mlp_ratio, activation, attention_only=last)
        if regional:
            align_attention(self.query.qkv, self.image.qkv)

    def forward(
        self,
        query_BTD: Tensor,
        image_BLD: Tensor,
        query_places_TD: Tensor | None = None,
        image_places_LD: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        num_queries = query_BTD.shape[1]
        query_qkv = self.query.before(query_BTD, query_places_TD)
        qkv = torch.cat([query_qkv, self.image.before(image_BLD, image_places_LD)], dim=1)
        attended = attend(qkv, self.heads)
        query_BTD = self.query.after(query_BTD, attended[:, :num_queries])
        if not self.last:
            image_BLD = self.image.after(image_BLD, attended[:, num_queries:])
        return query_BTD, image_BLD


class Encoder(nn.Module):
    """Images (or latents) [B, C, S, S] to T vectors of `code_dim` numbers.

    `shared_query` departs from the paper: all tokens start from one learned query, each at the centre of its
    region, and positions enter queries and keys alone. Content that moves by a region then moves its codes by
    a token, up to the border, so that a language model need not learn it again for every place.
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
        mlp_ratio: float,
        activation: str,
        position_period: float,
        regional_blocks: int,
        shared_query: bool,
    ) -> None:
        super().__init__()
        self.patch, self.num_tokens, self.shared_query = patch, num_tokens, shared_query
        self.embed = nn.Linear(channels * patch * patch, width)
        # As large as the positions, so that content counts from the first step (torch's default is a third).
        nn.init.normal_(self.embed.weight, std=(3 / self.embed.in_features) ** 0.5)
        grid = grid_points(side // patch)
        self.register_buffer("image_positions", sincos_2d(grid, width, position_period), persistent=False)
        places_TD = sincos_2d(region_points(num_tokens, side // patch), width, position_period)
        positions_TD = sincos_1d(torch.arange(num_tokens), width, position_period)
        # As large as the positions: queries that differ from the start learn faster than nearly equal ones.
        queries_TD = torch.randn(1 if shared_query else num_tokens, width)
        if regional_blocks and not shared_query:
            queries_TD = places_TD - positions_TD  # with `align_attention`, query i attends around point i
        self.register_buffer("query_positions", places_TD if shared_query else positions_TD, persistent=False)
        self.queries = nn.Parameter(queries_TD)
        self.blocks = nn.ModuleList(
            EncoderBlock(
                width, heads, mlp_ratio, activation, last=i == depth - 1, regional=i < regional_blocks
            )
            for i in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.to_code = nn.Linear(width, code_dim)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, S, S] -> z [B, T, code_dim], not yet normalised."""
        dtype = compute_dtype(x_BCHW)
        image_BLD: Tensor = self.embed(patchify(x_BCHW, self.patch))
        query_TD: Tensor = self.queries
        places: tuple[Tensor | None, Tensor | None] = self.query_positions, self.image_positions
        if not self.shared_query:
            image_BLD, query_TD = image_BLD + self.image_positions, query_TD + self.query_positions
            places = None, None  # added once, as in the paper
        image_BLD = image_BLD.to(dtype)
        query_BTD = query_TD.to(dtype).expand(len(x_BCHW), self.num_tokens, -1)
        for block in self.blocks:
            query_BTD, image_BLD = block(query_BTD, image_BLD, *places)
        return self.to_code(self.norm(query_BTD))
