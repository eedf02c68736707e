"""Pieces that encoder and decoder share: attention, MLP, fixed positions, patches.

Shapes: B batch, L sequence, D width, N heads, H head width; C H W image.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def attend(qkv_BLD3: Tensor, heads: int, key_bias_BL: Tensor | None = None) -> Tensor:
    """Self-attention over L from concatenated q, k, v [B, L, 3·D]; returns [B, L, D].

    `key_bias_BL` is added to the scores of each key: 0 keeps it, -inf removes it.
    """
    batch, length, width3 = qkv_BLD3.shape
    head_width = width3 // 3 // heads
    q, k, v = qkv_BLD3.view(batch, length, 3, heads, head_width).permute(2, 0, 3, 1, 4)
    return attend_heads(q, k, v, key_bias_BL)


def attend_heads(q_BNLH: Tensor, k_BNLH: Tensor, v_BNLH: Tensor, key_bias_BL: Tensor | None = None) -> Tensor:
    """Attention with the heads split, for as many queries as there are; returns [B, L, N·H]."""
    if q_BNLH.device.type == "cpu":
        out_BNLH = _plain_attention(q_BNLH, k_BNLH, v_BNLH, key_bias_BL)
    else:
        bias = None if key_bias_BL is None else key_bias_BL[:, None, None, :].to(q_BNLH.dtype)
        out_BNLH = F.scaled_dot_product_attention(q_BNLH, k_BNLH, v_BNLH, attn_mask=bias)
    return out_BNLH.transpose(1, 2).flatten(2)


def _plain_attention(q: Tensor, k: Tensor, v: Tensor, key_bias_BL: Tensor | None) -> Tensor:
    # On CPU the backward of the fused kernel in bf16 costs several times these plain products.
    # baddbmm scales inside the product.
    q, k, v_flat = (x.flatten(0, 1) for x in (q, k, v))
    scores = torch.baddbmm(q.new_empty(()), q, k.transpose(1, 2), beta=0, alpha=q.shape[-1] ** -0.5)
    if key_bias_BL is not None:
        heads = v.shape[1]
        scores = scores + key_bias_BL.repeat_interleave(heads, 0)[:, None].to(scores.dtype)
    return (scores.softmax(-1) @ v_flat).unflatten(0, v.shape[:2])


class MLP(nn.Sequential):
    """Linear, GELU (exact, or SD3's tanh form), linear; four times as wide within, as SD3's and DiT's."""

    def __init__(self, width: int, activation: str) -> None:
        hidden = 4 * width
        gelu = nn.GELU(approximate="tanh" if activation == "gelu_tanh" else "none")
        super().__init__(nn.Linear(width, hidden), gelu, nn.Linear(hidden, width))


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision as float32; float64 stays, so that a float64 model computes in float64 throughout."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def sincos_1d(positions_L: Tensor, width: int, max_period: float = 10_000.0) -> Tensor:
    """Sinusoidal features [L, width] of positions: cosines first, then sines (SD3's order)."""
    half = width // 2
    dtype, device = torch.get_default_dtype(), positions_L.device
    rates = torch.exp(-math.log(max_period) * torch.arange(half, dtype=dtype, device=device) / half)
    angles = positions_L.to(dtype)[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def sincos_2d(yx_L2: Tensor, width: int, max_period: float) -> Tensor:
    """Sinusoidal features [L, width] of points: half for the row, half for the column."""
    return torch.cat([sincos_1d(axis_L, width // 2, max_period) for axis_L in yx_L2.unbind(-1)], dim=-1)


def grid_points(side: int) -> Tensor:
    """Rows and columns [side², 2] of a square grid, row by row."""
    return torch.cartesian_prod(torch.arange(side), torch.arange(side)).to(torch.get_default_dtype())


def patchify(x_BCHW: Tensor, patch: int) -> Tensor:
    """[B, C, H, W] -> [B, (H/p)·(W/p), C·p·p], patches row by row."""
    batch, channels, height, width = x_BCHW.shape
    rows, columns = height // patch, width // patch
    grid = x_BCHW.view(batch, channels, rows, patch, columns, patch)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, channels * patch * patch)


def unpatchify(x_BLP: Tensor, patch: int, channels: int) -> Tensor:
    """The inverse of `patchify` for a square image."""
    side = math.isqrt(x_BLP.shape[1])
    grid = x_BLP.view(x_BLP.shape[0], side, side, channels, patch, patch)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(x_BLP.shape[0], channels, side * patch, side * patch)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype autocast computes in on this device, or the tensor's own where autocast is off.

    Keeping the residual stream in it halves the memory traffic of all that is not a matrix product.
    """
    device = x.device.type
    enabled = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if enabled else x.dtype
