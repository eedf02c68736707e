"""Looking inside a tokenizer: pictures and numbers of what its codes keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

GAP_PX = 2


class EncodesImages(Protocol):
    """A tokenizer of any kind: images in [-1, 1] to codes, and the first of them back to images."""

    def encode(self, images_BCHW: Tensor) -> Tensor: ...

    def decode(
        self, codes_BT: Tensor, num_steps: int | None = None, num_tokens: int | None = None
    ) -> Tensor: ...


def reconstruction_grid(
    tokenizer: EncodesImages,
    images_BCHW: Tensor,
    num_tokens_list: Sequence[int | None],
    num_steps: int | None = None,
    scale: int = 2,
) -> Image.Image:
    """One row an image: the original, then its decoding from the first n tokens for each n (None: all)."""
    codes_BT = tokenizer.encode(images_BCHW)
    columns = [images_BCHW.cpu()]
    for num_tokens in num_tokens_list:
        columns.append(tokenizer.decode(codes_BT, num_steps=num_steps, num_tokens=num_tokens).cpu())
    return image_grid(torch.stack(columns, dim=1), scale)


def swap_codes(codes_BT: Tensor, other_BT: Tensor, start: int, stop: int) -> Tensor:
    """`codes_BT` with tokens `start` to `stop` (counted from 0, the end left out) taken from `other_BT`."""
    return torch.cat([codes_BT[:, :start], other_BT[:, start:stop], codes_BT[:, stop:]], dim=1)


def image_grid(images_RXCHW: Tensor, scale: int = 1) -> Image.Image:
    """R rows of X images in [-1, 1] on white, each enlarged `scale` times without smoothing."""
    rows, columns, channels, height, width = images_RXCHW.shape
    pixels = ((images_RXCHW.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    pixels = pixels.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    height, width = height * scale, width * scale
    shape = (rows * (height + GAP_PX) - GAP_PX, columns * (width + GAP_PX) - GAP_PX, channels)
    canvas = np.full(shape, 255, dtype=np.uint8)
    for r in range(rows):
        for x in range(columns):
            top, left = r * (height + GAP_PX), x * (width + GAP_PX)
            canvas[top : top + height, left : left + width] = pixels[r, x].permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(canvas)


def psnr_db(images_BCHW: Tensor, reference_BCHW: Tensor) -> Tensor:
    """PSNR of each image [B] in dB, both rounded to 8 bits as a viewer sees them."""
    a, b = (((x.clamp(-1, 1) + 1) * 127.5).round() for x in (images_BCHW.float(), reference_BCHW.float()))
    error_B = (a - b).square().flatten(1).mean(1).clamp(min=1e-10)
    return 10 * torch.log10(255**2 / error_B)
