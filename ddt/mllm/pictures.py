"""PIL images to pixels and back. B batch, C H W pixels in [-1, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddt.data.decode import fitted, to_rgb


def to_pixels(images: Sequence[Image.Image], side_px: int) -> Tensor:
    """float32 [B, 3, side, side]: the centre square of each image, resized."""
    arrays = [np.asarray(fitted(to_rgb(image), side_px)) for image in images]
    pixels_BHWC = torch.from_numpy(np.stack(arrays))
    return pixels_BHWC.permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


def to_images(pixels_BCHW: Tensor) -> list[Image.Image]:
    """The inverse; values outside [-1, 1] are clipped."""
    bytes_BCHW = pixels_BCHW.float().clamp(-1, 1).add(1).mul(127.5).round().byte().cpu()
    return [Image.fromarray(image) for image in bytes_BCHW.permute(0, 2, 3, 1).contiguous().numpy()]
