"""What the judges learn from: scenes as pictures with the faults of real files.

All combinations are drawn, the held-out ones too: a judge must score and describe them fairly, and what is
held out is held out of the models that are judged.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image, ImageFilter

from ddt.data.decode import decode_rgb
from ddt.scenes.render import render
from ddt.scenes.sample import sample_scene
from ddt.scenes.world import Scene

SIDE_PX = 32
HELD_OUT_SHARE = 0.15
RESIZED_SHARE = 0.35  # drawn at 64 px and brought down, as a processor does with a larger source
JPEG_SHARE = 0.5
BLUR_SHARE, NOISE_SHARE = 0.1, 0.15  # pictures from a model are judged as well
MEAN = STD = (0.5, 0.5, 0.5)


def draw_scene(rng: np.random.Generator) -> Scene:
    """A scene of any combination, 15 % of them surely with a held-out one."""
    return sample_scene(rng, held_out=bool(rng.random() < HELD_OUT_SHARE))


def picture(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """uint8[32, 32, 3]: the scene resized, compressed, blurred or noisy, each in a share of the cases."""
    resized, jpeg, blur, noise = rng.random(4) < (RESIZED_SHARE, JPEG_SHARE, BLUR_SHARE, NOISE_SHARE)
    image = Image.fromarray(render(scene, 2 * SIDE_PX if resized else SIDE_PX))
    if jpeg:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=int(rng.integers(75, 97)))
        image = decode_rgb(buffer.getvalue())
    if resized:
        image = image.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
    if blur:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 0.7))))
    pixels = np.asarray(image)
    if noise:
        spread = rng.uniform(2, 12)
        pixels = np.clip(pixels + rng.normal(0, spread, pixels.shape), 0, 255).astype(np.uint8)
    return pixels


def to_pixel_values(pictures: list[np.ndarray]) -> torch.Tensor:
    """float32[B, 3, 32, 32], normalised as the judges' image processor does."""
    pixels_BHWC = np.stack(pictures).astype(np.float32) / 127.5 - 1.0
    return torch.from_numpy(pixels_BHWC).permute(0, 3, 1, 2).contiguous()
