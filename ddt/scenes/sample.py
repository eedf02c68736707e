"""Draws random scenes, and scenes that satisfy a partial description (for benchmarks' ground truth)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

from ddt.scenes.world import (
    BACKGROUNDS,
    COLORS,
    EXTENT,
    GRID,
    HELD_OUT,
    MAX_OBJECTS,
    PARTS,
    RADIUS,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    Box,
    Object,
    Scene,
    check_name,
    group_relations,
    part,
)

T = TypeVar("T")

KINDS: tuple[tuple[str, str], ...] = tuple((color, shape) for color in COLORS for shape in SHAPES)
SEEN_KINDS: tuple[tuple[str, str], ...] = tuple(kind for kind in KINDS if kind not in HELD_OUT)
HELD_OUT_KINDS: tuple[tuple[str, str], ...] = tuple(kind for kind in KINDS if kind in HELD_OUT)

NUM_OBJECTS_SHARE = (0.28, 0.47, 0.15, 0.10)  # of scenes with 1, 2, 3, 4 objects
# How n objects split into kinds, with shares. Repeated kinds are common so that counting can be learnt.
SPLITS: dict[int, tuple[tuple[float, tuple[int, ...]], ...]] = {
    1: ((1.0, (1,)),),
    2: ((0.25, (2,)), (0.75, (1, 1))),
    3: ((0.50, (3,)), (0.25, (2, 1)), (0.25, (1, 1, 1))),
    4: ((0.55, (4,)), (0.15, (3, 1)), (0.15, (2, 2)), (0.15, (1, 1, 1, 1))),
}
LARGE_SHARE = (0.3, 0.3, 0.15, 0.05)  # of groups that are large, by the number of objects: room is limited
TEXTURED_SHARE = 0.15
MARGIN = 0.025  # from the border
GAP = 0.05  # between boxes: 1.6 px at 32 px, so neighbours stay apart when blurred
LAYOUT_TRIES = 40
SPEC_KEYS = ("shape", "count", "color", "texture", "size")


def pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    """One of `items`, uniformly (`rng.choice` is about twenty times slower)."""
    return items[int(rng.random() * len(items))]


def weighted(rng: np.random.Generator, options: Sequence[tuple[float, T]]) -> T:
    """One of the values of `options`, pairs of (share, value) whose shares sum to 1."""
    u = rng.random()
    for share, value in options:
        u -= share
        if u < 0:
            return value
    return options[-1][1]


def _texture(rng: np.random.Generator) -> str:
    return "solid" if rng.random() >= TEXTURED_SHARE else pick(rng, TEXTURES[1:])


def make_object(shape: str, color: str, texture: str, size: str) -> Object:
    """An object that is not yet placed."""
    return Object(shape, color, texture, size, 0.5, 0.5, RADIUS[size])


def apart(box_a: Box, box_b: Box) -> bool:
    """Whether two boxes keep their distance."""
    (x1, y1, x2, y2), (u1, v1, u2, v2) = box_a, box_b
    return max(u1 - x2, x1 - u2, v1 - y2, y1 - v2) >= GAP


def fits(item: Object, others: Sequence[Object]) -> bool:
    """Whether `item` lies inside the picture and apart from each of `others`."""
    x1, y1, x2, y2 = item.box
    if min(x1, y1) < MARGIN or max(x2, y2) > 1 - MARGIN:
        return False
    return all(apart(item.box, other.box) for other in others)


def place_at_random(rng: np.random.Generator, item: Object, others: Sequence[Object]) -> Object | None:
    """`item` moved to one of the free points of the grid, or None where there is none."""
    half, top, bottom = (value * item.radius for value in EXTENT[item.shape])
    boxes = [other.box for other in others]
    free = [
        (x, y)
        for x in _lines(-half, half)
        for y in _lines(top, bottom)
        if all(apart((x - half, y + top, x + half, y + bottom), box) for box in boxes)
    ]
    if not free:
        return None
    x, y = pick(rng, free)
    return replace(item, x=x, y=y)


@lru_cache(maxsize=256)
def _lines(low: float, high: float) -> tuple[float, ...]:
    """Where a line of the grid may pass an object that reaches from `low` to `high` of its centre."""
    first, last = math.ceil((MARGIN - low) * GRID), math.floor((1 - MARGIN - high) * GRID)
    return tuple(line / GRID for line in range(first, last + 1))


def lay_out(rng: np.random.Generator, items: Sequence[Object]) -> tuple[Object, ...] | None:
    """All items at free random spots, in the order given, or None if it did not work out this time."""
    placed: list[Object] = []
    # the largest first: small ones find room more easily
    for index in sorted(range(len(items)), key=lambda i: -items[i].radius):
        moved = place_at_random(rng, items[index], placed)
        if moved is None:
            return None
        placed.append(moved)
    order = sorted(range(len(items)), key=lambda i: -items[i].radius)
    return tuple(placed[order.index(index)] for index in range(len(items)))


def _shrunk(items: Sequence[Object]) -> list[Object]:
    return [replace(item, size="small", radius=RADIUS["small"]) for item in items]


def sample_scene(
    rng: np.random.Generator,
    *,
    held_out: bool = False,
    num_objects: int | None = None,
    same_kind: bool | None = None,
    parts: Sequence[int] = range(PARTS),
) -> Scene:
    """A random scene of 1 to 4 objects that belongs to one of `parts` (`world.part`).

    held_out False: no held-out (color, shape) at all; True: at least one object has such a combination.
    num_objects None: 1 to 4 by `NUM_OBJECTS_SHARE`. same_kind True: all objects of one kind ("three red
    circles"); False: all kinds differ. ValueError for a number of objects outside 1..4.
    """
    if num_objects is None:
        num_objects = weighted(rng, [(share, n + 1) for n, share in enumerate(NUM_OBJECTS_SHARE)])
    if not 1 <= num_objects <= MAX_OBJECTS:
        raise ValueError(f"num_objects: got {num_objects}, must be 1 to {MAX_OBJECTS}")
    if same_kind is None:
        split = weighted(rng, SPLITS[num_objects])
    else:
        split = (num_objects,) if same_kind else (1,) * num_objects
    while True:
        items = _random_items(rng, split, held_out)
        for _ in range(LAYOUT_TRIES):
            objects = lay_out(rng, items)
            if objects is None:
                items = _shrunk(items)  # four small objects always find room within a few tries
                continue
            first = int(rng.random() * len(BACKGROUNDS))
            for background in BACKGROUNDS[first:] + BACKGROUNDS[:first]:
                scene = Scene(background, objects)
                if part(scene) in parts:
                    return scene


def _random_items(rng: np.random.Generator, split: Sequence[int], held_out: bool) -> list[Object]:
    """Objects not yet placed: for each number in `split` as many of one kind, size and texture."""
    items: list[Object] = []
    for (color, shape), count in zip(_distinct_kinds(rng, len(split), held_out), split, strict=True):
        size = "large" if rng.random() < LARGE_SHARE[sum(split) - 1] else "small"
        texture = _texture(rng)
        items.extend([make_object(shape, color, texture, size)] * count)
    return items


def _distinct_kinds(rng: np.random.Generator, count: int, held_out: bool) -> list[tuple[str, str]]:
    kinds = [pick(rng, HELD_OUT_KINDS)] if held_out else []
    pool = KINDS if held_out else SEEN_KINDS
    while len(kinds) < count:
        kind = pick(rng, pool)
        if kind not in kinds:
            kinds.append(kind)
    if held_out and count > 1 and rng.random() < 0.5:
        kinds.reverse()
    return kinds


def scene_from_spec(
    rng: np.random.Generator,
    groups: Sequence[Mapping[str, Any]],
    *,
    relation: tuple[int, str, int] | None = None,
    background: str | None = None,
) -> Scene:
    """A scene that shows exactly the described groups of objects, all else random.

    groups: mappings with `shape`, and optionally `count` (1), `color`, `texture`, `size`. relation
    (a, "left of", b): group a lies so from group b by GenEval's rule, every object of a to every one of b.
    A colour that is not given never makes a held-out combination; groups of one shape without colours get
    different ones. ValueError for unknown names, more than four objects or a layout that can't be found.
    """
    _check_spec(groups, relation)
    background = check_name("background", background, BACKGROUNDS) if background else pick(rng, BACKGROUNDS)
    members = _spec_members(rng, groups)
    index = [g for g, group in enumerate(members) for _ in group]
    items = [item for group in members for item in group]
    fixed_size = [groups[g].get("size") for g in index]
    for attempt in range(2000):
        objects = lay_out(rng, items)
        if objects is not None and (relation is None or _holds(objects, index, relation)):
            return Scene(background, objects)
        if attempt % 20 == 19:  # crowded: what was not asked to be large becomes small
            items = [
                item if size else _shrunk([item])[0] for item, size in zip(items, fixed_size, strict=True)
            ]
    raise ValueError(f"groups: found no layout of {len(items)} objects with relation {relation!r}")


def _check_spec(groups: Sequence[Mapping[str, Any]], relation: tuple[int, str, int] | None) -> None:
    for group in groups:
        if unknown := set(group) - set(SPEC_KEYS):
            raise ValueError(
                f"groups: unknown key {sorted(unknown)[0]!r}, allowed are {', '.join(SPEC_KEYS)}"
            )
        check_name("shape", group.get("shape"), SHAPES)
        for key, allowed in (("color", COLORS), ("texture", TEXTURES), ("size", SIZES)):
            if group.get(key) is not None:
                check_name(key, group[key], allowed)
        if not 1 <= group.get("count", 1) <= MAX_OBJECTS:
            raise ValueError(f"count: got {group['count']}, must be 1 to {MAX_OBJECTS}")
    total = sum(group.get("count", 1) for group in groups)
    if not 1 <= total <= MAX_OBJECTS:
        raise ValueError(f"groups: {total} objects in all, must be 1 to {MAX_OBJECTS}")
    if relation is not None:
        check_name("relation", relation[1], RELATIONS)
        for index in (relation[0], relation[2]):
            if not 0 <= index < len(groups):
                raise ValueError(f"relation: got group {index}, there are {len(groups)}")


def _holds(objects: Sequence[Object], index: Sequence[int], relation: tuple[int, str, int]) -> bool:
    a, name, b = relation
    group_a = [item for item, g in zip(objects, index, strict=True) if g == a]
    group_b = [item for item, g in zip(objects, index, strict=True) if g == b]
    return name in group_relations(group_a, group_b)


def _spec_members(rng: np.random.Generator, groups: Sequence[Mapping[str, Any]]) -> list[list[Object]]:
    taken = {(group["color"], group["shape"]) for group in groups if group.get("color")}
    members = []
    for group in groups:
        shape, color = group["shape"], group.get("color")
        if color is None:
            color = pick(rng, [c for c, s in SEEN_KINDS if s == shape and (c, s) not in taken])
            taken.add((color, shape))
        texture = group.get("texture") or _texture(rng)
        size = group.get("size") or pick(rng, SIZES)
        count = group.get("count", 1)
        members.append([make_object(shape, color, texture, size)] * count)
    return members
