"""Filters of sound pictures: each keeps one or gives a reason, by its pixels or by what its source tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ddt.data.decode import Checked, is_animated
from ddt.records import Reject

LOOKED_AT_PX = (
    64  # contrast and colour are measured where the shorter side has so many pixels, or up to twice
)


class Filters(Protocol):
    """Thresholds; None or False: not asked."""

    @property
    def max_aspect_ratio(self) -> float | None: ...
    @property
    def drop_animated(self) -> bool: ...
    @property
    def min_contrast(self) -> float | None: ...
    @property
    def min_colour(self) -> float | None: ...
    @property
    def max_nsfw(self) -> float | None: ...
    @property
    def max_watermark(self) -> float | None: ...


def check_filters(data: bytes, checked: Checked, facts: Mapping[str, Any], filters: Filters) -> None:
    """Raises Reject with the first reason not to keep a picture, what costs least being asked first.

    facts: FACTS of its source, None where it tells nothing: that is no reason.
    """
    for reason, most in (("nsfw", filters.max_nsfw), ("watermark", filters.max_watermark)):
        score = facts[reason]
        if most is not None and score is not None and score > most:
            raise Reject(reason, f"{score:.3g}")
    ratio = max(checked.width, checked.height) / min(checked.width, checked.height)
    if filters.max_aspect_ratio is not None and ratio > filters.max_aspect_ratio:
        raise Reject("aspect_ratio", f"{checked.width} x {checked.height}, {ratio:.1f} to 1")
    if filters.drop_animated and is_animated(data):
        raise Reject("animated", checked.format)
    if filters.min_contrast is not None or filters.min_colour is not None:
        contrast, colour = contrast_and_colour(checked.picture)
        if filters.min_contrast is not None and contrast < filters.min_contrast:
            raise Reject("blank", f"contrast {contrast:.2f}")
        if filters.min_colour is not None and colour < filters.min_colour:
            raise Reject("grey", f"colour {colour:.2f}")


def contrast_and_colour(picture: Image.Image) -> tuple[float, float]:
    """Standard deviation of the most varied channel, and mean difference of a pixel's channels; of 255."""
    factor = max(1, min(picture.size) // LOOKED_AT_PX)
    pixels_HWC = np.asarray(picture.reduce(factor), np.float32)
    spread_HW = pixels_HWC.max(2) - pixels_HWC.min(2)
    return float(pixels_HWC.std((0, 1)).max()), float(spread_HW.mean())
