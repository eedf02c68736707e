"""Splits a picture of this world into its background and blobs of one colour each.

A pixel is background plus a share of some paint: it lies on the line from the background's colour to the
paint's. So pixels are told apart by direction, which holds for half-covered and blurred edges too, where
the nearest colour would often be that of another paint.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ddt.scenes.render import background_HWC
from ddt.scenes.world import BACKGROUNDS, COLOR_RGB, COLORS, TONE_RGB

NEAR_BACKGROUND = 36.0  # RGB distance; the faintest paint (a tone) is 43 away from its background
CORE_SHARE = 0.45  # of paint in a pixel that surely belongs to an object
MIN_CORE_SHARE = 0.005  # of the picture's pixels: 5 at 32 px; the smallest object covers 2.7 %
SOFT_EDGE_PX = 2  # how far paint is looked for around the pixels that surely belong to an object
MINOR_SHARE = 0.3  # a colour with less than this share of a blob is a blend at its edge, not an object


@dataclass(frozen=True, slots=True)
class Blob:
    """Pixels of one object: its colour and a boolean mask over the picture, its soft edge included."""

    color: str
    mask_HW: np.ndarray


@dataclass(frozen=True, slots=True)
class Segmentation:
    """`residual_HWC` is the picture minus its background, float32 in RGB steps."""

    background: str
    background_HWC: np.ndarray
    residual_HWC: np.ndarray
    blobs: tuple[Blob, ...]


@lru_cache(maxsize=64)
def _flat_background(name: str, side_px: int) -> np.ndarray:
    return background_HWC(name, side_px).reshape(-1, 3)


def find_background(image_HWC: np.ndarray) -> tuple[str, np.ndarray]:
    """The background's name and its float32 [H, W, 3] estimate, shifted to the picture's own tint.

    Robust to objects on more than half of the picture: it asks which background most pixels agree with.
    """
    side = image_HWC.shape[0]
    pixels = image_HWC.reshape(-1, 3)
    best, best_votes = BACKGROUNDS[0], -1.0
    for name in BACKGROUNDS:
        distance = np.abs(pixels - _flat_background(name, side)).max(axis=1)
        votes = float(np.clip(1.0 - distance / NEAR_BACKGROUND, 0.0, None).sum())
        if votes > best_votes:
            best, best_votes = name, votes
    canvas = background_HWC(best, side)
    difference = image_HWC - canvas
    near = np.abs(difference).max(axis=2) < NEAR_BACKGROUND
    if near.sum() < 0.05 * near.size:
        return best, canvas
    return best, canvas + np.median(difference[near], axis=0)


def _paints(background_rgb: np.ndarray) -> np.ndarray:
    """[24, 3] directions from the background to each paint: colours, their tones, and half-way blends."""
    colors = np.array([COLOR_RGB[name] for name in COLORS], np.float32)
    tones = np.array([TONE_RGB[name] for name in COLORS], np.float32)
    return np.concatenate([colors, tones, (colors + tones) / 2]) - background_rgb


def _classify(residual_HWC: np.ndarray, background_rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per pixel: the index of the colour whose line it is nearest to, and its share of that paint."""
    paints = _paints(background_rgb)
    flat = residual_HWC.reshape(-1, 3)
    norms = (paints * paints).sum(axis=1)
    dots = flat @ paints.T
    share = np.clip(dots / norms, 0.0, 1.0)
    error = share * (share * norms - 2.0 * dots)  # squared distance to the segment, less the pixel's norm
    nearest = error.argmin(axis=1)
    height, width = residual_HWC.shape[:2]
    chosen = share[np.arange(len(flat)), nearest]
    return (nearest % len(COLORS)).reshape(height, width), chosen.reshape(height, width)


def _runs(classes_HW: np.ndarray) -> list[tuple[int, int, int, int]]:
    """(row, first column, past last column, class) of each run of equal class along the rows, in order."""
    width = classes_HW.shape[1] + 1
    flat = np.pad(classes_HW, ((0, 0), (0, 1)), constant_values=-1).ravel()  # no run goes on in the next row
    starts = np.flatnonzero(np.diff(flat, prepend=-2))
    ends = np.append(starts[1:], flat.size)
    kept = flat[starts] >= 0
    starts, ends = starts[kept], ends[kept]
    columns = starts % width
    parts = (starts // width, columns, columns + (ends - starts), flat[starts])
    return list(zip(*(part.tolist() for part in parts), strict=True))


def label_components(classes_HW: np.ndarray) -> np.ndarray:
    """Connected components (8 neighbours) of equal class, labelled 0, 1, ...; class -1 is nothing: label -1.

    Joins runs of neighbouring rows that touch: a few dozen runs instead of a thousand pixels.
    """
    runs = _runs(classes_HW)
    parent = list(range(len(runs)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    above = 0  # the first run that may still touch the current one
    for i, (row, start, end, kind) in enumerate(runs):
        while runs[above][0] < row - 1 or (runs[above][0] == row - 1 and runs[above][2] < start):
            above += 1
        j = above
        while j < i and runs[j][0] == row - 1 and runs[j][1] <= end:
            if runs[j][3] == kind:
                parent[root(i)] = root(j)
            j += 1
    labels_HW = np.full(classes_HW.shape, -1, np.int64)
    numbers: dict[int, int] = {}
    for i, (row, start, end, _) in enumerate(runs):
        labels_HW[row, start:end] = numbers.setdefault(root(i), len(numbers))
    return labels_HW


def _grow(mask_HW: np.ndarray, allowed_HW: np.ndarray) -> np.ndarray:
    """The mask and its 8 neighbours where allowed."""
    rows = mask_HW.copy()
    rows[1:] |= mask_HW[:-1]
    rows[:-1] |= mask_HW[1:]
    grown = rows.copy()
    grown[:, 1:] |= rows[:, :-1]
    grown[:, :-1] |= rows[:, 1:]
    return grown & allowed_HW | mask_HW


def _merge_minor_colors(classes_HW: np.ndarray, weight_HW: np.ndarray) -> np.ndarray:
    """Within each connected blob, colours with a small share of it become its main colour."""
    blobs_HW = label_components(np.where(classes_HW >= 0, 0, -1))
    merged = classes_HW.copy()
    for label in np.unique(blobs_HW[blobs_HW >= 0]):
        inside = blobs_HW == label
        totals = np.bincount(classes_HW[inside], weights=weight_HW[inside], minlength=len(COLORS))
        minor = totals < MINOR_SHARE * totals.sum()
        if minor.all():
            continue
        merged[inside & minor[classes_HW]] = int(totals.argmax())
    return merged


def _grow_together(masks: list[np.ndarray], steps: int) -> list[np.ndarray]:
    """Each mask grown step by step over pixels that none has taken; neighbours meet half-way."""
    for _ in range(steps):
        free = ~np.logical_or.reduce(masks)
        masks = [_grow(mask, free) for mask in masks]
    return masks


def segment(image_HWC: np.ndarray) -> Segmentation:
    """Background and one-coloured blobs of a float32 [H, W, 3] picture with values 0..255."""
    name, canvas = find_background(image_HWC)
    residual = image_HWC - canvas
    classes, share = _classify(residual, canvas.mean(axis=(0, 1)))
    strength = np.sqrt((residual * residual).sum(axis=2))
    core = (strength > NEAR_BACKGROUND) & (share > CORE_SHARE)
    core_classes = _merge_minor_colors(np.where(core, classes, -1), strength)
    labels = label_components(core_classes)
    masks = [labels == label for label in np.unique(labels[labels >= 0])]
    masks = [mask for mask in masks if mask.sum() >= MIN_CORE_SHARE * mask.size]
    colors = [COLORS[int(core_classes[mask][0])] for mask in masks]
    blobs = [Blob(*pair) for pair in zip(colors, _grow_together(masks, SOFT_EDGE_PX), strict=True)]
    return Segmentation(name, canvas, residual, tuple(blobs))
