"""Distances between two images: PSNR, SSIM, L1 after resizing, and LPIPS from given backbone features."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ddt.data.decode import to_rgb

WINDOW = 11
SIGMA = 1.5
C1, C2 = 0.01**2, 0.03**2  # Wang et al. for a data range of 1


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """10 log10(1 / MSE) of two uint8 HWC images on [0, 1]; infinite for equal images."""
    return _decibel(mse(a, b))


def psnr_pooled(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """PSNR of the mean squared error over all pixels of a set: lower than the mean of per-image PSNR.

    Papers report the per-image mean; torchmetrics' module gives this one. Print both under their names.
    """
    squares, count = 0.0, 0
    for a, b in pairs:
        squares += mse(a, b) * a.size
        count += a.size
    if count == 0:
        raise ValueError("psnr_pooled: no images")
    return _decibel(squares / count)


def mse(a: np.ndarray, b: np.ndarray) -> float:
    """Mean squared difference of two uint8 HWC images on [0, 1]."""
    _check_pair(a, b)
    return float(((a.astype(np.float64) - b) ** 2).mean() / 255.0**2)


def _decibel(error: float) -> float:
    return float("inf") if error == 0 else float(10 * np.log10(1 / error))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang's SSIM of two uint8 HWC images: Gaussian window of 11 (sigma 1.5), population covariance, the
    border of 5 pixels dropped, mean over channels. (torchmetrics keeps a reflected border: a slightly other
    number.)
    """
    _check_pair(a, b)
    if min(a.shape[:2]) < WINDOW:
        raise ValueError(f"ssim: image of {a.shape[1]}x{a.shape[0]} px, needs at least {WINDOW}x{WINDOW}")
    x, y = a.astype(np.float64) / 255, b.astype(np.float64) / 255
    mean_x, mean_y = _blur(x), _blur(y)
    var_x = _blur(x * x) - mean_x**2
    var_y = _blur(y * y) - mean_y**2
    cov = _blur(x * y) - mean_x * mean_y
    numerator = (2 * mean_x * mean_y + C1) * (2 * cov + C2)
    return float((numerator / ((mean_x**2 + mean_y**2 + C1) * (var_x + var_y + C2))).mean())


def _blur(image: np.ndarray) -> np.ndarray:
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * SIGMA**2))
    weights /= weights.sum()
    for axis in (0, 1):
        image = np.lib.stride_tricks.sliding_window_view(image, WINDOW, axis=axis) @ weights
    return image


def _check_pair(a: np.ndarray, b: np.ndarray) -> None:
    for image in (a, b):
        if image.dtype != np.uint8 or image.ndim != 3:
            raise ValueError(f"image metrics take uint8 HWC images, got {image.dtype} of shape {image.shape}")
    if a.shape != b.shape:
        raise ValueError(f"images of different shapes {a.shape} and {b.shape}")


def image_l1(generated: Any, target: Any) -> float:
    """Mean absolute difference in [0, 1] after resizing the generated image to the target's size (bicubic).

    Both are uint8 HWC arrays or PIL images; MagicBrush's evaluator does the same. Papers print it times 100.
    """
    generated, target = _pil(generated), _pil(target)
    if generated.size != target.size:
        generated = generated.resize(target.size, Image.Resampling.BICUBIC)
    difference = np.asarray(generated, dtype=np.float64) - np.asarray(target, dtype=np.float64)
    return float(np.abs(difference).mean() / 255)


def _pil(image: Any) -> Image.Image:
    return to_rgb(image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image)))


def lpips_from_features(
    features_a: Sequence[np.ndarray], features_b: Sequence[np.ndarray], weights: Sequence[np.ndarray]
) -> np.ndarray:
    """LPIPS v0.1 of each image pair [N] from the backbone's layers [N, C, H, W] and linear heads [C].

    Each feature vector is scaled to unit length over channels (1e-10 added to the norm), differences are
    squared, weighted, averaged over space and summed over layers. Name the backbone beside the score.
    """
    if not len(features_a) == len(features_b) == len(weights):
        raise ValueError(
            f"lpips: {len(features_a)}, {len(features_b)} layers and {len(weights)} heads, need equal"
        )
    total: np.ndarray | float = 0.0
    for a_NCHW, b_NCHW, head in zip(features_a, features_b, weights, strict=True):
        difference = (_unit(a_NCHW) - _unit(b_NCHW)) ** 2
        head_C = np.asarray(head, dtype=np.float64).reshape(-1)
        total = total + np.einsum("nchw,c->nhw", difference, head_C).mean(axis=(1, 2))
    return np.asarray(total)


def _unit(features_NCHW: np.ndarray) -> np.ndarray:
    values = np.asarray(features_NCHW, dtype=np.float64)
    return values / (np.sqrt((values**2).sum(axis=1, keepdims=True)) + 1e-10)
