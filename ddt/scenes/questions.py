"""Questions about a scene with exact short answers, balanced between yes and no.

Kinds: existence, color, shape, count, position, background, comparison. Yes/no questions are made in pairs
about the same picture, one true and one false (MME's form); a single question takes one of the two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ddt.scenes.sample import SEEN_KINDS, pick
from ddt.scenes.words import NUMBER_WORDS, article, counted, plural
from ddt.scenes.world import (
    BACKGROUNDS,
    COLORS,
    HELD_OUT,
    OPPOSITE,
    PLACES,
    SHAPES,
    Object,
    Scene,
    place,
    relations,
)

QUESTION_KINDS = ("existence", "color", "shape", "count", "position", "background", "comparison")

# every answer that a question of a kind can have, beside "yes" and "no": the options of multiple choice
ANSWERS: dict[str, tuple[str, ...]] = {
    "color": COLORS,
    "shape": SHAPES,
    "count": NUMBER_WORDS,
    "position": PLACES,
    "background": BACKGROUNDS,
}


@dataclass(frozen=True, slots=True)
class Question:
    """One question about a picture; `answer` is lower case, "yes", "no" or one or two words."""

    question: str
    answer: str
    kind: str


Pair = tuple[str, str]  # (question whose answer is yes, question whose answer is no)


def _name(item: Object, scene: Scene) -> str | None:
    """The shortest phrase that means only this object: "circle", else "red circle", else None."""
    if sum(other.shape == item.shape for other in scene.objects) == 1:
        return item.shape
    if sum(other.kind == item.kind for other in scene.objects) == 1:
        return f"{item.color} {item.shape}"
    return None


def _full_name(item: Object, scene: Scene) -> str | None:
    unique = sum(other.kind == item.kind for other in scene.objects) == 1
    return f"{item.color} {item.shape}" if unique else None


def _absent_kind(scene: Scene, item: Object, rng: np.random.Generator) -> tuple[str, str]:
    """A (color, shape) that the scene lacks; half of them differ from `item` in one attribute only."""
    present = {other.kind for other in scene.objects}
    near = [k for k in SEEN_KINDS if (k[0] == item.color) != (k[1] == item.shape) and k not in present]
    far = [k for k in SEEN_KINDS if k not in present]
    return pick(rng, near if near and rng.random() < 0.5 else far)


def _existence(scene: Scene, rng: np.random.Generator) -> Pair | None:
    item = pick(rng, scene.objects)
    if rng.random() < 0.3:
        absent_shapes = [s for s in SHAPES if all(other.shape != s for other in scene.objects)]
        there, not_there = item.shape, pick(rng, absent_shapes)
    else:
        there, not_there = f"{item.color} {item.shape}", " ".join(_absent_kind(scene, item, rng))
    form = pick(rng, ("Is there {} in the image?", "Is there {}?", "Does the image show {}?"))
    return form.format(article(there)), form.format(article(not_there))


def _color(scene: Scene, rng: np.random.Generator) -> Pair | None:
    item = pick(rng, scene.objects)
    if sum(other.shape == item.shape for other in scene.objects) != 1:
        return None
    wrong = [c for c in COLORS if c != item.color and (c, item.shape) not in HELD_OUT]
    return f"Is the {item.shape} {item.color}?", f"Is the {item.shape} {pick(rng, wrong)}?"


def _shape(scene: Scene, rng: np.random.Generator) -> Pair | None:
    item = pick(rng, scene.objects)
    if sum(other.color == item.color for other in scene.objects) != 1:
        return None
    wrong = [s for s in SHAPES if s != item.shape and (item.color, s) not in HELD_OUT]
    return (
        f"Is the {item.color} object {article(item.shape)}?",
        f"Is the {item.color} object {article(pick(rng, wrong))}?",
    )


def _counts(scene: Scene) -> Counter[str]:
    """How many objects each of the phrases "object", a shape, and colour with shape covers."""
    counts = Counter({"object": len(scene.objects)})
    counts.update(item.shape for item in scene.objects)
    counts.update(f"{item.color} {item.shape}" for item in scene.objects)
    return counts


def _are_there(phrase: str, count: int) -> str:
    if count == 1:
        return f"Is there exactly one {phrase} in the image?"
    return f"Are there {counted(phrase, count)} in the image?"


def _count(scene: Scene, rng: np.random.Generator) -> Pair | None:
    phrase, count = pick(rng, sorted(_counts(scene).items()))
    wrong = [n for n in range(1, 5) if n != count]
    return _are_there(phrase, count), _are_there(phrase, pick(rng, wrong))


def _position(scene: Scene, rng: np.random.Generator) -> Pair | None:
    order = rng.permutation(len(scene.objects))
    for i in order:
        for j in order:
            a, b = scene.objects[i], scene.objects[j]
            if i == j or not (holding := sorted(relations(a.box, b.box))):
                continue
            name_a, name_b = _full_name(a, scene), _full_name(b, scene)
            if name_a and name_b:
                relation = pick(rng, holding)
                form = f"Is the {name_a} {{}} the {name_b}?"
                return form.format(relation), form.format(OPPOSITE[relation])
    return None


def _background(scene: Scene, rng: np.random.Generator) -> Pair | None:
    wrong = pick(rng, [name for name in BACKGROUNDS if name != scene.background])
    return f"Is the background {scene.background}?", f"Is the background {wrong}?"


def _comparison(scene: Scene, rng: np.random.Generator) -> Pair | None:
    counts = Counter(item.shape for item in scene.objects)
    unequal = [(a, b) for a in counts for b in counts if counts[a] > counts[b]]
    if unequal and rng.random() < 0.5:
        more, less = pick(rng, unequal)
        form = "Are there more {} than {}?"
        return form.format(plural(more), plural(less)), form.format(plural(less), plural(more))
    sized = [(a, b) for a in scene.objects for b in scene.objects if (a.size, b.size) == ("large", "small")]
    named = [(x, y) for a, b in sized if (x := _full_name(a, scene)) and (y := _full_name(b, scene))]
    if not named:
        return None
    large, small = pick(rng, named)
    return f"Is the {large} larger than the {small}?", f"Is the {small} larger than the {large}?"


_PAIRS: dict[str, Callable[[Scene, np.random.Generator], Pair | None]] = {
    "existence": _existence, "color": _color, "shape": _shape, "count": _count,
    "position": _position, "background": _background, "comparison": _comparison,
}  # fmt: skip


def yes_no_pair(scene: Scene, rng: np.random.Generator, kind: str) -> tuple[Question, Question] | None:
    """Two questions of a kind about the scene, the first answered "yes", the second "no".

    None where the scene allows none (no unambiguous object in a few tries). ValueError for another kind.
    """
    if kind not in _PAIRS:
        raise ValueError(f"kind: got {kind!r}, allowed are {', '.join(QUESTION_KINDS)}")
    for _ in range(4):
        pair = _PAIRS[kind](scene, rng)
        if pair is not None:
            return Question(pair[0], "yes", kind), Question(pair[1], "no", kind)
    return None


def open_question(scene: Scene, rng: np.random.Generator, kind: str) -> Question | None:
    """A question of a kind answered by a word of `ANSWERS[kind]`; None where the scene allows none."""
    item = pick(rng, scene.objects)
    if kind == "color":
        unique = sum(other.shape == item.shape for other in scene.objects) == 1
        return Question(f"What color is the {item.shape}?", item.color, kind) if unique else None
    if kind == "shape":
        unique = sum(other.color == item.color for other in scene.objects) == 1
        return Question(f"What shape is the {item.color} object?", item.shape, kind) if unique else None
    if kind == "count":
        phrase, count = pick(rng, sorted(_counts(scene).items()))
        if rng.random() < 0.1:
            phrase, count = " ".join(_absent_kind(scene, item, rng)), 0
        return Question(f"How many {plural(phrase)} are there?", NUMBER_WORDS[count], kind)
    if kind == "position":
        name = _name(item, scene)
        return Question(f"Where is the {name}?", place(item), kind) if name else None
    if kind == "background":
        return Question("What color is the background?", scene.background, kind)
    return None


def questions(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """All the kinds of questions that the scene allows, at most one open and one yes/no question of each."""
    found = []
    for kind in QUESTION_KINDS:
        if (question := open_question(scene, rng, kind)) is not None:
            found.append(question)
        if (pair := yes_no_pair(scene, rng, kind)) is not None:
            found.append(pair[int(rng.random() * 2)])
    return found
