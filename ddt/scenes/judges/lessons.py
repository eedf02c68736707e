"""Dense lessons from the scene graph: what covers each patch of a picture, what lies at each place.

With them a vision tower learns to see in hundreds of steps; from captions alone it takes many thousands. The
heads that answer the questions are used in training only and not saved.

Shapes: B batch, P patches of the vision tower's grid, k questions, n answers of all questions together.
"""

from __future__ import annotations

import numpy as np
import torch

from ddt.scenes.render import render
from ddt.scenes.world import BACKGROUNDS, COLORS, PLACES, SHAPES, SIZES, TEXTURES, Object, Scene, place

IGNORE = -100
OUTLINE_STEP = 12  # of 255: a pixel that an object covers by about a tenth or more


def patch_targets(scenes: list[Scene], grid: int) -> torch.Tensor:
    """int64[B, P, 7]: shape, colour, texture, size, place of the object whose box covers the patch's middle
    (ignored where there is none), whether there is one, and whether its centre lies in the patch.
    """
    targets = np.full((len(scenes), grid, grid, 7), IGNORE, np.int64)
    targets[..., 5:] = 0
    for row, scene in enumerate(scenes):
        for item in scene.objects:
            left, top, right, bottom = (int(round(edge * grid)) for edge in item.box)
            targets[row, top:bottom, left:right, :6] = (*_indices(item), PLACES.index(place(item)), 1)
            targets[row, int(item.y * grid), int(item.x * grid), 6] = 1
    return torch.from_numpy(targets).flatten(1, 2)


def offset_targets(scenes: list[Scene], grid: int) -> torch.Tensor:
    """float32[B, P, 3]: from the patch's middle to its object's centre in patches, and the object's radius.

    NaN where no object covers the patch's middle.
    """
    targets = np.full((len(scenes), grid, grid, 3), np.nan, np.float32)
    middles = np.arange(grid) + 0.5
    for row, scene in enumerate(scenes):
        for item in scene.objects:
            left, top, right, bottom = (int(round(edge * grid)) for edge in item.box)
            targets[row, top:bottom, left:right, 0] = item.x * grid - middles[left:right]
            targets[row, top:bottom, left:right, 1] = item.y * grid - middles[top:bottom, None]
            targets[row, top:bottom, left:right, 2] = item.radius * grid
    return torch.from_numpy(targets).flatten(1, 2)


def outline_targets(scenes: list[Scene], side_px: int, grid: int) -> torch.Tensor:
    """float32[B, P, pixels of a patch]: 1 where an object is drawn, 0 on the background."""
    drawn = np.stack([render(scene, side_px) for scene in scenes]).astype(np.int16)
    empty = np.stack([render(Scene(scene.background, ()), side_px) for scene in scenes]).astype(np.int16)
    mask_BHW = torch.from_numpy(np.abs(drawn - empty).max(-1) > OUTLINE_STEP).float()
    patch = side_px // grid
    return (
        mask_BHW.unflatten(1, (grid, patch))
        .unflatten(3, (grid, patch))
        .transpose(2, 3)
        .flatten(3)
        .flatten(1, 2)
    )


def board_targets(scenes: list[Scene]) -> torch.Tensor:
    """int64[B, 9 * 4 + 1]: shape, colour, texture, size (each + 1, 0 for none) at each place; background.

    A place with two objects is ignored.
    """
    targets = np.zeros((len(scenes), 9 * 4 + 1), np.int64)
    for row, scene in enumerate(scenes):
        targets[row, -1] = BACKGROUNDS.index(scene.background)
        for item in scene.objects:
            cell = slice(4 * PLACES.index(place(item)), 4 * PLACES.index(place(item)) + 4)
            taken = targets[row, cell].any()
            targets[row, cell] = IGNORE if taken else [index + 1 for index in _indices(item)]
    return torch.from_numpy(targets)


def _indices(item: Object) -> tuple[int, int, int, int]:
    return (
        SHAPES.index(item.shape),
        COLORS.index(item.color),
        TEXTURES.index(item.texture),
        SIZES.index(item.size),
    )


class Reader(torch.nn.Module):
    """A linear head for questions with `sizes` answers each."""

    def __init__(self, width: int, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.sizes = sizes
        self.norm = torch.nn.LayerNorm(width)
        self.head = torch.nn.Linear(width, sum(sizes))

    def loss(self, vectors_BD: torch.Tensor, targets_Bk: torch.Tensor) -> torch.Tensor:
        """Sum of the questions' cross-entropies."""
        logits_Bn = self.head(self.norm(vectors_BD)).float()
        losses = [
            torch.nn.functional.cross_entropy(part, targets_Bk[:, k], ignore_index=IGNORE)
            for k, part in enumerate(logits_Bn.split(self.sizes, dim=-1))
        ]
        return torch.stack(losses).sum()


def patch_reader(width: int) -> Reader:
    """Answers `patch_targets` (with batch and patches as one axis)."""
    return Reader(width, (len(SHAPES), len(COLORS), len(TEXTURES), len(SIZES), len(PLACES), 2, 2))


def board_reader(width: int) -> Reader:
    """Answers `board_targets`."""
    cell = (len(SHAPES) + 1, len(COLORS) + 1, len(TEXTURES) + 1, len(SIZES) + 1)
    return Reader(width, cell * len(PLACES) + (len(BACKGROUNDS),))
