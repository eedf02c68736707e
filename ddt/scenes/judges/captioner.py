"""A captioner for the scenes world: LLaVA's architecture in miniature, giving the long captions of scenes.

CLIP's vision tower, a two-layer projector and a small Llama, as in LLaVA-1.5 and ShareGPT-4V. The tower
is schooled beforehand and frozen, as LLaVA's is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken
from transformers import (
    CLIPVisionModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from ddt.data.captioner import IMAGE, TEMPLATE
from ddt.data.pretrained import load_model
from ddt.scenes.judges import bpe
from ddt.scenes.judges.clip import image_processor
from ddt.scenes.judges.lessons import IGNORE
from ddt.scenes.judges.optimise import optimise, prefetch
from ddt.scenes.judges.pictures import draw_scene, picture, to_pixel_values
from ddt.scenes.judges.tower import GRID, HEADS, HIDDEN_WIDTH, PATCH_PX, WIDTH, vision_config
from ddt.scenes.sample import pick
from ddt.scenes.text import long_caption

BATCH_SIZE = 48
LEARNING_RATE = 2e-3
INSTRUCTIONS = (
    "Describe the image in detail.",
    "Describe the image in detail.",
    "Provide a detailed description of the image.",
    "Describe this image.",
    "What does the image show?",
)


@dataclass(frozen=True)
class Batch:
    """Pictures and their captions behind one prompt; labels_BL is IGNORE on the prompt and the padding."""

    pixels_BCHW: torch.Tensor
    input_ids_BL: torch.Tensor
    labels_BL: torch.Tensor


def make_batch(rng: np.random.Generator, tokenizer: PreTrainedTokenizerFast, size: int = BATCH_SIZE) -> Batch:
    """One batch of fresh scenes with the same instruction, drawn from `rng`."""
    scenes = [draw_scene(rng) for _ in range(size)]
    prompt = TEMPLATE.format(prompt=pick(rng, INSTRUCTIONS)).replace(IMAGE, IMAGE * GRID**2)
    prefix = tokenizer.encode(prompt)
    answers = tokenizer([" " + long_caption(scene) for scene in scenes], add_special_tokens=False)[
        "input_ids"
    ]
    length = max(len(answer) for answer in answers) + 1
    labels = np.full((size, len(prefix) + length), IGNORE, np.int64)
    for row, answer in enumerate(answers):
        labels[row, len(prefix) : len(prefix) + len(answer) + 1] = [*answer, tokenizer.eos_token_id]
    ids = np.where(labels == IGNORE, tokenizer.pad_token_id, labels)
    ids[:, : len(prefix)] = prefix
    return Batch(
        pixels_BCHW=to_pixel_values([picture(rng, scene) for scene in scenes]),
        input_ids_BL=torch.from_numpy(ids),
        labels_BL=torch.from_numpy(labels),
    )


def build(tokenizer: PreTrainedTokenizerFast, tower: CLIPVisionModel) -> LlavaForConditionalGeneration:
    """The model with a schooled vision tower and the rest untrained."""
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=HIDDEN_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=vision_config().to_dict(),
        text_config=text.to_dict(),
        image_token_index=tokenizer.encode(IMAGE, add_special_tokens=False)[0],
        image_seq_length=GRID**2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration._from_config(config, attn_implementation="eager")
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


class Lesson(torch.nn.Module):
    """The captions' cross-entropy. The vision tower stays as it was schooled."""

    def __init__(self, model: LlavaForConditionalGeneration) -> None:
        super().__init__()
        model.model.vision_tower.requires_grad_(False)
        self.model = model

    def forward(self, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        # Padding follows the answers, so the causal mask alone keeps it out of sight.
        out = self.model(
            input_ids=batch.input_ids_BL,
            pixel_values=batch.pixels_BCHW,
            labels=batch.labels_BL,
            use_cache=False,
        )
        return out.loss, {"caption": out.loss.item()}


def train_captioner(
    out_dir: Path,
    bpe_dir: Path,
    tower: CLIPVisionModel,
    *,
    steps: int,
    seed: int,
    progress: bool,
) -> None:
    """Train and save a folder that `LlavaForConditionalGeneration` and `LlavaProcessor` load."""
    torch.manual_seed(seed)
    out_dir.mkdir(parents=True, exist_ok=True)
    backend = bpe.load(bpe_dir).backend_tokenizer
    backend.add_special_tokens([AddedToken(IMAGE, special=True, normalized=False)])
    tokenizer = bpe.save(backend, out_dir, prefix=bpe.BOS)
    lesson = Lesson(build(tokenizer, tower))
    drawn = prefetch(lambda rng: make_batch(rng, tokenizer), seed + 2)
    optimise(
        lesson, lesson, drawn, steps=steps, learning_rate=LEARNING_RATE, name="captioner", progress=progress
    )
    processor = LlavaProcessor(
        image_processor(),
        tokenizer,
        patch_size=PATCH_PX,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # CLIP's class token, which "default" drops again
    )
    processor.save_pretrained(out_dir)
    lesson.model.half().save_pretrained(out_dir)


def vision_tower(folder: Path) -> CLIPVisionModel:
    """A captioner's vision tower, as it was schooled: for another model to start from."""
    model = load_model(LlavaForConditionalGeneration, str(folder), dtype=torch.float32)
    tower = CLIPVisionModel._from_config(vision_config(), attn_implementation="eager")
    tower.load_state_dict(model.model.vision_tower.state_dict())
    return tower
