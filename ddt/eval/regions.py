"""The spatial reference: T regions of a picture in raster order, which is what tokens of places stand for.

It needs no model and no training. Its pictures are the tokenizer's own drawings handed out region by region,
so that it has as many tokens of as many codes, and the same error where all are given; only what a token
stands for differs. Exchanging its tokens is CutMix (arXiv 1905.04899). Shapes: B batch, T tokens, H W pixels.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

from ddt.eval.report.pictures import BLANK_GREY


class Regions:
    """A square picture cut into T rectangles: as near to a square grid as T has divisors, rows first."""

    def __init__(self, num_tokens: int, side_px: int) -> None:
        columns = max(n for n in range(1, math.isqrt(num_tokens) + 1) if num_tokens % n == 0)
        self.num_tokens, self.rows, self.columns = num_tokens, num_tokens // columns, columns
        token_of_row = np.arange(side_px) * self.rows // side_px
        token_of_column = np.arange(side_px) * columns // side_px
        self.token_HW = token_of_row[:, None] * columns + token_of_column

    def swap(self, own_BCHW: Tensor, other_BCHW: Tensor, start: int, stop: int) -> Tensor:
        """Pictures with regions `start` to `stop` (counted from 0, the end left out) of the other ones."""
        return torch.where(torch.from_numpy(self._inside(start, stop)), other_BCHW, own_BCHW)

    def cut(self, own_HWC: np.ndarray, other_HWC: np.ndarray, start: int, stop: int) -> np.ndarray:
        """`swap` of one picture in bytes."""
        return np.where(self._inside(start, stop)[..., None], other_HWC, own_HWC)

    def first(self, picture_HWC: np.ndarray, count: int) -> np.ndarray:
        """The first `count` regions of a picture in bytes, the rest grey."""
        return self.cut(np.full_like(picture_HWC, BLANK_GREY), picture_HWC, 0, count)

    def encode(self, images_BCHW: Tensor) -> Tensor:
        """int64 [B, T]: numbers that are equal where two regions are, pixel by pixel."""
        pixels_BCHW = images_BCHW.contiguous().numpy()
        inside = [self.token_HW == i for i in range(self.num_tokens)]
        return torch.tensor([[_number(image[:, where]) for where in inside] for image in pixels_BCHW])

    def _inside(self, start: int, stop: int) -> np.ndarray:
        return (self.token_HW >= start) & (self.token_HW < stop)


def _number(pixels: np.ndarray) -> int:
    return int.from_bytes(hashlib.sha256(pixels.tobytes()).digest()[:7], "big")
