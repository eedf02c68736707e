"""Checks of what users hand to the tokenizer: one clear ValueError each."""

from __future__ import annotations

import math
import numbers

import torch
from torch import Tensor

RANGE_TOLERANCE = 1e-3  # resizing and float rounding may step a little over the edge


def check_images(images_BCHW: Tensor, image_size: int) -> None:
    """Float images [B, 3, S, S] in [-1, 1]."""
    check_shape(images_BCHW, image_size)
    if images_BCHW.numel() == 0:
        return
    low, high = images_BCHW.min().item(), images_BCHW.max().item()
    if not (low >= -1 - RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):
        raise ValueError(f"images have values from {low:g} to {high:g}: {wanted_images(image_size)}")


def wanted_images(image_size: int) -> str:
    """What images must be, for messages."""
    return f"expected float images [batch, 3, {image_size}, {image_size}] in [-1, 1]"


def check_shape(images_BCHW: Tensor, image_size: int) -> None:
    """The same but for the range, which an accelerator would have to be waited for to know."""
    wanted = wanted_images(image_size)
    if not isinstance(images_BCHW, Tensor):
        raise ValueError(f"images are a {type(images_BCHW).__name__}: {wanted} as a torch tensor")
    if images_BCHW.ndim != 4 or tuple(images_BCHW.shape[1:]) != (3, image_size, image_size):
        raise ValueError(f"images have shape {list(images_BCHW.shape)}: {wanted}")
    if not images_BCHW.is_floating_point():
        raise ValueError(f"images have dtype {images_BCHW.dtype}: {wanted}")


def check_codes(codes_BT: Tensor, num_tokens: int, codebook_size: int) -> Tensor:
    """Integer codes [B, T] in 0..K−1, as int64: torch reads uint8 indices as a mask and refuses uint16."""
    wanted = f"expected whole numbers [batch, {num_tokens}] in 0..{codebook_size - 1}"
    if not isinstance(codes_BT, Tensor):
        raise ValueError(f"codes are a {type(codes_BT).__name__}: {wanted} as a torch tensor")
    if codes_BT.ndim != 2 or codes_BT.shape[1] != num_tokens:
        raise ValueError(f"codes have shape {list(codes_BT.shape)}: {wanted}")
    if codes_BT.is_floating_point() or codes_BT.is_complex() or codes_BT.dtype == torch.bool:
        raise ValueError(f"codes have dtype {codes_BT.dtype}: {wanted}")
    codes_BT = codes_BT.long()
    if codes_BT.numel() == 0:
        return codes_BT
    low, high = int(codes_BT.min()), int(codes_BT.max())
    if low < 0 or high >= codebook_size:
        raise ValueError(f"codes run from {low} to {high}: {wanted}")
    return codes_BT


def check_count(name: str, value: int, low: int, high: int | None = None) -> None:
    """A whole number in low..high."""
    if (
        isinstance(value, bool)
        or not isinstance(value, numbers.Integral)
        or value < low
        or (high is not None and value > high)
    ):
        allowed = f"at least {low}" if high is None else f"in {low}..{high}"
        raise ValueError(f"{name} = {value!r}: expected a whole number {allowed}")


def check_guidance(value: float, condition_dropout: float) -> None:
    """A finite number of at least 1, and 1 itself where training never hid all tokens."""
    if not isinstance(value, numbers.Real) or not 1 <= value < math.inf:
        raise ValueError(f"guidance = {value!r}: expected a number of at least 1")
    if value != 1 and condition_dropout == 0:
        raise ValueError(
            f"guidance = {value!r}: expected 1, as this tokenizer was trained with condition_dropout = 0 "
            "and does not know the image without tokens"
        )
