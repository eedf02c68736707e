"""Writes about scenes: short native captions, exact long captions, and text-only paragraphs.

Everything said is true of the scene: counts are exact for the phrase used, and a relation is stated only
where GenEval's rule accepts it between every pair of objects. Questions are written in `questions.py` and
can be imported from here too.
"""

from __future__ import annotations

import numpy as np

from ddt.scenes.questions import QUESTION_KINDS, Question, questions, yes_no_pair
from ddt.scenes.sample import SEEN_KINDS, pick, weighted
from ddt.scenes.words import NUMBER_WORDS, Group, article, counted, group_objects, join, plural
from ddt.scenes.world import (
    BACKGROUNDS,
    OPPOSITE,
    RELATIONS,
    Scene,
    group_relations,
    place,
)

__all__ = [
    "Question",
    "QUESTION_KINDS",
    "long_caption",
    "paragraph",
    "questions",
    "short_caption",
    "yes_no_pair",
]

# Which attributes a short caption names beside the shape, with shares; prompts ask for shape and colour, or
# shape alone.
NAMED: tuple[tuple[float, tuple[str, ...]], ...] = (
    (0.20, ()),
    (0.50, ("color",)),
    (0.10, ("size", "color")),
    (0.10, ("texture", "color")),
    (0.10, ("size", "texture", "color")),
)
PREFIXES = ("a photo of ", "a picture of ", "an image of ")
PREFIX_SHARE = 0.5
BACKGROUND_SHARE = 0.25
RELATION_SHARE = 0.6  # of captions of exactly two groups between which a relation holds
LONG_FORM_RELATION_SHARE = 0.15  # "to the left of" instead of "left of"


def _phrase(group: Group) -> str:
    return counted(group[0], len(group[1]))


def say_relation(relation: str, rng: np.random.Generator) -> str:
    """The relation's wording: as GenEval words it, or now and then "to the left of"."""
    if relation in RELATIONS[:2] and rng.random() < LONG_FORM_RELATION_SHARE:
        return "to the " + relation
    return relation


def short_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A native caption as found beside pictures: true and complete in counts, not in attributes.

    "a red circle", "two blue squares", "a photo of a red circle left of a blue square on a grey background".
    """
    groups = group_objects(scene.objects, weighted(rng, NAMED))
    if rng.random() < 0.5:
        groups.reverse()
    body = None
    if len(groups) == 2 and rng.random() < RELATION_SHARE:
        holding = sorted(group_relations(groups[0][1], groups[1][1]))
        if holding:
            body = f"{_phrase(groups[0])} {say_relation(pick(rng, holding), rng)} {_phrase(groups[1])}"
    if body is None:
        body = join([_phrase(group) for group in groups])
    prefix = pick(rng, PREFIXES[:1] * 2 + PREFIXES) if rng.random() < PREFIX_SHARE else ""
    suffix = f" on {article(scene.background)} background" if rng.random() < BACKGROUND_SHARE else ""
    return prefix + body + suffix


def long_caption(scene: Scene, rng: np.random.Generator | None = None) -> str:
    """Detailed caption: number of objects, background, and each object's size, texture, colour, shape, place.

    Objects of one description are told together. Exact: a scene gives one caption up to the order of its
    objects, which is by reading order, or random when `rng` is given. Solid is left unsaid. At most about
    28 words: with three or four objects the places come without "at the".
    """
    objects = sorted(scene.objects, key=lambda item: (item.y, item.x))
    groups = group_objects(objects, ("size", "texture", "color"))
    if rng is not None:
        groups = [groups[i] for i in rng.permutation(len(groups))]
    total = len(objects)
    at = " at the " if total <= 2 else " "
    parts = [_phrase(group) + at + join([place(item) for item in group[1]]) for group in groups]
    noun = "object" if total == 1 else "objects"
    return f"{NUMBER_WORDS[total]} {noun} on {article(scene.background)} background: {join(parts)}."


_SENTENCES = (
    "the {b} is {color}.",
    "{a1} lies {relation} {a2}.",
    "the background is {background}.",
    "{count} {bs} stand on {background} ground.",
    "if {a1} is {relation} {a2}, then {a2} is {opposite} {a1}.",
    "one and {less} make {count_more}.",
    "{count_more} is more than {less}.",
    "a {b} is a shape, and {color} is a color.",
    "a large {b} is bigger than a small one.",
    "a striped {b} has bands of two tones of {color}.",
    "a checkered {b} has squares of two tones of {color}.",
    "a picture of {a1} and {a2} shows two objects.",
)


def paragraph(rng: np.random.Generator, num_sentences: int = 3) -> str:
    """Text-only paragraph about this world, as Wikipedia is about ours; mentions no held-out combination."""
    sentences = []
    for _ in range(num_sentences):
        (color, shape), (color2, shape2) = pick(rng, SEEN_KINDS), pick(rng, SEEN_KINDS)
        less = 1 + int(rng.random() * 3)
        relation = pick(rng, RELATIONS)
        sentences.append(
            pick(rng, _SENTENCES).format(
                b=shape,
                bs=plural(shape),
                color=color,
                a1=article(f"{color} {shape}"),
                a2=article(f"{color2} {shape2}"),
                relation=relation,
                opposite=OPPOSITE[relation],
                background=pick(rng, BACKGROUNDS),
                count=NUMBER_WORDS[2 + int(rng.random() * 3)],
                count_more=NUMBER_WORDS[less + 1],
                less=NUMBER_WORDS[less],
            )
        )
    return " ".join(sentences)
