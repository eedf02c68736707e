"""Which objects that should be in a picture were found at their place, each by a find of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ddt.scenes.detect import Detection
from ddt.scenes.world import Box

# An object that should stay may have its centre this far away on each axis, in image sides. Objects stand on
# a grid of eighths: one step away is too far, whatever fraction of a pixel the detector errs by.
IN_PLACE = 0.1


@dataclass(frozen=True)
class Wanted:
    """An object whose centre should be in `where`, in image sides; of any shape or size where None."""

    color: str
    shape: str | None
    where: Box
    size: str | None = None


def around(x: float, y: float) -> Box:
    """Where the centre of an object may be found that should be at (x, y)."""
    return x - IN_PLACE, y - IN_PLACE, x + IN_PLACE, y + IN_PLACE


def placed(wanted: Sequence[Wanted], found: Sequence[Detection], side_px: int) -> list[bool]:
    """For each wanted object whether it has a find of its colour, shape and size where it should be.

    A find answers for one object only; of all ways to assign them, one with the most objects found is taken.
    """
    fits = [[j for j, item in enumerate(found) if _fits(object_, item, side_px)] for object_ in wanted]
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


def _fits(wanted: Wanted, item: Detection, side_px: int) -> bool:
    (x, y), (x1, y1, x2, y2) = center(item, side_px), wanted.where
    there = x1 <= x <= x2 and y1 <= y <= y2
    looks = wanted.shape in (None, item.shape) and wanted.size in (None, item.size)
    return there and item.color == wanted.color and looks


def center(item: Detection, side_px: int) -> tuple[float, float]:
    """The middle of the find's box, in image sides."""
    return (item.box[0] + item.box[2]) / 2 / side_px, (item.box[1] + item.box[3]) / 2 / side_px
