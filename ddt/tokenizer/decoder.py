"""The decoder: SD3's MMDiT with the token sequence in place of the text (paper section 3.2, "decoder").

Both streams are modulated by the timestep (adaLN-zero) and joined in attention; there is no pooled embedding.
With `token_stream: separate` the tokens see neither image nor time, and are read once for all steps.
Names, orders and norms follow SD3-medium, so that its image stream can be loaded.
Shapes: B batch, T tokens, L image patches, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddt.tokenizer.flow import best_guess, faded, guess_error
from ddt.tokenizer.layers import (
    MLP,
    at_least_float32,
    attend_heads,
    compute_dtype,
    grid_points,
    patchify,
    sincos_1d,
    sincos_2d,
    unpatchify,
)

TIME_FEATURES = 256
KeysValues = tuple[Tensor, Tensor]  # of tokens in one block, [B, N, T, H] each


class TimeEmbedding(nn.Module):
    """t in [0, 1] -> [B, D]: sinusoid of 1000·t, then an MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t_B: Tensor) -> Tensor:
        return self.mlp(sincos_1d(1000 * t_B, TIME_FEATURES))


def modulate(x_BLD: Tensor, shift_BD: Tensor, scale_BD: Tensor) -> Tensor:
    """adaLN: normalise without learned weights, then scale and shift by the condition."""
    normed = F.layer_norm(x_BLD, x_BLD.shape[-1:], eps=1e-6)
    return torch.addcmul(shift_BD[:, None], normed, 1 + scale_BD[:, None])


class DecoderStream(nn.Module):
    """One stream's half of a block. `attention_only`: in the last block nothing reads the token stream."""

    def __init__(
        self,
        width: int,
        heads: int,
        activation: str,
        qk_norm: bool,
        gate_start: float,
        attention_only: bool = False,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.attention_only = attention_only
        self.modulation = nn.Linear(width, (2 if attention_only else 6) * width)
        self.qkv = nn.Linear(width, 3 * width)
        head_width = width // heads
        self.norm_q = nn.RMSNorm(head_width, eps=1e-6) if qk_norm else None
        self.norm_k = nn.RMSNorm(head_width, eps=1e-6) if qk_norm else None
        if not attention_only:
            self.project = nn.Linear(width, width)
            self.mlp = MLP(width, activation)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        if not attention_only:
            self._open_gates(gate_start)

    @torch.no_grad()
    def _open_gates(self, gate_start: float) -> None:
        _, _, attention, _, _, mlp = self.modulation.bias.chunk(6)
        attention.fill_(gate_start)
        mlp.fill_(gate_start)

    def before(self, x_BLD: Tensor, condition_BD: Tensor) -> tuple[Tensor, list[Tensor]]:
        """q, k, v as [3, B, N, L, H], and the modulation that `after` needs."""
        shift, scale, *rest = self.modulation(condition_BD).chunk(2 if self.attention_only else 6, dim=-1)
        batch, length, width = x_BLD.shape
        qkv = self.qkv(modulate(x_BLD, shift, scale)).view(batch, length, 3, self.heads, width // self.heads)
        if self.norm_q is not None and self.norm_k is not None:
            q, k, v = qkv.unbind(2)
            qkv = torch.stack([self.norm_q(q).to(v.dtype), self.norm_k(k).to(v.dtype), v], dim=2)
        return qkv, rest

    def after(self, x_BLD: Tensor, attended_BLD: Tensor, modulation: list[Tensor]) -> Tensor:
        gate_attention, shift, scale, gate_mlp = (m[:, None] for m in modulation)
        x_BLD = torch.addcmul(x_BLD, gate_attention, self.project(attended_BLD))
        return torch.addcmul(x_BLD, gate_mlp, self.mlp(modulate(x_BLD, shift[:, 0], scale[:, 0])))


class DecoderBlock(nn.Module):
    """SD3's joint block: image and token stream, each with its own weights, one attention."""

    def __init__(
        self,
        width: int,
        heads: int,
        activation: str,
        qk_norm: bool,
        gate_start: float,
        last: bool,
    ) -> None:
        super().__init__()
        self.last = last
        shared = (width, heads, activation, qk_norm, gate_start)
        self.image = DecoderStream(*shared)
        self.token = DecoderStream(*shared, attention_only=last)

    def forward(
        self, image_BLD: Tensor, token_BTD: Tensor, condition_BD: Tensor, key_bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        length = image_BLD.shape[1]
        image_qkv, image_modulation = self.image.before(image_BLD, condition_BD)
        token_qkv, token_modulation = self.token.before(token_BTD, condition_BD)
        q, k, v = torch.cat([image_qkv, token_qkv], dim=1).permute(2, 0, 3, 1, 4)
        attended = attend_heads(q, k, v, key_bias)
        image_BLD = self.image.after(image_BLD, attended[:, :length], image_modulation)
        if not self.last:
            token_BTD = self.token.after(token_BTD, attended[:, length:], token_modulation)
        return image_BLD, token_BTD

    def read(self, token_BTD: Tensor, condition_1D: Tensor) -> tuple[Tensor, KeysValues]:
        """The token stream alone, each token seeing those before it; and its keys and values for `draw`."""
        qkv, modulation = self.token.before(token_BTD, condition_1D)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if not self.last:
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
            token_BTD = self.token.after(token_BTD, attended, modulation)
        return token_BTD, (k, v)

    def draw(
        self, image_BLD: Tensor, tokens: KeysValues, condition_BD: Tensor, key_bias: Tensor | None
    ) -> Tensor:
        """The image stream, attending to itself and to tokens that were read before."""
        qkv, modulation = self.image.before(image_BLD, condition_BD)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        k, v = (torch.cat(pair, dim=2) for pair in zip((k, v), tokens, strict=True))
        return self.image.after(image_BLD, attend_heads(q, k, v, key_bias), modulation)


class Decoder(nn.Module):
    """Noisy image, time and the visible prefix of codes to the network's prediction (x0 or velocity)."""

    image_positions: Tensor
    token_positions: Tensor

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
        qk_norm: bool,
        hidden_tokens: str,
        token_stream: str,
        data_std: float | None,
        position_period: float,
        gate_start: float,
        stored_positions: bool,
    ) -> None:
        super().__init__()
        self.patch, self.channels, self.separate = patch, channels, token_stream == "separate"
        self.hidden_tokens, self.data_std = hidden_tokens, data_std
        self.embed = nn.Linear(channels * patch * patch, width)
        self.embed_token = nn.Linear(code_dim, width)
        self.embed_time = TimeEmbedding(width)
        grid = side // patch
        image_positions = sincos_2d(grid_points(grid), width, position_period)
        token_positions = sincos_1d(torch.arange(num_tokens), width, position_period)
        self.register_buffer("image_positions", image_positions, persistent=stored_positions)
        self.register_buffer("token_positions", token_positions, persistent=False)
        self.blocks = nn.ModuleList(
            DecoderBlock(
                width,
                heads,
                activation,
                qk_norm,
                gate_start,
                last=i == depth - 1,
            )
            for i in range(depth)
        )
        self.modulation = nn.Linear(width, 2 * width)
        self.project = nn.Linear(width, channels * patch * patch)
        for layer in (self.modulation, self.project):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        x_BCHW: Tensor,
        t_B: Tensor,
        codes_BTd: Tensor,
        visible_BT: Tensor,
        tokens: list[KeysValues] | None = None,
    ) -> Tensor:
        """Prediction [B, C, S, S] in float32.

        x is the noisy image at t_B, codes_BTd the unit code vectors of which visible_BT are given. `tokens`
        is what `read_tokens` gave for the codes where the token stream is separate (None: computed here).
        """
        if self.data_std is None:
            return self._network(x_BCHW, t_B, codes_BTd, visible_BT, tokens)
        # Not in the paper, whose decoder predicts x_0 from x_t: the network says what the linear guess
        # misses, in units of its error, so that the error vanishes with t by construction (as EDM's does).
        seen_BCHW = faded(x_BCHW, t_B, self.data_std)
        missing_BCHW = self._network(seen_BCHW, t_B, codes_BTd, visible_BT, tokens)
        return best_guess(x_BCHW, t_B, self.data_std) + guess_error(t_B, self.data_std) * missing_BCHW

    def _network(
        self,
        x_BCHW: Tensor,
        t_B: Tensor,
        codes_BTd: Tensor,
        visible_BT: Tensor,
        tokens: list[KeysValues] | None,
    ) -> Tensor:
        dtype = compute_dtype(x_BCHW)
        image_BLD = (self.embed(patchify(x_BCHW, self.patch)) + self.image_positions).to(dtype)
        key_bias = self._key_bias(visible_BT, image_BLD.shape[1]) if self.hidden_tokens == "mask" else None
        condition_BD = F.silu(self.embed_time(t_B))
        if self.separate:
            tokens = self.read_tokens(codes_BTd) if tokens is None else tokens
            for block, keys_values in zip(self.blocks, tokens, strict=True):
                assert isinstance(block, DecoderBlock)
                image_BLD = block.draw(image_BLD, keys_values, condition_BD, key_bias)
        else:
            token_BTD = self._embed_tokens(codes_BTd, visible_BT).to(dtype)
            for block in self.blocks:
                image_BLD, token_BTD = block(image_BLD, token_BTD, condition_BD, key_bias)
        scale, shift = self.modulation(condition_BD).chunk(2, dim=-1)
        patches_BLP = at_least_float32(self.project(modulate(image_BLD, shift, scale)))
        return unpatchify(patches_BLP, self.patch, self.channels)

    def read_tokens(self, codes_BTd: Tensor) -> list[KeysValues]:
        """The separate token stream of all T tokens, block by block: the same at every time.

        Departs from the paper's (and SD3's) joint stream: no image, no time but 1, and only tokens before, so
        that hiding a tail of the tokens changes nothing in those that stay.
        """
        everything = torch.ones(codes_BTd.shape[:2], dtype=torch.bool, device=codes_BTd.device)
        token_BTD = self._embed_tokens(codes_BTd, everything).to(compute_dtype(codes_BTd))
        condition_1D = F.silu(self.embed_time(torch.ones(1, device=codes_BTd.device)))
        tokens = []
        for block in self.blocks:
            assert isinstance(block, DecoderBlock)
            token_BTD, keys_values = block.read(token_BTD, condition_1D)
            tokens.append(keys_values)
        return tokens

    def _embed_tokens(self, codes_BTd: Tensor, visible_BT: Tensor) -> Tensor:
        # Unit vectors have entries of about 1/sqrt(d): bring them to unit variance as the projection expects.
        shown_BTd = codes_BTd * (visible_BT[..., None] * codes_BTd.shape[-1] ** 0.5)
        return self.embed_token(shown_BTd) + self.token_positions

    @staticmethod
    def _key_bias(visible_BT: Tensor, num_image_tokens: int) -> Tensor:
        bias_BT = torch.zeros(visible_BT.shape, device=visible_BT.device).masked_fill(~visible_BT, -torch.inf)
        return F.pad(bias_BT, (num_image_tokens, 0))
