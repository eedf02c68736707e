"""ShareGPT-4V's own checkpoints, which Transformers does not load, as a LLaVA folder that it does.

    python -m ddt.data.share4v ShareGPT4V-7B ShareGPT4V-7B_Pretrained_vit-large336-l12 captioner

They are laid out as by LLaVA-1.5's authors: Llama's own names, `model.mm_projector.{0,2}` for the projector,
the vision tower in a folder beside it, or within as `model.vision_tower.vision_tower`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import AddedToken
from transformers import (
    AutoTokenizer,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from ddt.data.captioner import IMAGE
from ddt.data.pretrained import load
from ddt.weights import check_safetensors

Weights = Mapping[str, torch.Tensor]

PAD = "<pad>"
TOWER, PROJECTOR = "model.vision_tower.vision_tower.", "model.mm_projector."
LAYERS = {"0": "linear_1", "2": "linear_2"}  # of the projector; what lies between them has no weights
NO_WEIGHTS = ("position_ids", "inv_freq")  # older releases saved these
WIDENED = ("model.language_model.embed_tokens.weight", "lm_head.weight")


def convert(source: Path, tower: Path, out: Path) -> None:
    """Write to `out` what `Captioner` loads, in the weights' own precision.

    `source` is the checkpoint, `tower` the vision tower's folder, both with safetensors alone. ValueError,
    naming the folder, for what is not laid out so.
    """
    settings = _read_json(source / "config.json")
    if settings.get("mm_projector_type") != "mlp2x_gelu":
        raise ValueError(f"{source}: mm_projector_type {settings.get('mm_projector_type')!r}, not mlp2x_gelu")
    tokenizer = load(AutoTokenizer, str(source))
    tokenizer.add_tokens([AddedToken(IMAGE, special=True, normalized=False)], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": PAD})
    weights, vision = _weights(source), load(CLIPVisionConfig, str(tower))
    if not any(name.startswith(TOWER) for name in weights):
        weights |= {f"{TOWER}{name}": value for name, value in _weights(tower).items()}
    config = _config(settings, vision, tokenizer)
    model = LlavaForConditionalGeneration._from_config(config, dtype=weights["lm_head.weight"].dtype)
    named = dict(_renamed(weights))
    for name in WIDENED:
        named[name] = _with_rows(named[name], len(tokenizer))
    try:
        model.load_state_dict(named)
    except RuntimeError as error:
        raise ValueError(f"{source}: {' '.join(str(error).split())[:300]}") from None
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(out)
    _processor(settings, vision, tokenizer, config.vision_feature_select_strategy).save_pretrained(out)


def _renamed(weights: Weights) -> Iterator[tuple[str, torch.Tensor]]:
    """Under the names of `LlavaForConditionalGeneration`."""
    for name, value in weights.items():
        if name.endswith(NO_WEIGHTS):
            continue
        if name.startswith(TOWER):
            yield f"model.vision_tower.{name.removeprefix(TOWER).removeprefix('vision_model.')}", value
        elif name.startswith(PROJECTOR):
            layer, kind = name.removeprefix(PROJECTOR).split(".")
            yield f"model.multi_modal_projector.{LAYERS[layer]}.{kind}", value
        elif name.startswith("model."):
            yield f"model.language_model.{name.removeprefix('model.')}", value
        else:
            yield name, value


def _with_rows(table: torch.Tensor, rows: int) -> torch.Tensor:
    """An embedding with a row for each new token: the mean of all, which is never the likeliest."""
    mean = table.float().mean(0, keepdim=True).to(table.dtype)
    return torch.cat([table, mean.expand(rows - len(table), -1)])


def _config(settings: dict[str, Any], vision: Any, tokenizer: Any) -> LlavaConfig:
    known = LlamaConfig().to_dict().keys() - {"architectures", "model_type", "transformers_version", "dtype"}
    text = {name: value for name, value in settings.items() if name in known} | {"vocab_size": len(tokenizer)}
    return LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=LlamaConfig(**text).to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        vision_feature_layer=settings["mm_vision_select_layer"],
        vision_feature_select_strategy="default",  # the patches alone; `cls_patch` is in no published one
        projector_hidden_act="gelu",
        tie_word_embeddings=False,
    )


def _processor(settings: dict[str, Any], vision: Any, tokenizer: Any, strategy: str) -> LlavaProcessor:
    side = vision.image_size
    images = LlavaImageProcessorPil(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        do_pad=settings.get("image_aspect_ratio") == "pad",  # to a square, in the mean colour
    )
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=vision.patch_size,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=1,  # CLIP's class token
    )


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    check_safetensors(str(folder), folder)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder}: no safetensors in it")
    return {name: value for file in files for name, value in load_file(file).items()}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: can't be read ({error})") from None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("source", "tower", "out"):
        parser.add_argument(name, type=Path)
    options = parser.parse_args()
    convert(options.source, options.tower, options.out)


if __name__ == "__main__":
    main()
