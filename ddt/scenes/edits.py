"""Editing pairs: a scene, an instruction, and the one scene that follows from it.

An instruction leaves nothing open: what is added or moved goes to the fixed point of a named place
(`PLACE_POINTS`), a group of equal objects is changed as a whole, everything else stays to the pixel. What it
asks for is to be seen: no object is moved by less than two steps of the grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ddt.scenes.sample import KINDS, SEEN_KINDS, fits, pick, sample_scene
from ddt.scenes.words import article, plural
from ddt.scenes.world import (
    BACKGROUNDS,
    COLORS,
    GRID,
    HELD_OUT,
    MAX_OBJECTS,
    PARTS,
    PLACES,
    RADIUS,
    SHAPES,
    SIZES,
    Object,
    Scene,
    is_held_out,
    part,
)

EDIT_KINDS = ("recolor", "replace", "add", "remove", "move", "background")
DIRECTIONS = ("left", "right")  # of the places' names

# where an object told to be at a place goes: its centre, in image sides; far enough from the border for
# every shape of any size
PLACE_POINTS: dict[str, tuple[float, float]] = {
    name: ((0.25, 0.5, 0.75)[index % 3], (0.25, 0.5, 0.75)[index // 3]) for index, name in enumerate(PLACES)
}

# Places are thirds and objects stand on eighths: one step of the grid may leave a place and yet pass its
# border by hardly more than a pixel of 32. Two steps away an object lies outside by a twelfth of the side.
MIN_MOVE = 2 / GRID  # on one axis at least, in image sides


@dataclass(frozen=True, slots=True)
class Edit:
    """`target` is `source` after `instruction`; `kind` is one of `EDIT_KINDS`."""

    source: Scene
    instruction: str
    target: Scene
    kind: str


Change = tuple[str, Scene]  # instruction, target


def _chosen_kind(scene: Scene, rng: np.random.Generator) -> tuple[tuple[str, str], str]:
    """One (color, shape) of the scene and how to name all its objects: "red circle" or "red circles"."""
    kind = pick(rng, sorted({item.kind for item in scene.objects}))
    count = sum(item.kind == kind for item in scene.objects)
    name = " ".join(kind)
    return kind, name if count == 1 else plural(name)


def _all_fit(scene: Scene) -> bool:
    return all(fits(item, scene.objects[:index]) for index, item in enumerate(scene.objects))


def _changed(scene: Scene, kind: tuple[str, str], **changes: str) -> Scene:
    objects = (replace(item, **changes) if item.kind == kind else item for item in scene.objects)  # type: ignore[arg-type]
    return replace(scene, objects=tuple(objects))


def _recolor(scene: Scene, rng: np.random.Generator) -> Change | None:
    (old, shape), name = _chosen_kind(scene, rng)
    new = pick(rng, [color for color in COLORS if color != old])
    form = pick(rng, ("make the {} {}", "change the color of the {} to {}", "paint the {} {}"))
    return form.format(name, new), _changed(scene, (old, shape), color=new)


def _replace(scene: Scene, rng: np.random.Generator) -> Change | None:
    kind, name = _chosen_kind(scene, rng)
    shape = pick(rng, [other for other in SHAPES if other != kind[1]])
    several = not name.endswith(kind[1])
    new = plural(shape) if several else article(shape)
    new_full = f"{kind[0]} {plural(shape)}" if several else article(f"{kind[0]} {shape}")
    form, noun = pick(rng, (("turn the {} into {}", new), ("replace the {} with {}", new_full)))
    return form.format(name, noun), _changed(scene, kind, shape=shape)


def _add(scene: Scene, rng: np.random.Generator) -> Change | None:
    if len(scene.objects) >= MAX_OBJECTS:
        return None
    color, shape = pick(rng, KINDS if is_held_out(scene) else SEEN_KINDS)
    size, where = pick(rng, SIZES), pick(rng, PLACES)
    x, y = PLACE_POINTS[where]
    item = Object(shape, color, "solid", size, x, y, RADIUS[size])
    form = pick(rng, ("add {} at the {}", "put {} at the {}"))
    text = form.format(article(f"{size} {color} {shape}"), where)
    return text, replace(scene, objects=(*scene.objects, item))


def _remove(scene: Scene, rng: np.random.Generator) -> Change | None:
    kind, name = _chosen_kind(scene, rng)
    kept = tuple(item for item in scene.objects if item.kind != kind)
    if not kept:
        return None
    return pick(rng, ("remove the {}", "delete the {}")).format(name), replace(scene, objects=kept)


def _move(scene: Scene, rng: np.random.Generator) -> Change | None:
    kind, name = _chosen_kind(scene, rng)
    if not name.endswith(kind[1]):  # several objects can't go to one place
        return None
    item = next(item for item in scene.objects if item.kind == kind)
    where = pick(rng, [name for name in PLACES if _is_a_move(item, name)])
    x, y = PLACE_POINTS[where]
    objects = (replace(other, x=x, y=y) if other is item else other for other in scene.objects)
    # "to the left" would be a direction: moved how far?
    forms = ("place the {} at the {}",) + (("move the {} to the {}",) if where not in DIRECTIONS else ())
    return pick(rng, forms).format(name, where), replace(scene, objects=tuple(objects))


def _is_a_move(item: Object, where: str) -> bool:
    x, y = PLACE_POINTS[where]
    return max(abs(x - item.x), abs(y - item.y)) >= MIN_MOVE


def _background(scene: Scene, rng: np.random.Generator) -> Change | None:
    new = pick(rng, [name for name in BACKGROUNDS if name != scene.background])
    form = pick(rng, ("change the background to {}", "make the background {}"))
    return form.format(new), replace(scene, background=new)


_CHANGES: dict[str, Callable[[Scene, np.random.Generator], Change | None]] = {
    "recolor": _recolor, "replace": _replace, "add": _add,
    "remove": _remove, "move": _move, "background": _background,
}  # fmt: skip


def edit_scene(scene: Scene, rng: np.random.Generator, kind: str) -> Edit | None:
    """A random edit of a kind of this scene, or None if none was found in a few tries.

    A scene without held-out combinations is never edited into one that has them. ValueError for another kind.
    """
    if kind not in _CHANGES:
        raise ValueError(f"kind: got {kind!r}, allowed are {', '.join(EDIT_KINDS)}")
    for _ in range(6):
        change = _CHANGES[kind](scene, rng)
        if change is None:
            continue
        instruction, target = change
        brings_held_out = any(item.kind in HELD_OUT for item in target.objects) and not is_held_out(scene)
        if not brings_held_out and _all_fit(target):
            return Edit(scene, instruction, target, kind)
    return None


def sample_edit(
    rng: np.random.Generator,
    *,
    kind: str | None = None,
    held_out: bool = False,
    parts: Sequence[int] = range(PARTS),
) -> Edit:
    """A random scene with a random edit of the given kind, or of any with equal shares; both in `parts`."""
    kind = pick(rng, EDIT_KINDS) if kind is None else kind
    while True:
        edit = edit_scene(sample_scene(rng, held_out=held_out, parts=parts), rng, kind)
        if edit is not None and part(edit.target) in parts:
            return edit
