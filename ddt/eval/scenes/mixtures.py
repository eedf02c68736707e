"""Mixtures and parts of two scenes: what the detector still reads of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ddt.eval.drawn_from_parts import DrawnFromParts
from ddt.eval.report.pictures import BLANK_GREY
from ddt.eval.scenes.placement import Wanted, around, center, placed
from ddt.scenes.detect import Detection, Reading, read


def read_mixtures(picture: np.ndarray, partner: np.ndarray, drawn: DrawnFromParts) -> dict[str, Any]:
    """What the detector reads: how much of the scene each prefix has, and whether mixtures are valid.

    `region_…` is the same of the spatial reference, `grey_…` of a plain grey picture, `cut_valid` of the
    upper half of the partner over the lower half of the picture, both as they are.
    """
    side_px, asked, other = picture.shape[0], read(picture), read(partner)
    readings = [read(image) for image in drawn.prefixes]
    middle = side_px // 2
    cut = np.concatenate([partner[:middle], picture[middle:]])

    def valid(found: Reading) -> float:
        return _is_of_either(found, asked, other, side_px)

    def kept(prefix: str, found: Sequence[Reading]) -> dict[str, list[float]]:
        return {
            f"{prefix}background": [float(each.background == asked.background) for each in found],
            f"{prefix}placed": [_share(asked, each, side_px, False) for each in found],
            f"{prefix}kept": [_share(asked, each, side_px, True) for each in found],
        }

    return {
        **kept("prefix_", readings),
        **kept("region_prefix_", [read(image) for image in drawn.region_prefixes]),
        **kept("grey_", [read(np.full_like(picture, BLANK_GREY))]),
        "exchange_valid": valid(read(drawn.mixtures[0])),
        "region_exchange_valid": valid(read(drawn.region_mixtures[0])),
        "cut_valid": valid(read(cut)),
        "own_valid": valid(readings[-1]),
        "picture_valid": valid(asked),
    }


def _share(asked: Reading, found: Reading, side_px: int, with_shape: bool) -> float:
    """Of the objects asked for, those that were found in colour and place, and in shape where it counts."""
    wanted = [_wanted(item, side_px, with_shape) for item in asked.detections]
    return sum(placed(wanted, found.detections, side_px)) / max(1, len(wanted))


def _wanted(item: Detection, side_px: int, with_shape: bool) -> Wanted:
    return Wanted(item.color, item.shape if with_shape else None, around(*center(item, side_px)))


def _is_of_either(found: Reading, one: Reading, other: Reading, side_px: int) -> float:
    """1 where there are objects, each of them and the background of one of the two pictures."""
    known = [*one.detections, *other.detections]
    wanted = [_wanted(item, side_px, True) for item in found.detections]
    whole = bool(wanted) and all(placed(wanted, known, side_px))
    return float(whole and found.background in (one.background, other.background))
