"""Tiny randomly initialised checkpoints of the genuine classes, as `from_pretrained` reads them."""

from __future__ import annotations

import torch
from safetensors.torch import save_file
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForQuestionAnswering,
    CLIPConfig,
    CLIPModel,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Owlv2Config,
    SwinConfig,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil
from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil
from transformers.models.owlv2.modeling_owlv2 import Owlv2ForObjectDetection

from ddt.data.clip_score import ClipScorer
from ddt.eval.scorers.lpips import BACKBONE, HEADS, WIDTHS, _alexnet

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "yes", "no", "a", "red", "dog", "?", "[DEC]", "[ENC]"]
LAYER = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}


def _clip_words(folder):
    """The scenes' CLIP lends its tokenizer: a real byte-level BPE with start and end tokens."""
    tokenizer = ClipScorer("scenes:clip", "cpu").tokenizer
    tokenizer.model_max_length = 16
    tokenizer.save_pretrained(folder)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    ids["max_position_embeddings"] = 16
    return {"vocab_size": len(tokenizer), **ids, **LAYER}


def clip(folder, seed=0):
    torch.manual_seed(seed)
    text = _clip_words(folder)
    vision = {"image_size": 32, "patch_size": 16, **LAYER}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        folder
    )
    return str(folder)


def blip(folder):
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    text = {"vocab_size": len(WORDS), "bos_token_id": 11, "encoder_hidden_size": 16, **LAYER}
    vision = {"image_size": 32, "patch_size": 16, **LAYER}
    config = BlipConfig(text_config=text, vision_config=vision, projection_dim=16)
    BlipForQuestionAnswering(config).save_pretrained(folder)
    BlipImageProcessorPil().save_pretrained(folder)
    return str(folder)


def mask2former(folder, names=("dog", "mouse")):
    torch.manual_seed(0)
    backbone = SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32,
        encoder_feedforward_dim=16, encoder_layers=1, decoder_layers=2, num_attention_heads=2,
        dim_feedforward=16, num_queries=6, id2label=dict(enumerate(names)),
    )  # fmt: skip
    Mask2FormerForUniversalSegmentation(config).save_pretrained(folder)
    Mask2FormerImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 64}).save_pretrained(folder)
    return str(folder)


def owlv2(folder):
    torch.manual_seed(0)
    text = _clip_words(folder)
    vision = {"image_size": 64, "patch_size": 16, **LAYER}
    config = Owlv2Config(text_config=text, vision_config=vision, projection_dim=16)
    Owlv2ForObjectDetection(config).save_pretrained(folder)
    Owlv2ImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    return str(folder)


def vae(folder):
    import diffusers

    torch.manual_seed(0)
    diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4,
    ).save_pretrained(folder)  # fmt: skip
    return str(folder)


def lpips(folder):
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {f"features.{name}": value for name, value in _alexnet().state_dict().items()}
    save_file(weights, folder / BACKBONE)
    heads = {f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1) for i, width in enumerate(WIDTHS)}
    save_file(heads, folder / HEADS)
    return str(folder)
