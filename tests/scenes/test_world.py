"""Names, geometry and JSON of the scenes; relations against the official rule's own implementation."""

from __future__ import annotations

import json
from itertools import combinations, product

import numpy as np
import pytest

from ddt.scenes import sample_scene, scene_from_dict, weights_dir
from ddt.scenes.world import (
    BACKGROUND_RGB,
    COLOR_RGB,
    COLORS,
    HELD_OUT,
    OPPOSITE,
    PLACES,
    SHAPES,
    TONE_RGB,
    Object,
    group_relations,
    place,
    relations,
)


def distance(a, b) -> float:
    return float(np.linalg.norm(np.subtract(a, b)))


def test_colors_are_far_from_each_other_and_from_backgrounds():
    for (_, a), (_, b) in combinations(COLOR_RGB.items(), 2):
        assert distance(a, b) > 80
    for color, background in product(COLOR_RGB.values(), BACKGROUND_RGB.values()):
        assert distance(color, background) > 80
    for (name, tone), (other, color) in product(TONE_RGB.items(), COLOR_RGB.items()):
        if name != other:
            assert distance(tone, color) > distance(tone, COLOR_RGB[name])
    for tone, background in product(TONE_RGB.values(), BACKGROUND_RGB.values()):
        assert distance(tone, background) > 45


def test_held_out_leaves_every_color_and_shape_in_training():
    assert len(HELD_OUT) == 5
    for color in COLORS:
        assert sum((color, shape) not in HELD_OUT for shape in SHAPES) >= 5
    for shape in SHAPES:
        assert sum((color, shape) not in HELD_OUT for color in COLORS) >= 7


def test_json_round_trip():
    rng = np.random.default_rng(0)
    for _ in range(50):
        scene = sample_scene(rng)
        assert scene_from_dict(json.loads(json.dumps(scene.to_dict()))) == scene


@pytest.mark.parametrize("key", ["shape", "color", "texture", "size"])
def test_unknown_name_is_refused_with_what_is_allowed(key):
    data = sample_scene(np.random.default_rng(0)).to_dict()
    data["objects"][0][key] = "mauve"
    with pytest.raises(ValueError, match=f"{key}: got 'mauve', allowed are"):
        scene_from_dict(data)


def test_relations_by_hand():
    def box(x, y, half=0.1):
        return (x - half, y - half, x + half, y + half)

    assert relations(box(0.2, 0.5), box(0.8, 0.5)) == {"left of"}
    assert relations(box(0.5, 0.9), box(0.5, 0.2)) == {"below"}
    # on the diagonal: offset 0.6 less 0.04 each way, over 0.849 = 0.66 both ways
    assert relations(box(0.2, 0.2), box(0.8, 0.8)) == {"left of", "above"}
    # offset (0.6, 0.3): the second component is (0.3 - 0.04) / 0.671 = 0.39
    assert relations(box(0.8, 0.5), box(0.2, 0.2)) == {"right of"}
    assert relations(box(0.5, 0.5), box(0.5, 0.5)) == frozenset()


def test_relations_agree_with_the_official_metric():
    metrics = pytest.importorskip("ddt.eval.metrics")
    rng = np.random.default_rng(0)
    for _ in range(500):
        (x, y, u, v), (a, b, c, d) = rng.random((2, 4)) * 0.5
        first, second = (x, y, x + u, y + v), (a, b, a + c, b + d)
        official = metrics.geneval_relations([*np.multiply(first, 100)], [*np.multiply(second, 100)])
        assert relations(first, second) == set(official)


def test_relations_turn_round_and_hold_for_all_pairs():
    rng = np.random.default_rng(1)
    for _ in range(200):
        a, b, *_ = sample_scene(rng, num_objects=3).objects
        assert {OPPOSITE[r] for r in relations(a.box, b.box)} == relations(b.box, a.box)
    objects = [Object("circle", "red", "solid", "small", x, 0.5, 0.12) for x in (0.2, 0.5, 0.8)]
    assert group_relations(objects[:2], objects[2:]) == {"left of"}
    assert group_relations(objects[1:2], [objects[0], objects[2]]) == frozenset()


def test_places_cover_the_picture():
    found = {
        place(Object("circle", "red", "solid", "small", x, y, 0.1))
        for x in (0.1, 0.5, 0.9)
        for y in (0, 0.4, 1)
    }
    assert found == set(PLACES)


def test_weights_dir_names_what_exists():
    assert weights_dir("clip").parts[-4:] == ("ddt", "scenes", "weights", "clip")
    with pytest.raises(ValueError, match="scenes:vit: no such weights, allowed are clip, captioner, bpe"):
        weights_dir("vit")
