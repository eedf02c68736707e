"""Scenes that differ from a given one in a single respect: the hard negatives of contrastive training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ddt.scenes.sample import fits, pick, place_at_random
from ddt.scenes.world import BACKGROUNDS, COLORS, MAX_OBJECTS, RADIUS, SHAPES, SIZES, TEXTURES, Object, Scene

Mutation = Callable[[np.random.Generator, Scene], Scene | None]


def mutate(rng: np.random.Generator, scene: Scene) -> Scene:
    """`scene` with one thing changed: a colour, shape, texture, size, count, place, binding or background."""
    while True:
        changed = pick(rng, MUTATIONS)(rng, scene)
        if changed is not None and changed != scene and _valid(changed.objects):
            return changed


def _valid(objects: Sequence[Object]) -> bool:
    return all(fits(item, objects[:index]) for index, item in enumerate(objects))


def _kinds(scene: Scene) -> list[tuple[str, str]]:
    return sorted({item.kind for item in scene.objects})


def _other(rng: np.random.Generator, names: Sequence[str], name: str) -> str:
    return pick(rng, [other for other in names if other != name])


def _change_kind(scene: Scene, kind: tuple[str, str], **changes: Any) -> Scene:
    """All objects of one kind changed alike, so that their count stays."""
    return replace(
        scene,
        objects=tuple(replace(item, **changes) if item.kind == kind else item for item in scene.objects),
    )


def recolor(rng: np.random.Generator, scene: Scene) -> Scene | None:
    kind = pick(rng, _kinds(scene))
    return _change_kind(scene, kind, color=_other(rng, COLORS, kind[0]))


def reshape(rng: np.random.Generator, scene: Scene) -> Scene | None:
    kind = pick(rng, _kinds(scene))
    return _change_kind(scene, kind, shape=_other(rng, SHAPES, kind[1]))


def retexture(rng: np.random.Generator, scene: Scene) -> Scene | None:
    kind = pick(rng, _kinds(scene))
    texture = next(item.texture for item in scene.objects if item.kind == kind)
    return _change_kind(scene, kind, texture=_other(rng, TEXTURES, texture))


def resize(rng: np.random.Generator, scene: Scene) -> Scene | None:
    kind = pick(rng, _kinds(scene))
    size = _other(rng, SIZES, next(item.size for item in scene.objects if item.kind == kind))
    return _change_kind(scene, kind, size=size, radius=RADIUS[size])


def add_one(rng: np.random.Generator, scene: Scene) -> Scene | None:
    """One more object, a twin of one that is there or (in a third of the cases) of another kind."""
    if len(scene.objects) == MAX_OBJECTS:
        return None
    twin = pick(rng, scene.objects)
    if rng.random() < 1 / 3:
        twin = replace(twin, shape=pick(rng, SHAPES), color=pick(rng, COLORS))
    placed = place_at_random(rng, twin, scene.objects)
    return None if placed is None else replace(scene, objects=(*scene.objects, placed))


def remove_one(rng: np.random.Generator, scene: Scene) -> Scene | None:
    if len(scene.objects) == 1:
        return None
    gone = int(rng.integers(len(scene.objects)))
    return replace(scene, objects=scene.objects[:gone] + scene.objects[gone + 1 :])


def swap_places(rng: np.random.Generator, scene: Scene) -> Scene | None:
    """Two objects of different kinds trade places: the same objects in another relation."""
    return _swap(rng, scene, ("x", "y"))


def swap_colors(rng: np.random.Generator, scene: Scene) -> Scene | None:
    """Two kinds trade colours: the same words bound otherwise."""
    return _swap(rng, scene, ("color",))


def _swap(rng: np.random.Generator, scene: Scene, fields: tuple[str, ...]) -> Scene | None:
    objects = list(scene.objects)
    pairs = [
        (i, j) for i in range(len(objects)) for j in range(i) if objects[i].kind != objects[j].kind
    ]  # fmt: skip
    if not pairs:
        return None
    i, j = pick(rng, pairs)
    first, second = objects[i], objects[j]
    objects[i] = replace(first, **{name: getattr(second, name) for name in fields})
    objects[j] = replace(second, **{name: getattr(first, name) for name in fields})
    return replace(scene, objects=tuple(objects))


def mirror(rng: np.random.Generator, scene: Scene) -> Scene | None:
    """The arrangement mirrored across one axis."""
    axis = pick(rng, ("x", "y"))
    objects = tuple(replace(item, **{axis: 1 - getattr(item, axis)}) for item in scene.objects)
    return replace(scene, objects=objects)


def move(rng: np.random.Generator, scene: Scene) -> Scene | None:
    index = int(rng.integers(len(scene.objects)))
    others = scene.objects[:index] + scene.objects[index + 1 :]
    placed = place_at_random(rng, scene.objects[index], others)
    if placed is None:
        return None
    return replace(scene, objects=(*scene.objects[:index], placed, *scene.objects[index + 1 :]))


def repaint_background(rng: np.random.Generator, scene: Scene) -> Scene | None:
    return replace(scene, background=_other(rng, BACKGROUNDS, scene.background))


MUTATIONS: tuple[Mutation, ...] = (
    recolor, recolor, reshape, reshape, retexture, resize, add_one, remove_one,
    swap_places, swap_colors, mirror, move, repaint_background,
)  # fmt: skip
