"""Parameter counts of the presets, built on the meta device: the table in docs/tokenizer.md.

python -m ddt.tokenizer.sizes
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ddt.tokenizer.config import presets
from ddt.tokenizer.model import DDTTokenizer

PRESETS = ("paper", "selftok")


def preset_sizes(name: str) -> dict[str, str]:
    """The sizes of one preset as its row names read."""
    config = presets()[name]
    with torch.device("meta"):
        model = DDTTokenizer(config)
    encoder, decoder = model.encoder, model.decoder
    counts = {
        "encoder: embedding, queries, output": _own(encoder),
        "encoder: image stream": _streams(encoder, "image"),
        "encoder: query stream": _streams(encoder, "query"),
        "decoder: embeddings, time, output": _own(decoder),
        "decoder: image stream": _streams(decoder, "image"),
        "decoder: token stream": _streams(decoder, "token"),
    }
    total = sum(p.numel() for p in model.parameters())
    assert sum(counts.values()) == total
    return {
        "image, latent": f"{config.image_size}², {config.channels} × {config.grid_side}²",
        "image tokens: encoder, decoder": f"{config.encoder_image_tokens:,}, {config.decoder_image_tokens:,}",
        "tokens T, codes": f"{config.num_tokens} of {config.codebook_size:,} × {config.code_dim}",
        "bits an image": f"{config.bits_per_image:,}",
        "encoder blocks": f"{config.encoder_depth} × {config.encoder_width}",
        "decoder blocks": f"{config.decoder_depth} × {config.decoder_width}",
        **{part: f"{count:,}" for part, count in counts.items()},
        "parameters": f"{total:,}",
        "codebook (moved by averages)": f"{model.quantizer.codebook_Kd.numel():,}",
    }


def _streams(part: nn.Module, stream: str) -> int:
    return sum(p.numel() for name, p in part.named_parameters() if name.split(".")[2:3] == [stream])


def _own(part: nn.Module) -> int:
    return sum(p.numel() for name, p in part.named_parameters() if not name.startswith("blocks."))


def table(columns: Mapping[str, Mapping[str, str]]) -> str:
    """Markdown with a row a size and a column a preset."""
    rows = [["", *(f"`{name}`" for name in columns)], ["---", *["--:"] * len(columns)]]
    first = next(iter(columns.values()))
    rows += [[row, *(sizes[row] for sizes in columns.values())] for row in first]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


if __name__ == "__main__":
    print(table({name: preset_sizes(name) for name in PRESETS}), end="")
