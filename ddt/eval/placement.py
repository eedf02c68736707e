"""Which objects that should be in a picture were found at their place, each by a find of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ddt.scenes.detect import Detection


@dataclass(frozen=True)
class Wanted:
    """An object that should be there: its centre in image sides; any shape will do where it is None."""

    color: str
    shape: str | None
    x: float
    y: float


def placed(wanted: Sequence[Wanted], found: Sequence[Detection], side_px: int, reach: float) -> list[bool]:
    """For each wanted object whether it has a find of its colour and shape within `reach` of its place.

    `reach` is the largest distance of the centres on each axis, in image sides. A find answers for one object
    only; of all ways to assign them, one with the most objects found is taken.
    """
    fits = [[j for j, item in enumerate(found) if _fits(object_, item, side_px, reach)] for object_ in wanted]
    owner: dict[int, int] = {}  # find -> the wanted object it answers for
    for i in range(len(wanted)):
        _assign(i, fits, owner, set())
    answered = set(owner.values())
    return [i in answered for i in range(len(wanted))]


def _assign(i: int, fits: Sequence[Sequence[int]], owner: dict[int, int], tried: set[int]) -> bool:
    """Give wanted object i a find, moving others to another of theirs where need be (Kuhn's algorithm)."""
    for j in fits[i]:
        if j in tried:
            continue
        tried.add(j)
        if j not in owner or _assign(owner[j], fits, owner, tried):
            owner[j] = i
            return True
    return False


def _fits(wanted: Wanted, item: Detection, side_px: int, reach: float) -> bool:
    x, y = center(item, side_px)
    near = abs(x - wanted.x) <= reach and abs(y - wanted.y) <= reach
    return near and item.color == wanted.color and wanted.shape in (None, item.shape)


def center(item: Detection, side_px: int) -> tuple[float, float]:
    """The middle of the find's box, in image sides."""
    return (item.box[0] + item.box[2]) / 2 / side_px, (item.box[1] + item.box[3]) / 2 / side_px
