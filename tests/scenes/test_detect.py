"""The detector against exact ground truth: clean pictures, and blurred and noisy ones as models draw them.

An object counts as right if the detection that overlaps it most has its shape and colour and a box with an
IoU of at least 0.7. Run with -s to see the figures.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ddt.scenes import Object, Scene, render, sample_scene
from ddt.scenes.detect import detect, read
from ddt.scenes.world import BACKGROUND_RGB, COLOR_RGB, TONE_RGB
from tests.speed import relative

NUM_SCENES = 1000


def iou(a, b) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (areas - width * height)


def degrade(image_HWC, rng, sigma_px, noise):
    """Gaussian blur and Gaussian noise (in steps of 0..255)."""
    kernel = np.exp(-0.5 * (np.arange(-4, 5) / sigma_px) ** 2)
    kernel /= kernel.sum()
    height, width = image_HWC.shape[:2]
    padded = np.pad(image_HWC.astype(float), ((4, 4), (4, 4), (0, 0)), "edge")
    rows = sum(weight * padded[i : i + height] for i, weight in enumerate(kernel))
    blurred = sum(weight * rows[:, i : i + width] for i, weight in enumerate(kernel))
    return np.clip(blurred + rng.normal(0, noise, image_HWC.shape) + 0.5, 0, 255).astype(np.uint8)


def measure(side_px: int, scenes, degradation=None) -> dict[str, float]:
    """Shares of objects found right, textures right, backgrounds right; surplus detections per scene."""
    rng = np.random.default_rng(9)
    objects = right = textures = backgrounds = surplus = 0
    for scene in scenes:
        image = render(scene, side_px)
        if degradation is not None:
            image = degrade(image, rng, *degradation)
        reading = read(image)
        backgrounds += reading.background == scene.background
        surplus += max(0, sum(d.score > 0.3 for d in reading.detections) - len(scene.objects))
        for item in scene.objects:
            objects += 1
            box = [value * side_px for value in item.box]
            if not reading.detections:
                continue
            best = max(reading.detections, key=lambda d: iou(d.box, box))
            textures += best.texture == item.texture
            right += (best.color, best.shape) == item.kind and iou(best.box, box) >= 0.7
    return {
        "right": right / objects,
        "texture": textures / objects,
        "background": backgrounds / len(scenes),
        "surplus": surplus / len(scenes),
    }


def off_grid(scene: Scene, rng: np.random.Generator) -> Scene:
    """Moved by up to 0.6 px at 32 px and up to 7 % larger or smaller, as a model may draw it."""
    dx, dy = rng.uniform(-0.02, 0.02, 2).tolist()
    scale = float(rng.uniform(0.93, 1.07))
    moved = (replace(o, x=o.x + dx, y=o.y + dy, radius=o.radius * scale) for o in scene.objects)
    return replace(scene, objects=tuple(moved))


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(1)
    drawn = [sample_scene(rng, held_out=index % 5 == 0) for index in range(NUM_SCENES)]
    return [off_grid(scene, rng) if index % 2 else scene for index, scene in enumerate(drawn)]


def report(name: str, figures: dict[str, float]) -> None:
    print(f"{name}: " + ", ".join(f"{key} {value:.4f}" for key, value in figures.items()))


@pytest.mark.parametrize("side_px", [32, 64])
def test_clean_pictures(scenes, side_px):
    figures = measure(side_px, scenes)
    report(f"clean, {side_px} px", figures)
    assert figures["right"] >= 0.99
    assert figures["texture"] >= 0.98 and figures["background"] == 1.0 and figures["surplus"] <= 0.005


@pytest.mark.parametrize(("degradation", "required"), [((0.7, 8), 0.98), ((1.0, 12), 0.95)])
def test_blurred_and_noisy_pictures(scenes, degradation, required):
    figures = measure(32, scenes[:400], degradation)
    report(f"blur {degradation[0]} px, noise {degradation[1]}, 32 px", figures)
    assert figures["right"] >= required and figures["surplus"] <= 0.02


def test_large_pictures(scenes):
    figures = measure(256, scenes[:40])
    assert figures["right"] == 1.0


def test_touching_objects_of_different_colors_are_told_apart():
    left = Object("square", "red", "solid", "large", 0.32, 0.5, 0.2)  # its right side is at 0.5
    right = Object("circle", "blue", "solid", "large", 0.7, 0.5, 0.2)  # its left side is at 0.5
    for side_px in (32, 64):
        found = detect(render(Scene("beige", (left, right)), side_px))
        assert {(d.color, d.shape) for d in found} == {("red", "square"), ("blue", "circle")}


def test_no_confident_object_where_there_is_none():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)
    assert all(d.score < 0.5 for d in detect(noise))
    for value in (0, 120, 255):
        assert detect(np.full((32, 32, 3), value, np.uint8)) == []
    for background in BACKGROUND_RGB:
        assert detect(render(Scene(background, ()), 32)) == []


def test_broken_pictures_are_read_too():
    paints = np.array([*COLOR_RGB.values(), *TONE_RGB.values(), *BACKGROUND_RGB.values()])
    found = 0
    for seed in (*range(150), 1094, 2899):  # the last two once had an object with an empty mask
        rng = np.random.default_rng(seed)
        block, ground = (2, 4, 8)[seed % 3], paints[-1 - seed % 5]
        cells = (32 // block, 32 // block)
        blocks = paints[rng.integers(0, len(paints), cells)]
        blocks = blocks.repeat(block, 0).repeat(block, 1)
        empty = (rng.random(cells) < 0.75).repeat(block, 0).repeat(block, 1)
        image = np.where(empty[..., None], ground, blocks)
        image = image * rng.uniform(0.3, 1) + rng.normal(0, 10, image.shape)
        for item in detect(np.clip(image, 0, 255).astype(np.uint8)):
            assert 0 <= item.score <= 1 and item.box[0] < item.box[2]
            found += 1
    assert found > 150


@pytest.mark.parametrize(
    "image",
    [np.zeros((32, 32, 3), np.float32), np.zeros((32, 32), np.uint8), np.zeros((32, 40, 3), np.uint8)],
)
def test_other_arrays_are_refused(image):
    with pytest.raises(ValueError, match="image: got"):
        detect(image)


def test_reading_is_fast(scenes):
    images = [render(scene, 32) for scene in scenes[:100]]
    cost = relative(lambda: [detect(image) for image in images]) / len(images)
    print(f"a picture of 32 px takes {cost:.2f} times the reference")
    assert cost < 2.5  # 0.9; that is 260 pictures a second on a core of a first EPYC
