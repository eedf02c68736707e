"""A VAE's round trip: what is left of a picture before any token."""

from __future__ import annotations

import torch
from PIL import Image

from ddt.data.pretrained import pick_device
from ddt.mllm.pictures import to_images, to_pixels
from ddt.tokenizer.pretrained import load_part


class VAE:
    """Encode to the posterior's mode and decode, by a Diffusers AutoencoderKL."""

    def __init__(self, path_or_ref: str, device: str | None = None) -> None:
        self.device = pick_device(device)
        self.model = load_part("--scorer vae", path_or_ref, "AutoencoderKL", "vae").to(self.device)

    @torch.inference_mode()
    def __call__(self, image: Image.Image) -> Image.Image:
        """The square picture after the round trip, at its own size."""
        pixels_BCHW = to_pixels([image], image.width).to(self.device)
        return to_images(self.model.decode(self.model.encode(pixels_BCHW).latent_dist.mode()).sample)[0]
