"""Draws a scene: signed distances of the shapes, one pixel of anti-aliasing, at any side from 16 px up.

Everything is computed on the object's own crop with row and column vectors, so a 32 px scene costs some
tens of small numpy calls; the gradient backgrounds are cached per (name, side).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from ddt.scenes.world import BACKGROUND_RGB, COLOR_RGB, EXTENT, TONE_RGB, Object, Scene

MIN_SIDE_PX = 16
GRADIENT = 0.07  # a background is this share lighter at the top and darker at the bottom
STRIPE = 0.088  # width of a stripe and side of a check, in image sides: 2.8 px at 32 px, so both survive blur
ROOT_HALF = 0.5**0.5

Distance = Callable[[np.ndarray, np.ndarray, float], np.ndarray]


def _circle(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return np.sqrt(x * x + y * y) - r


def _ring(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    outer, inner = EXTENT["ring"][0] * r, 0.5 * r
    return np.abs(np.sqrt(x * x + y * y) - (outer + inner) / 2) - (outer - inner) / 2


def _square(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - EXTENT["square"][0] * r


def _diamond(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return (np.abs(x) + np.abs(y) - EXTENT["diamond"][0] * r) * ROOT_HALF


def _cross(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    ax, ay, arm = np.abs(x), np.abs(y), 0.36 * r
    return np.minimum(np.maximum(ax - r, ay - arm), np.maximum(ax - arm, ay - r))


def _triangle(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    half, top, bottom = EXTENT["triangle"]
    slope = (bottom - top) / half  # the two upper sides fall by `slope` for each unit across
    side = (np.abs(x) * slope - (y - top * r)) / (1 + slope * slope) ** 0.5
    return np.maximum(side, y - bottom * r)


DISTANCES: dict[str, Distance] = {
    "circle": _circle, "square": _square, "triangle": _triangle,
    "cross": _cross, "ring": _ring, "diamond": _diamond,
}  # fmt: skip

_COLOR = {name: np.array(rgb, np.float32) for name, rgb in COLOR_RGB.items()}
_TONE_STEP = {name: np.array(TONE_RGB[name], np.float32) - _COLOR[name] for name in COLOR_RGB}


@lru_cache(maxsize=64)
def background_HWC(name: str, side_px: int) -> np.ndarray:
    """Float32 [side, side, 3] background, 0..255, read-only: a soft vertical gradient around its colour."""
    ramp = np.linspace(1 + GRADIENT, 1 - GRADIENT, side_px, dtype=np.float32)
    rows = np.clip(ramp[:, None] * np.array(BACKGROUND_RGB[name], np.float32), 0, 255)
    canvas = np.repeat(rows[:, None, :], side_px, axis=1)
    canvas.flags.writeable = False
    return canvas


@lru_cache(maxsize=16)
def _centers(side_px: int) -> np.ndarray:
    return np.arange(side_px, dtype=np.float32) + 0.5


def coverage_HW(shape: str, x: np.ndarray, y: np.ndarray, radius_px: float) -> np.ndarray:
    """Share of each pixel that the shape covers. x [1, W], y [H, 1]: offsets from its centre."""
    return np.clip(0.5 - DISTANCES[shape](x, y, radius_px), 0.0, 1.0)


def _stripes(offset: np.ndarray, width_px: float) -> np.ndarray:
    """Anti-aliased square wave, -1 or +1 in bands of `width_px`, one band centred on 0."""
    phase = np.abs((offset / width_px) % 2.0 - 1.0) - 0.5  # triangle wave, zero at the edges of the bands
    return np.clip(2.0 * phase * width_px, -1.0, 1.0)


def tone_HW(texture: str, x: np.ndarray, y: np.ndarray, side_px: float) -> np.ndarray:
    """Share of the second tone, 0..1, at offsets x [1, W], y [H, 1] in pixels from the object's centre."""
    width = STRIPE * side_px
    if texture == "striped":
        wave = _stripes(y, width) + 0.0 * x
    else:  # checks meet at the object's centre, so that even a small object shows four of them
        wave = _stripes(x - width / 2, width) * _stripes(y - width / 2, width)
    return 0.5 - 0.5 * wave


def _paint(canvas_HWC: np.ndarray, item: Object, side_px: int) -> None:
    x1, y1, x2, y2 = item.box
    left, right = max(0, int(x1 * side_px - 1)), min(side_px, int(x2 * side_px + 2))
    top, bottom = max(0, int(y1 * side_px - 1)), min(side_px, int(y2 * side_px + 2))
    centers = _centers(side_px)
    x = centers[None, left:right] - np.float32(item.x * side_px)
    y = centers[top:bottom, None] - np.float32(item.y * side_px)
    cover = coverage_HW(item.shape, x, y, item.radius * side_px)[..., None]
    paint = _COLOR[item.color]
    if item.texture != "solid":
        paint = paint + tone_HW(item.texture, x, y, side_px)[..., None] * _TONE_STEP[item.color]
    crop = canvas_HWC[top:bottom, left:right]
    crop += cover * (paint - crop)


def render(scene: Scene, side_px: int) -> np.ndarray:
    """The scene as uint8 [side_px, side_px, 3] RGB. ValueError for a side below 16 px."""
    if side_px < MIN_SIDE_PX:
        raise ValueError(f"side_px: got {side_px}, must be at least {MIN_SIDE_PX}")
    canvas = background_HWC(scene.background, side_px).copy()
    for item in scene.objects:
        _paint(canvas, item, side_px)
    canvas += 0.5
    return canvas.astype(np.uint8)
