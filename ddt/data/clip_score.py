"""CLIP scores of image-caption pairs, with any checkpoint of CLIP's architecture.

The paper ranks pairs by CLIP score to keep the best (section 3.2); `openai/clip-vit-large-patch14` and the
small CLIP of the scenes world go through the same calls.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

from ddt.data.pretrained import ImageInput, load, pick_device, pick_dtype

MAX_TOKENS = 77  # CLIP's context; longer captions are cut


class ClipScorer:
    """Cosine between the embeddings of an image and of its caption."""

    def __init__(self, path_or_ref: str, device: str | None = None, batch_size: int = 256) -> None:
        """`path_or_ref`: `scenes:clip`, a folder or a hub id. ValueError where it can't be loaded."""
        self.device = pick_device(device)
        self.batch_size = batch_size
        self.model = load(CLIPModel, path_or_ref, dtype=pick_dtype(self.device)).to(self.device).eval()
        self.tokenizer = load(AutoTokenizer, path_or_ref)
        self.image_input = ImageInput(load(AutoImageProcessor, path_or_ref))
        self.max_tokens = min(MAX_TOKENS, self.model.config.text_config.max_position_embeddings)

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> np.ndarray:
        """float32[n] in [-1, 1], one for each pair; ValueError if the lengths differ."""
        if len(images) != len(captions):
            raise ValueError(f"{len(images)} images and {len(captions)} captions: expected pairs")
        cosines = [
            (self.embed_images(images[start:stop]) * self.embed_texts(captions[start:stop])).sum(-1)
            for start, stop in self._batches(len(images))
        ]
        if not cosines:
            return np.zeros(0, np.float32)
        return torch.cat(cosines).clamp(-1, 1).numpy()

    @torch.inference_mode()
    def embed_images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """float32[n, D] on the CPU, of length one."""
        pixels_BCHW = self.image_input(images).to(self.device, self.model.dtype)
        embedding_BD = self.model.get_image_features(pixel_values=pixels_BCHW).pooler_output
        return torch.nn.functional.normalize(embedding_BD.float(), dim=-1).cpu()

    @torch.inference_mode()
    def embed_texts(self, captions: Sequence[str]) -> torch.Tensor:
        """float32[n, D] on the CPU, of length one; captions are cut at 77 tokens."""
        tokens = self.tokenizer(
            list(captions), padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(self.device)
        features = self.model.get_text_features(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        )
        return torch.nn.functional.normalize(features.pooler_output.float(), dim=-1).cpu()

    def _batches(self, total: int) -> list[tuple[int, int]]:
        return [(start, min(start + self.batch_size, total)) for start in range(0, total, self.batch_size)]
