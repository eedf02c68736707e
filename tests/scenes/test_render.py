"""Pictures: exact colours, analytic areas, one geometry at all sides, and the promised speed."""

from __future__ import annotations

import numpy as np
import pytest

from ddt.scenes import Object, Scene, render, sample_scene
from ddt.scenes.detect import AREA
from ddt.scenes.world import COLOR_RGB, SHAPES, TONE_RGB, scene_from_dict
from tests.speed import relative


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(0)
    return [sample_scene(rng) for _ in range(400)]


def one(shape="circle", color="red", texture="solid", background="grey", x=0.5, y=0.5, radius=0.2) -> Scene:
    return Scene(background, (Object(shape, color, texture, "large", x, y, radius),))


def test_bytes_are_a_function_of_the_scene(scenes):
    for scene in scenes[:8]:
        picture = render(scene, 32)
        assert picture.shape == (32, 32, 3) and picture.dtype == np.uint8
        assert np.array_equal(picture, render(scene_from_dict(scene.to_dict()), 32))
    assert not np.array_equal(render(scenes[0], 32), render(scenes[1], 32))


@pytest.mark.parametrize("shape", SHAPES)
def test_painted_area_is_that_of_the_shape(shape):
    """Red minus background, summed over the picture, against area x contrast: 3 % for rounding and edges."""
    side = 128
    painted = render(one(shape, "black"), side).astype(float) - render(Scene("grey", ()), side)
    contrast = np.array(COLOR_RGB["black"]) - render(Scene("grey", ()), side)[side // 2, 0].astype(float)
    share = painted.sum() / contrast.sum() / side**2
    assert share == pytest.approx(AREA[shape] * 0.2**2, rel=0.03)


@pytest.mark.parametrize("color", COLOR_RGB)
def test_inside_has_the_very_color_and_textures_both_tones(color):
    assert tuple(render(one(color=color), 64)[32, 32]) == COLOR_RGB[color]
    for texture in ("striped", "checkered"):
        picture = render(one("square", color, texture, radius=0.21), 128)
        inside = {tuple(int(v) for v in pixel) for pixel in picture[48:80, 48:80].reshape(-1, 3)}
        assert {COLOR_RGB[color], TONE_RGB[color]} <= inside


def test_box_is_tight():
    for shape in SHAPES:
        scene = one(shape, "white", background="cyan", x=0.4, y=0.6)
        changed = np.abs(render(scene, 256).astype(int) - render(Scene("cyan", ()), 256)).sum(axis=2) > 60
        ys, xs = np.nonzero(changed)
        measured = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) / 256
        assert np.abs(measured - scene.objects[0].box).max() < 2.5 / 256


def test_one_geometry_at_all_sides(scenes):
    for scene in scenes[:50]:
        small = render(scene, 32).astype(float)
        large = render(scene, 256).reshape(32, 8, 32, 8, 3).mean(axis=(1, 3))
        assert np.abs(small - large).mean() < 2.0


def test_side_too_small_is_refused(scenes):
    with pytest.raises(ValueError, match="side_px: got 8, must be at least 16"):
        render(scenes[0], 8)


def test_drawing_is_fast(scenes):
    cost = relative(lambda: [render(scene, 32) for scene in scenes]) / len(scenes)
    print(f"a scene of 32 px takes {cost:.3f} times the reference")
    assert cost < 0.1  # 0.035; that is 6,000 scenes a second on a core of a first EPYC
