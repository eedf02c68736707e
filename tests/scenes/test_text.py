"""Every caption and answer is true: texts are parsed back by a small grammar and checked on the scene."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import numpy as np
import pytest

from ddt.scenes import sample_scene
from ddt.scenes.questions import ANSWERS, QUESTION_KINDS, questions, yes_no_pair
from ddt.scenes.text import long_caption, paragraph, short_caption
from ddt.scenes.world import (
    BACKGROUNDS,
    COLORS,
    HELD_OUT,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    group_relations,
    place,
    relations,
)

NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "zero": 0}
PHRASE = re.compile(
    r"\b(an?|one|two|three|four) (?:(small|large) )?(?:(striped|checkered) )?"
    rf"(?:({'|'.join(COLORS)}) )?({'|'.join(SHAPES)})(?:e?s)?\b"
)


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(0)
    return [sample_scene(rng) for _ in range(1500)]


def matching(scene, size, texture, color, shape):
    wanted = {"size": size, "texture": texture, "color": color, "shape": shape}
    return [o for o in scene.objects if all(v is None or getattr(o, k) == v for k, v in wanted.items())]


def groups_of(scene, text):
    """Objects that each noun phrase of the text covers; its number must be right.

    A phrase without a texture covers plain objects only where the text names textures, so the number may
    also be that of the solid ones.
    """
    found = []
    for number, *attributes in PHRASE.findall(text):
        named = [value or None for value in attributes]
        objects = matching(scene, *named)
        if len(objects) != NUMBERS[number]:
            objects = [item for item in objects if item.texture == "solid"]
        assert len(objects) == NUMBERS[number], (text, scene)
        found.append(objects)
    return found


def test_short_captions_are_true_and_count_every_object(scenes):
    rng = np.random.default_rng(1)
    related = 0
    for scene in scenes:
        caption = short_caption(scene, rng)
        groups = groups_of(scene, caption)
        assert sum(map(len, groups)) == len(scene.objects), caption
        if background := re.search(r"on an? (\w+) background", caption):
            assert background[1] == scene.background
        for relation in RELATIONS:
            if f" {relation} " in caption:
                related += 1
                assert relation in group_relations(*groups), caption
    assert related > 150


def test_short_captions_come_in_many_forms(scenes):
    rng = np.random.default_rng(2)
    captions = [short_caption(scene, rng) for scene in scenes]
    for needle, low, high in (
        ("a photo of", 0.26, 0.34),  # 50 %, of which three of five
        ("background", 0.15, 0.35),
        ("three ", 0.04, 0.2),
        ("striped", 0.005, 0.1),
        ("left of", 0.02, 0.1),
    ):
        assert low < np.mean([needle in caption for caption in captions]) < high, needle
    without_color = [not any(color in caption for color in COLORS) for caption in captions]
    assert 0.17 < np.mean(without_color) < 0.23


def test_long_captions_are_exact(scenes):
    for scene in scenes:
        caption = long_caption(scene)
        header = re.match(r"(\w+) objects? on an? (\w+) background: ", caption)
        assert header and NUMBERS[header[1]] == len(scene.objects) and header[2] == scene.background
        told = caption[header.end() :]
        assert sum(map(len, groups_of(scene, told))) == len(scene.objects)
        for value in (*SIZES, *TEXTURES[1:], *COLORS, *SHAPES):
            shown = any(value in (o.size, o.texture, o.color, o.shape) for o in scene.objects)
            assert bool(re.search(rf"\b{value}(?:e?s)?\b", told)) == shown, (value, caption)
        cells = Counter(re.findall(r"(?:upper|lower) (?:left|right)|left|right|top|bottom|center", told))
        assert cells == Counter(place(item) for item in scene.objects), caption


def test_long_captions_are_short_enough(scenes):
    words = [len(long_caption(scene).split()) for scene in scenes]
    assert np.mean(words) < 20 and np.percentile(words, 97) <= 28 and max(words) <= 36


def test_no_text_of_training_scenes_names_a_held_out_combination(scenes):
    rng = np.random.default_rng(3)
    unseen = re.compile(r"\b(" + "|".join(f"{color} {shape}" for color, shape in HELD_OUT) + ")")
    for scene in scenes:
        texts = [short_caption(scene, rng), long_caption(scene), paragraph(rng)]
        texts += [question.question for question in questions(scene, rng)]
        assert not [text for text in texts if unseen.search(text)]


def test_yes_and_no_are_balanced_in_each_kind(scenes):
    rng = np.random.default_rng(4)
    answers = defaultdict(Counter)
    for scene in scenes:
        for question in questions(scene, rng):
            assert question.answer in ("yes", "no", *ANSWERS.get(question.kind, ()))
            answers[question.kind][question.answer] += 1
    assert set(answers) == set(QUESTION_KINDS)
    for kind, counts in answers.items():
        share = counts["yes"] / (counts["yes"] + counts["no"])
        assert abs(share - 0.5) < 0.08, (kind, share)


def holds(scene, text: str) -> bool:
    """The truth of a yes/no question, worked out from its words."""
    if match := re.match(
        r"(?:Is there|Does the image show) an? (?:(\w+) )?(\w+?)(?: in the image)?\?$", text
    ):
        return bool(matching(scene, None, None, *match.groups()))
    if match := re.match(r"(?:Are|Is) there (?:exactly )?(\w+) (?:(\w+) )?(\w+?) in the image\?$", text):
        number, color, noun = match.groups()
        noun = noun if noun in SHAPES or noun == "object" else re.sub("e?s$", "", noun)
        noun = noun if noun in (*SHAPES, "object") else noun + "e"
        shape = None if noun == "object" else noun
        return len(matching(scene, None, None, color, shape)) == NUMBERS[number]
    if match := re.match(r"Is the (\w+) (\w+) (left of|right of|above|below) the (\w+) (\w+)\?$", text):
        color, shape, relation, color2, shape2 = match.groups()
        (a,), (b,) = matching(scene, None, None, color, shape), matching(scene, None, None, color2, shape2)
        return relation in relations(a.box, b.box)
    if match := re.match(r"Is the (\w+) (\w+) larger than the (\w+) (\w+)\?$", text):
        (a,), (b,) = (matching(scene, None, None, *match.groups()[i : i + 2]) for i in (0, 2))
        return a.radius > b.radius
    if match := re.match(r"Is the background (\w+)\?$", text):
        return scene.background == match[1]
    if match := re.match(r"Is the (\w+) object an? (\w+)\?$", text):
        (item,) = matching(scene, None, None, match[1], None)
        return item.shape == match[2]
    if match := re.match(r"Is the (\w+) (\w+)\?$", text):
        (item,) = matching(scene, None, None, None, match[1])
        return item.color == match[2]
    if match := re.match(r"Are there more (\w+) than (\w+)\?$", text):
        more, less = (
            sum(plural in (o.shape + "s", o.shape + "es") for o in scene.objects) for plural in match.groups()
        )
        return more > less
    raise AssertionError(f"no grammar for {text!r}")


@pytest.mark.parametrize("kind", QUESTION_KINDS)
def test_yes_is_true_and_no_is_false(scenes, kind):
    rng = np.random.default_rng(5)
    asked = 0
    for scene in scenes[:600]:
        pair = yes_no_pair(scene, rng, kind)
        if pair is None:
            continue
        asked += 1
        assert [question.answer for question in pair] == ["yes", "no"]
        assert holds(scene, pair[0].question), (pair[0], scene)
        assert not holds(scene, pair[1].question), (pair[1], scene)
    assert asked > 50


def test_open_answers_are_true(scenes):
    rng = np.random.default_rng(6)
    checked = Counter()
    for scene in scenes:
        for question in questions(scene, rng):
            words = question.question.rstrip("?").split()
            if question.question.startswith("What color is the background"):
                assert question.answer == scene.background
            elif question.question.startswith("What color is the"):
                assert [o.color for o in scene.objects if o.shape == words[-1]] == [question.answer]
            elif question.question.startswith("What shape is the"):
                assert [o.shape for o in scene.objects if o.color == words[-2]] == [question.answer]
            elif question.question.startswith("Where is the"):
                named = [o for o in scene.objects if o.shape == words[-1] and words[-2] in ("the", o.color)]
                assert [place(o) for o in named] == [question.answer]
            elif question.question.startswith("How many"):
                color = words[2] if words[2] in COLORS else None
                nouns = [s for s in SHAPES if words[-3] in (s + "s", s + "es")] or [None]
                assert len(matching(scene, None, None, color, nouns[0])) == NUMBERS[question.answer]
            else:
                continue
            checked[question.kind] += 1
    assert set(checked) == {"color", "shape", "count", "position", "background"}


def test_unknown_kind_is_refused(scenes):
    with pytest.raises(ValueError, match="kind: got 'weather', allowed are existence"):
        yes_no_pair(scenes[0], np.random.default_rng(0), "weather")


def test_paragraphs_are_text_of_this_world():
    rng = np.random.default_rng(7)
    texts = [paragraph(rng) for _ in range(200)]
    assert len(set(texts)) > 190
    words = set(re.findall(r"\w+", " ".join(texts)))
    assert set(COLORS) | set(SHAPES) | set(BACKGROUNDS) <= words
    assert not [text for text in texts if re.search(r"\ba [aeiou]|\ban [^aeiou]", text)]
