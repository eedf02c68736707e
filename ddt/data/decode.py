"""Encoded images as square RGB pixels, without torch: for workers that only look at pictures."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ddt.records import IMAGE_FORMATS


def decode_image(data: bytes, image_side_px: int) -> np.ndarray:
    """uint8[H, W, C] RGB of an encoded image: upright, shorter side resized, centre cropped to a square.

    Transparency is laid over white, 16-bit greys keep their upper byte.
    """
    file = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
    twice = (2 * image_side_px, 2 * image_side_px)
    file.draft("RGB", twice)  # lets JPEG's decoder shrink, to no less than this
    image = to_rgb(ImageOps.exif_transpose(file))
    if image.size != (image_side_px, image_side_px):
        image = ImageOps.fit(image, (image_side_px, image_side_px), Image.Resampling.BICUBIC)
    return np.array(image)


def read_image(path: str | Path) -> Image.Image:
    """An image file in RGB, turned as its EXIF says, not resized.

    ValueError where it is missing or not readable to its end.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: not a readable image ({error})") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in RGB, transparency over white."""
    if image.mode.startswith("I"):
        grey_HW = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return Image.fromarray(grey_HW).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")
