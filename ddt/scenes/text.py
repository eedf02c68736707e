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
    Object,
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


def _reading_order(scene: Scene) -> list[Object]:
    return sorted(scene.objects, key=lambda item: (item.y, item.x))


def say_relation(relation: str, rng: np.random.Generator) -> str:
    """The relation's wording: as GenEval words it, or now and then "to the left of"."""
    if relation in RELATIONS[:2] and rng.random() < LONG_FORM_RELATION_SHARE:
        return "to the " + relation
    return relation


def short_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A native caption as found beside pictures: true and complete in counts, not in attributes.

    "a red circle", "two blue squares", "a photo of a red circle left of a blue square on a grey background".
    Kinds come in reading order but beside a relation, which is told from either side.
    """
    groups = group_objects(_reading_order(scene), weighted(rng, NAMED))
    body = None
    if len(groups) == 2 and rng.random() < RELATION_SHARE:
        one, other = groups if rng.random() < 0.5 else groups[::-1]
        holding = sorted(group_relations(one[1], other[1]))
        if holding:
            body = f"{_phrase(one)} {say_relation(pick(rng, holding), rng)} {_phrase(other)}"
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
    objects = _reading_order(scene)
    groups = group_objects(objects, ("size", "texture", "color"))
    if rng is not None:
        groups = [groups[i] for i in rng.permutation(len(groups))]
    total = len(objects)
    at = " at the " if total <= 2 else " "
    parts = [_phrase(group) + at + join([place(item) for item in group[1]]) for group in groups]
    noun = "object" if total == 1 else "objects"
    return f"{NUMBER_WORDS[total]} {noun} on {article(scene.background)} background: {join(parts)}."


# Of two objects of different color and shape: what a text begins with, and what it may go on to say of them.
_OPENINGS = (
    "{a1} lies {relation} {a2}.",
    "a picture shows {a1} {relation} {a2}.",
    "there are {a1} and {a2}.",
)
_FOLLOWING = (
    "the {shape1} is {color1}.",
    "the {shape2} is {color2}.",
    "the {color1} one is {a_shape1}.",
    "the {color2} one is {a_shape2}.",
)
_FOLLOWING_RELATION = (
    "the {shape1} is {relation} the {shape2}.",
    "the {shape2} is {opposite} the {shape1}.",
    "the {color2} one is {opposite} the {color1} one.",
)
_GENERAL = (
    "one and {less} make {count_more}.",
    "{count_more} is more than {less}.",
    "{a_shape1} is a shape, and {color2} is a color.",
    "a large {shape1} is bigger than a small one.",
    "a striped {shape2} has bands of two tones of {color2}.",
    "a checkered {shape2} has squares of two tones of {color2}.",
    "{count} {shapes1} stand on {background} ground.",
)
GENERAL_SHARE = 0.25


def paragraph(rng: np.random.Generator, num_sentences: int = 4) -> str:
    """Text-only paragraph about this world, as Wikipedia is about ours; mentions no held-out combination.

    It tells of two objects and comes back to them ("the circle is red"), so that text alone teaches which
    attribute belongs to which object: with independent sentences the language model never learned it.
    """
    while True:
        (color1, shape1), (color2, shape2) = pick(rng, SEEN_KINDS), pick(rng, SEEN_KINDS)
        if color1 != color2 and shape1 != shape2:
            break
    relation = pick(rng, RELATIONS)
    less = 1 + int(rng.random() * 3)
    words = dict(
        color1=color1,
        color2=color2,
        shape1=shape1,
        shape2=shape2,
        shapes1=plural(shape1),
        a1=article(f"{color1} {shape1}"),
        a2=article(f"{color2} {shape2}"),
        a_shape1=article(shape1),
        a_shape2=article(shape2),
        relation=relation,
        opposite=OPPOSITE[relation],
        background=pick(rng, BACKGROUNDS),
        count=NUMBER_WORDS[2 + int(rng.random() * 3)],
        less=NUMBER_WORDS[less],
        count_more=NUMBER_WORDS[less + 1],
    )
    opening = pick(rng, _OPENINGS)
    facts = _FOLLOWING + (_FOLLOWING_RELATION if "{relation}" in opening else ())
    told = iter(rng.permutation(len(facts)))
    sentences = [opening]
    for _ in range(num_sentences - 1):
        general = rng.random() < GENERAL_SHARE
        sentences.append(pick(rng, _GENERAL) if general else facts[next(told)])
    return " ".join(sentences).format(**words)
