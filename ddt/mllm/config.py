"""Shape of a language model trained from scratch, and how tokens are drawn from one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from ddt.config import Count, Fraction, Range

TASKS = ("text_to_image", "edit", "caption", "vqa", "chat", "class_to_image")  # of instruction tuning


@dataclass(frozen=True)
class LanguageModelConfig:
    """A Llama-class decoder. `kv_heads` below `heads` gives grouped-query attention.

    `max_length` is the longest sequence in tokens, prompt and image together. `rope_theta` is the base of the
    rotary positions: the slowest pair of a head turns once in about 2 pi * rope_theta tokens.
    """

    width: Count
    layers: Count
    heads: Count
    kv_heads: Count
    mlp_width: Count
    max_length: Count
    tie_embeddings: bool
    rope_theta: float

    def __post_init__(self) -> None:
        if not 0 < self.rope_theta < math.inf:
            raise ValueError(f"rope_theta = {self.rope_theta}: expected a positive number")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"width = {self.width}: expected an even multiple of heads = {self.heads}")
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads = {self.kv_heads}: expected a divisor of heads = {self.heads}")


def check_init(init: str | None, model: LanguageModelConfig | None) -> None:
    """ValueError unless exactly one of a checkpoint and a shape is given."""
    if (init is None) == (model is None):
        given = "both are" if init is not None else "neither is"
        raise ValueError(f"init and model: expected exactly one of them, {given} set")


NewRowsKind = Literal["mean", "normal"]


@dataclass(frozen=True)
class LoraConfig:
    """Adapters of low rank beside frozen weights: their output is scaled by `alpha` / `rank`."""

    rank: Count
    alpha: Count
    dropout: Annotated[float, Range(0, 0.99)]


@dataclass(frozen=True)
class VisualSampling:
    """How a picture's tokens are drawn; the defaults are the paper's.

    `cfg_scale` s moves the logits to `uncond + s * (cond - uncond)`: 1 is no guidance. A `top_k` or `top_p`
    that covers all codes filters nothing. `temperature` 0 takes the likeliest token.
    """

    cfg_scale: Annotated[float, Range(0)] = 8.0
    top_k: Count = 4096
    top_p: Fraction = 0.9
    temperature: Annotated[float, Range(0)] = 1.0


@dataclass(frozen=True)
class TextSampling:
    """How words are drawn, as above; the paper gives top_k and top_p. At most `max_new_tokens` at a time."""

    top_k: Count = 50
    top_p: Fraction = 1.0
    temperature: Annotated[float, Range(0)] = 1.0
    max_new_tokens: Count = 256


@dataclass(frozen=True)
class SamplingConfig:
    """How a model draws from a prompt, edits a picture, and writes captions and answers."""

    draw: VisualSampling = VisualSampling()
    edit: VisualSampling = VisualSampling()
    text: TextSampling = TextSampling()
