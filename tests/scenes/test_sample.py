"""Random scenes keep their promises: no overlap, the asked numbers and kinds, held-out only on request."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from ddt.scenes import sample_scene, scene_from_spec
from ddt.scenes.sample import GAP, NUM_OBJECTS_SHARE, TEXTURED_SHARE
from ddt.scenes.world import (
    BACKGROUNDS,
    EVALUATION_PARTS,
    GRID,
    HELD_OUT,
    PARTS,
    RADIUS,
    RELATIONS,
    TRAINING_PARTS,
    content,
    group_relations,
    is_held_out,
    part,
)


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(0)
    return [sample_scene(rng) for _ in range(3000)]


def gap(a, b) -> float:
    return max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3])


def test_objects_lie_inside_and_apart(scenes):
    for scene in scenes:
        for item in scene.objects:
            assert min(item.box) >= 0.02 and max(item.box) <= 0.98
            assert item.radius == RADIUS[item.size]
            assert (item.x * GRID).is_integer() and (item.y * GRID).is_integer()
        for a, b in combinations(scene.objects, 2):
            assert gap(a.box, b.box) >= GAP - 1e-9


def test_held_out_combinations_only_on_request(scenes):
    assert not any(is_held_out(scene) for scene in scenes)
    rng = np.random.default_rng(1)
    unseen = [sample_scene(rng, held_out=True) for _ in range(300)]
    assert all(is_held_out(scene) for scene in unseen)
    assert {item.kind for scene in unseen for item in scene.objects} >= HELD_OUT


def test_numbers_of_objects_and_repeated_kinds(scenes):
    counts = Counter(len(scene.objects) for scene in scenes)
    for n, share in enumerate(NUM_OBJECTS_SHARE, start=1):
        assert abs(counts[n] / len(scenes) - share) < 0.03
    several = [scene for scene in scenes if len(scene.objects) > 1]
    same = sum(len({item.kind for item in scene.objects}) == 1 for scene in several)
    assert 0.3 < same / len(several) < 0.55
    solid = [item.texture == "solid" for scene in scenes for item in scene.objects]
    assert abs(np.mean(solid) - (1 - TEXTURED_SHARE)) < 0.04


def test_every_free_point_of_the_grid_is_used(scenes):
    small = {(o.x, o.y) for scene in scenes for o in scene.objects if o.size == "small"}
    assert small == {(x / GRID, y / GRID) for x in range(2, 7) for y in range(2, 7)}


def test_every_scene_has_one_part_whatever_the_order_of_its_objects(scenes):
    shares = np.bincount([part(scene) for scene in scenes], minlength=PARTS) / len(scenes)
    assert len(shares) == PARTS and np.all(abs(shares - 1 / PARTS) < 0.03)
    for scene in scenes[:200]:
        turned = replace(scene, objects=scene.objects[::-1])
        assert part(turned) == part(scene) and content(turned) == content(scene)


@pytest.mark.parametrize("parts", [EVALUATION_PARTS, TRAINING_PARTS, (2,)])
def test_scenes_of_the_asked_parts_only(parts):
    rng = np.random.default_rng(5)
    drawn = [sample_scene(rng, parts=parts, held_out=bool(index % 2)) for index in range(400)]
    assert {part(scene) for scene in drawn} == set(parts)
    backgrounds = Counter(scene.background for scene in drawn)
    assert len(backgrounds) == len(BACKGROUNDS) and min(backgrounds.values()) > 50


def test_a_seed_gives_one_scene():
    first, again, other = (sample_scene(np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert first == again != other


def test_same_kind_and_number_as_asked():
    rng = np.random.default_rng(2)
    for n in (2, 3, 4):
        for same, kinds in ((True, 1), (False, n)):
            scene = sample_scene(rng, num_objects=n, same_kind=same)
            assert len(scene.objects) == n
            assert len({item.kind for item in scene.objects}) == kinds


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("counts", [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_spec_with_relation(relation, counts):
    rng = np.random.default_rng(3)
    a, b = counts
    groups = [{"shape": "circle", "color": "red", "count": a}, {"shape": "square", "count": b}]
    scene = scene_from_spec(rng, groups, relation=(0, relation, 1), background="cyan")
    circles = [item for item in scene.objects if item.kind == ("red", "circle")]
    squares = [item for item in scene.objects if item.shape == "square"]
    assert (len(circles), len(squares), scene.background) == (a, b, "cyan")
    assert relation in group_relations(circles, squares)
    assert len({item.color for item in squares}) == 1 and not is_held_out(scene)


def test_spec_keeps_given_attributes_and_allows_asked_held_out():
    rng = np.random.default_rng(4)
    group = {"shape": "ring", "color": "blue", "texture": "striped", "size": "large", "count": 3}
    scene = scene_from_spec(rng, [group])
    assert {(o.shape, o.color, o.texture, o.size) for o in scene.objects} == {
        ("ring", "blue", "striped", "large")
    }
    assert len(scene.objects) == 3


@pytest.mark.parametrize(
    ("groups", "relation", "message"),
    [
        ([{"shape": "hexagon"}], None, "shape: got 'hexagon'"),
        ([{"shape": "circle", "color": "pink"}], None, "color: got 'pink'"),
        ([{"shape": "circle", "colour": "red"}], None, "groups: unknown key 'colour'"),
        ([{"shape": "circle", "count": 5}], None, "count: got 5"),
        ([{"shape": "circle", "count": 3}, {"shape": "ring", "count": 2}], None, "5 objects in all"),
        ([{"shape": "circle"}, {"shape": "ring"}], (0, "near", 1), "relation: got 'near'"),
        ([{"shape": "circle"}, {"shape": "ring"}], (0, "above", 2), "relation: got group 2"),
    ],
)
def test_bad_spec_is_refused(groups, relation, message):
    with pytest.raises(ValueError, match=message):
        scene_from_spec(np.random.default_rng(0), groups, relation=relation)


def test_number_of_objects_out_of_range():
    with pytest.raises(ValueError, match="num_objects: got 5, must be 1 to 4"):
        sample_scene(np.random.default_rng(0), num_objects=5)
