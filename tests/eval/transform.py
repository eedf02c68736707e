"""A tokenizer whose tokens are known, coefficients of a transform, and pictures that it can hold."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from ddt.eval.report.pictures import png_bytes

SIDE_PX, TOKENS, LEVELS = 16, 16, 64


class Transform:
    """An orthogonal transform of the 4 x 4 cells' grey levels; a token is a coefficient in LEVELS steps."""

    def __init__(self, basis_TL: torch.Tensor, reach: float) -> None:
        self.basis_TL, self.reach = basis_TL, reach
        self.config = SimpleNamespace(num_tokens=TOKENS, codebook_size=LEVELS, image_size=SIDE_PX)

    def encode(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        cells_BL = torch.nn.functional.adaptive_avg_pool2d(images_BCHW.mean(1), 4).flatten(1)
        value_BT = cells_BL @ self.basis_TL.T / self.reach
        return ((value_BT.clamp(-1, 1) + 1) / 2 * (LEVELS - 1)).round().long()

    def decode(self, codes_BT, num_steps=None, num_tokens=None, generator=None) -> torch.Tensor:
        value_BT = (codes_BT.float() / (LEVELS - 1) * 2 - 1) * self.reach
        if num_tokens is not None:
            value_BT = torch.where(torch.arange(TOKENS) < num_tokens, value_BT, 0)
        cells_BGG = (value_BT @ self.basis_TL).unflatten(1, (4, 4))
        pixels = cells_BGG.repeat_interleave(SIDE_PX // 4, 1).repeat_interleave(SIDE_PX // 4, 2)
        return pixels[:, None].expand(-1, 3, -1, -1).clamp(-1, 1)


def raster() -> Transform:
    """Each token is a cell, row by row: the ideal tokenizer of places."""
    return Transform(torch.eye(TOKENS), 1.0)


def placeless() -> Transform:
    """Each token acts in all cells alike: Hadamard's transform, its coefficients in a mixed order."""
    two = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / 2**0.5
    four = torch.kron(two, two)
    order = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(1))
    return Transform(torch.kron(four, four)[order], 2.0)


def photos(count: int) -> list[bytes]:
    """Coarse noise: every cell of every picture is independent of all others."""
    rng = np.random.default_rng(0)
    cells = rng.integers(60, 196, (count, 4, 4, 1), dtype=np.uint8)
    pictures = np.broadcast_to(cells, (count, 4, 4, 3)).repeat(SIDE_PX // 4, 1).repeat(SIDE_PX // 4, 2)
    return [png_bytes(Image.fromarray(picture)) for picture in pictures]
