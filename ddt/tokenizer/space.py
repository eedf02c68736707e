"""Where the tokenizer works: pixels as they are, or the latents of a frozen Diffusers AutoencoderKL."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ddt.tokenizer.folder import digest_tensors
from ddt.tokenizer.pretrained import load_part


class Space(Protocol):
    """Images [B, 3, H, W] in [-1, 1] to what encoder and decoder see, and back."""

    def from_images(self, images_BCHW: Tensor) -> Tensor: ...

    def to_images(self, x_BCHW: Tensor) -> Tensor: ...


class PixelSpace:
    """Images are what the tokenizer sees."""

    def from_images(self, images_BCHW: Tensor) -> Tensor:
        return images_BCHW

    def to_images(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW.clamp(-1, 1)


class LatentSpace:
    """Latents, shifted and scaled as the VAE's own config says; the mode of the posterior, so no randomness.

    The VAE is frozen and no part of the tokenizer's weights. It computes in float32 whatever autocast says:
    training sees the latents that `encode` will.
    """

    def __init__(self, vae: str, channels: int, downsample: int) -> None:
        self.vae = load_part("vae", vae, "AutoencoderKL", "vae")
        config = self.vae.config
        found = (config.latent_channels, 2 ** (len(config.block_out_channels) - 1))
        if found != (channels, downsample):
            raise ValueError(
                f"vae = {vae!r}: has {found[0]} latent channels and downsamples by {found[1]}, "
                f"the tokenizer expects {channels} and {downsample}"
            )
        self.shift = config.shift_factor or 0.0
        self.scale = config.scaling_factor

    @property
    def digest(self) -> str:
        """Hex sha256 over the VAE's weights, its shift and its scale."""
        sizes = {"shift": torch.tensor(self.shift), "scale": torch.tensor(self.scale)}
        return digest_tensors(self.vae.state_dict() | sizes)

    @torch.no_grad()
    def from_images(self, images_BCHW: Tensor) -> Tensor:
        vae = self.vae.to(images_BCHW.device)
        with torch.autocast(images_BCHW.device.type, enabled=False):
            return (vae.encode(images_BCHW).latent_dist.mode() - self.shift) * self.scale

    @torch.no_grad()
    def to_images(self, x_BCHW: Tensor) -> Tensor:
        vae = self.vae.to(x_BCHW.device)
        with torch.autocast(x_BCHW.device.type, enabled=False):
            return vae.decode(x_BCHW / self.scale + self.shift).sample.clamp(-1, 1)
