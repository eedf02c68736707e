"""Reads captions back: what they say, whether it is true of a scene, which objects they describe.

The judges are trained and measured with it: a caption of one scene may well be true of another ("a circle").
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ddt.scenes.words import NUMBER_WORDS, plural
from ddt.scenes.world import (
    BACKGROUNDS,
    COLORS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    Object,
    Scene,
    group_relations,
    place,
)

_COUNTS = {"a": 1, "an": 1, **{word: number for number, word in enumerate(NUMBER_WORDS)}}
_NOUNS = {name: shape for shape in SHAPES for name in (shape, plural(shape))}


def _either(names: Sequence[str]) -> str:
    return "(?:" + "|".join(sorted(names, key=len, reverse=True)) + ")"


_PHRASE = re.compile(
    rf"\b(?P<count>{_either(list(_COUNTS))}) (?:(?P<size>{_either(SIZES)}) )?"
    rf"(?:(?P<texture>{_either(TEXTURES)}) )?(?:(?P<color>{_either(COLORS)}) )?"
    rf"(?P<noun>{_either(list(_NOUNS))})\b"
    rf"(?P<places>(?:(?: at the|,| and)? {_either(PLACES)}\b(?! of))*)"
)
_RELATION = re.compile(rf" (?:to the )?(?P<name>{_either(RELATIONS)}) (?:a|an|{_either(NUMBER_WORDS)}) ")
_BACKGROUND = re.compile(rf"\bon an? (?P<name>{_either(BACKGROUNDS)}) background")
_PLACE = re.compile(rf"\b{_either(PLACES)}\b")


@dataclass(frozen=True)
class Phrase:
    """`count` objects of a shape, with what else is said of them; None and () where nothing is said."""

    count: int
    size: str | None
    texture: str | None
    color: str | None
    shape: str
    places: tuple[str, ...]

    def fits(self, item: Object) -> bool:
        """Whether every attribute that is named is the object's."""
        named = (self.size, self.texture, self.color, self.shape)
        has = (item.size, item.texture, item.color, item.shape)
        return all(name is None or name == value for name, value in zip(named, has, strict=True))

    @property
    def num_named(self) -> int:
        return sum(name is not None for name in (self.size, self.texture, self.color))


@dataclass(frozen=True)
class Statement:
    """What a caption says: its noun phrases, the relation between the first two, the background."""

    phrases: tuple[Phrase, ...]
    relation: str | None
    background: str | None

    @property
    def shapes(self) -> tuple[tuple[str, int], ...]:
        """How many of each shape: equal to `shapes_of` of every scene the statement is true of."""
        counts: Counter[str] = Counter()
        for phrase in self.phrases:
            counts[phrase.shape] += phrase.count
        return tuple(sorted(counts.items()))


def shapes_of(scene: Scene) -> tuple[tuple[str, int], ...]:
    """How many of each shape the scene has, sorted."""
    return tuple(sorted(Counter(item.shape for item in scene.objects).items()))


@lru_cache(maxsize=65536)
def read(caption: str) -> Statement:
    """The statement of a caption; no phrases where it names no shape."""
    phrases = tuple(
        Phrase(
            _COUNTS[match["count"]],
            match["size"],
            # the long form says where each object is and leaves "solid" unsaid
            match["texture"] or ("solid" if match["places"] else None),
            match["color"],
            _NOUNS[match["noun"]],
            tuple(_PLACE.findall(match["places"])),
        )
        for match in _PHRASE.finditer(caption)
    )
    relation, background = _RELATION.search(caption), _BACKGROUND.search(caption)
    return Statement(
        phrases, relation["name"] if relation else None, background["name"] if background else None
    )


def holds(statement: Statement, scene: Scene) -> bool:
    """Whether the statement is true of the scene and counts all of its objects."""
    if not statement.phrases or statement.background not in (None, scene.background):
        return False
    left = list(scene.objects)
    groups: dict[Phrase, list[Object]] = {}
    # the most telling phrases first: "a striped red circle and a red circle" are two different objects
    for phrase in sorted(statement.phrases, key=lambda phrase: -phrase.num_named):
        fitting = [item for item in left if phrase.fits(item)]
        if len(fitting) < phrase.count:
            return False
        if phrase.places and Counter(phrase.places) != Counter(place(item) for item in fitting):
            return False
        groups[phrase] = fitting[: phrase.count]
        left = [item for item in left if item not in groups[phrase]]
    if left:
        return False
    if statement.relation is None:
        return True
    first, second = statement.phrases[:2]
    return statement.relation in group_relations(groups[first], groups[second])


def described(caption: str) -> Counter[tuple[str, ...]]:
    """The objects that a long caption describes, as (size, texture, color, shape, place)."""
    found: Counter[tuple[str, ...]] = Counter()
    for phrase in read(caption).phrases:
        if len(phrase.places) != phrase.count:
            continue  # not the long form: which object is where can't be told
        for where in phrase.places:
            found[phrase.size or "", phrase.texture or "", phrase.color or "", phrase.shape, where] += 1
    return found


def objects_of(scene: Scene) -> Counter[tuple[str, ...]]:
    """The scene's objects in the form of `described`."""
    return Counter((item.size, item.texture, item.color, item.shape, place(item)) for item in scene.objects)
