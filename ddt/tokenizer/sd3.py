"""Starting the decoder's image stream from SD3 (Diffusers' SD3Transformer2DModel).

Taken over: patch embedding and its positions, timestep embedding, the image half of every block, the output.
Left as they are: the token stream, which has no counterpart, and SD3's pooled text embedding, which the paper
drops. SD3 predicts the velocity, so with `target: x0` its output layer has to be relearned.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ddt.tokenizer.config import DDTConfig
from ddt.tokenizer.decoder import Decoder, DecoderBlock
from ddt.tokenizer.model import DDTTokenizer
from ddt.tokenizer.pretrained import load_part


@torch.no_grad()
def init_from_sd3(tokenizer: DDTTokenizer, path: str) -> None:
    """Copies the image stream of the SD3 transformer at `path`, its folder or its pipeline's, to the decoder.

    Raises ValueError naming every size and option of the tokenizer that does not fit, before anything moves.
    """
    source = load_part("init", path, "SD3Transformer2DModel", "transformer")
    config = tokenizer.config
    misfits = list(_misfits(config, source.config))
    if misfits:
        raise ValueError(f"init = {path!r}: does not fit the tokenizer: {'; '.join(misfits)}")
    _copy_edges(tokenizer.decoder, source, config)
    for ours, theirs in zip(tokenizer.decoder.blocks, source.transformer_blocks, strict=True):
        assert isinstance(ours, DecoderBlock)
        _copy_block(ours, theirs)


def _misfits(config: DDTConfig, sd3: Any) -> Iterator[str]:
    wanted = {
        "decoder_width": sd3.num_attention_heads * sd3.attention_head_dim,
        "decoder_heads": sd3.num_attention_heads,
        "decoder_depth": sd3.num_layers,
        "decoder_patch": sd3.patch_size,
        "channels": sd3.in_channels,
        "qk_norm": sd3.qk_norm is not None,
        "activation": "gelu_tanh",
        "decoder_positions": "stored",
        "data_std": None,  # SD3 sees x_t itself
    }
    for name, value in wanted.items():
        if getattr(config, name) != value:
            yield f"{name} = {getattr(config, name)!r}, expected {value!r}"
    if sd3.out_channels not in (None, sd3.in_channels):
        yield f"it has {sd3.out_channels} output channels, expected {sd3.in_channels} as at its input"
    if sd3.qk_norm not in (None, "rms_norm"):
        yield f"it has qk_norm {sd3.qk_norm!r}, expected none or 'rms_norm'"
    if sd3.dual_attention_layers:
        yield "it has dual attention layers (SD3.5-medium), expected none"
    grid = config.grid_side // config.decoder_patch
    if grid > sd3.pos_embed_max_size:
        yield f"a grid of {grid} patches a side, expected at most {sd3.pos_embed_max_size}"


def _copy_edges(decoder: Decoder, source: Any, config: DDTConfig) -> None:
    patches = source.pos_embed
    _copy(decoder.embed.weight, patches.proj.weight.flatten(1))
    _copy(decoder.embed.bias, patches.proj.bias)
    # The middle of SD3's table, as SD3 itself crops it for an image of this size.
    positions_1LD = patches.cropped_pos_embed(config.grid_side, config.grid_side)
    _copy(decoder.image_positions, positions_1LD[0])
    timestep = source.time_text_embed.timestep_embedder
    _copy_linear(decoder.embed_time.mlp[0], timestep.linear_1)
    _copy_linear(decoder.embed_time.mlp[2], timestep.linear_2)
    _copy_linear(decoder.modulation, source.norm_out.linear)
    # SD3 lays a patch out as rows, columns, channels; ours has channels first.
    order = torch.arange(decoder.project.out_features).view(config.decoder_patch, config.decoder_patch, -1)
    order = order.permute(2, 0, 1).flatten()
    _copy(decoder.project.weight, source.proj_out.weight[order])
    _copy(decoder.project.bias, source.proj_out.bias[order])


def _copy_block(block: DecoderBlock, source: Any) -> None:
    ours, attention = block.image, source.attn
    _copy_linear(ours.modulation, source.norm1.linear)
    projections = (attention.to_q, attention.to_k, attention.to_v)
    _copy(ours.qkv.weight, torch.cat([p.weight for p in projections]))
    _copy(ours.qkv.bias, torch.cat([p.bias for p in projections]))
    if ours.norm_q is not None and ours.norm_k is not None:
        _copy(ours.norm_q.weight, attention.norm_q.weight)
        _copy(ours.norm_k.weight, attention.norm_k.weight)
    _copy_linear(ours.project, attention.to_out[0])
    _copy_linear(ours.mlp[0], source.ff.net[0].proj)
    _copy_linear(ours.mlp[2], source.ff.net[2])


def _copy_linear(ours: nn.Module, theirs: nn.Linear) -> None:
    assert isinstance(ours, nn.Linear)
    _copy(ours.weight, theirs.weight)
    _copy(ours.bias, theirs.bias)


def _copy(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)  # the configurations agree
    ours.copy_(theirs)
