"""Scenes as photographs: rendered and stored as JPEG, like every picture that a model learns from or sees."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from ddt.scenes.render import render
from ddt.scenes.world import Scene

JPEG_QUALITY = 100  # at 32 px a lower one changes what the picture shows, as it does not at 256 px


def jpeg_bytes(image_HWC: np.ndarray, quality: int = JPEG_QUALITY) -> bytes:
    """uint8 [H, W, 3] as JPEG with full-resolution colour (4:4:4), as small pictures need."""
    buffer = io.BytesIO()
    Image.fromarray(image_HWC).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def photograph(scene: Scene, side_px: int) -> np.ndarray:
    """The scene as a stored photograph shows it, uint8 [side_px, side_px, 3].

    One grey level of JPEG's rounding changes a tenth of a small tokenizer's codes, so pictures that a model
    is asked about go the way that its training pictures went. ValueError for a side below 16 px.
    """
    return np.array(Image.open(io.BytesIO(jpeg_bytes(render(scene, side_px)))))
