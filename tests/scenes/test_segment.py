"""Connected components against a flood fill, and the background under many objects."""

from __future__ import annotations

import numpy as np
import pytest

from ddt.scenes import Scene, render, sample_scene
from ddt.scenes.segment import find_background, label_components, segment
from ddt.scenes.world import BACKGROUNDS


def flood_fill(classes_HW: np.ndarray) -> np.ndarray:
    labels = np.full(classes_HW.shape, -1)
    height, width = classes_HW.shape
    count = 0
    for start in zip(*np.nonzero(classes_HW >= 0), strict=True):
        if labels[start] >= 0:
            continue
        labels[start] = count
        todo = [start]
        while todo:
            y, x = todo.pop()
            for v in range(max(0, y - 1), min(height, y + 2)):
                for u in range(max(0, x - 1), min(width, x + 2)):
                    if labels[v, u] < 0 and classes_HW[v, u] == classes_HW[y, x]:
                        labels[v, u] = count
                        todo.append((v, u))
        count += 1
    return labels


@pytest.mark.parametrize("share_of_nothing", [0.3, 0.6, 0.85])
def test_components_are_those_of_a_flood_fill(share_of_nothing):
    rng = np.random.default_rng(0)
    for _ in range(40):
        classes = rng.integers(0, 3, (12, 17))
        classes[rng.random(classes.shape) < share_of_nothing] = -1
        found, expected = label_components(classes), flood_fill(classes)
        pairs = set(zip(found.ravel().tolist(), expected.ravel().tolist(), strict=True))
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
        assert np.array_equal(found < 0, classes < 0)


@pytest.mark.parametrize("name", BACKGROUNDS)
def test_background_is_found_with_a_tint_and_behind_objects(name):
    rng = np.random.default_rng(1)
    scene = sample_scene(rng, num_objects=4, same_kind=True)
    picture = render(Scene(name, scene.objects), 32).astype(np.float32)
    found, canvas = find_background(picture + np.float32(8))
    assert found == name
    plain = render(Scene(name, ()), 32).astype(np.float32)
    assert np.abs(canvas - plain - 8).max() < 1.5


def test_blobs_are_the_objects():
    rng = np.random.default_rng(2)
    for _ in range(100):
        scene = sample_scene(rng)
        blobs = segment(render(scene, 32).astype(np.float32)).blobs
        assert sorted(blob.color for blob in blobs) == sorted(item.color for item in scene.objects)
        for item in scene.objects:
            left, top, right, bottom = (round(value * 32) for value in item.box)
            inside = [blob.mask_HW[top:bottom, left:right].sum() for blob in blobs]
            main = blobs[int(np.argmax(inside))]
            assert main.color == item.color and max(inside) > 0.9 * sum(inside)
            width, height = right - left, bottom - top
            outside = main.mask_HW.sum() - max(inside)  # a soft edge of 2 px, 1 px for rounding
            assert outside <= (width + 6) * (height + 6) - width * height
