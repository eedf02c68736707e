"""Mixtures and parts of two scenes: what the detector still reads of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ddt.eval.scenes.placement import Wanted, around, center, placed
from ddt.scenes.detect import Detection, Reading, read


def read_mixtures(
    picture: np.ndarray, partner: np.ndarray, drawn: Sequence[np.ndarray], exchanged: np.ndarray
) -> dict[str, Any]:
    """What the detector reads: how much of the scene each prefix has, and whether mixtures are valid."""
    side_px, asked, other = picture.shape[0], read(picture), read(partner)
    readings = [read(image) for image in drawn]
    middle = side_px // 2
    cut = np.concatenate([partner[:middle], picture[middle:]])

    def share(found: Reading, with_shape: bool) -> float:
        wanted = [_wanted(item, side_px, with_shape) for item in asked.detections]
        return sum(placed(wanted, found.detections, side_px)) / max(1, len(wanted))

    return {
        "prefix_background": [float(found.background == asked.background) for found in readings],
        "prefix_placed": [share(found, False) for found in readings],
        "prefix_kept": [share(found, True) for found in readings],
        "exchange_valid": _is_of_either(read(exchanged), asked, other, side_px),
        "cut_valid": _is_of_either(read(cut), asked, other, side_px),
        "own_valid": _is_of_either(readings[-1], asked, other, side_px),
        "picture_valid": _is_of_either(asked, asked, other, side_px),
    }


def _wanted(item: Detection, side_px: int, with_shape: bool) -> Wanted:
    return Wanted(item.color, item.shape if with_shape else None, around(*center(item, side_px)))


def _is_of_either(found: Reading, one: Reading, other: Reading, side_px: int) -> float:
    """1 where there are objects, each of them and the background of one of the two pictures."""
    known = [*one.detections, *other.detections]
    wanted = [_wanted(item, side_px, True) for item in found.detections]
    whole = bool(wanted) and all(placed(wanted, known, side_px))
    return float(whole and found.background in (one.background, other.background))
