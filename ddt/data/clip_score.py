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

from ddt.data.pretrained import ImageInput, load, load_model, pick_device, pick_dtype

MAX_TOKENS = 77  # CLIP's context; longer captions are cut


class ClipScorer:
    """Cosine between the embeddings of an image and of its caption."""

    def __init__(self, path_or_ref: str, device: str | None = None, batch_size: int = 256) -> None:
        """`path_or_ref`: `scenes:clip`, a folder or a hub id. ValueError where it can't be loaded."""
        self.device = pick_device(device)
        self.batch_size = batch_size
        self.model = load_model(CLIPModel, path_or_ref, dtype=pick_dtype(self.device)).to(self.device).eval()
        self.tokenizer = load(AutoTokenizer, path_or_ref)
        self.image_input = ImageInput(load(AutoImageProcessor, path_or_ref))
        self.max_tokens = min(MAX_TOKENS, self.model.config.text_config.max_position_embeddings)

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> np.ndarray:
        """float32[n] in [-1, 1], one for each pair; ValueError if the lengths differ."""
        return self.scores(images, captions)[0]

    def scores(self, images: Sequence[Image.Image], *captions: Sequence[str]) -> np.ndarray:
        """float32[m, n] in [-1, 1]: the same for m captions of each image, which is embedded only once."""
        for texts in captions:
            if len(images) != len(texts):
                raise ValueError(f"{len(images)} images and {len(texts)} captions: expected pairs")
        cosines = np.zeros((len(captions), len(images)), np.float32)
        for start in range(0, len(images), self.batch_size):
            part = slice(start, start + self.batch_size)
            images_BD = self.embed_images(images[part])
            for row, texts in zip(cosines, captions, strict=True):
                row[part] = (images_BD * self.embed_texts(texts[part])).sum(-1).clamp(-1, 1).numpy()
        return cosines

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
