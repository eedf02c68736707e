"""What the judges learn from: scenes as pictures with the faults of real files, and where their objects lie.

All combinations are drawn, the held-out ones too: a judge must score and describe them fairly, and what is
held out is held out of the models that are judged.

Shapes: B batch, P patches of the vision tower's grid, H W pixels.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image, ImageFilter

from ddt.scenes.render import render
from ddt.scenes.sample import sample_scene
from ddt.scenes.world import BACKGROUNDS, COLORS, PLACES, SHAPES, SIZES, TEXTURES, Object, Scene, place

SIDE_PX = 32
HELD_OUT_SHARE = 0.15
RESIZED_SHARE = 0.35  # drawn at 64 px and brought down, as a processor does with a larger source
JPEG_SHARE = 0.5
BLUR_SHARE, NOISE_SHARE = 0.1, 0.15  # pictures from a model are judged as well
MEAN = STD = (0.5, 0.5, 0.5)
IGNORE = -100


def draw_scene(rng: np.random.Generator) -> Scene:
    """A scene of any combination, 15 % of them surely with a held-out one."""
    return sample_scene(rng, held_out=bool(rng.random() < HELD_OUT_SHARE))


def picture(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """uint8[32, 32, 3]: the scene resized, compressed, blurred or noisy, each in a share of the cases."""
    resized, jpeg, blur, noise = rng.random(4) < (RESIZED_SHARE, JPEG_SHARE, BLUR_SHARE, NOISE_SHARE)
    image = Image.fromarray(render(scene, 2 * SIDE_PX if resized else SIDE_PX))
    if jpeg:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=int(rng.integers(75, 97)))
        image = Image.open(buffer)
    if resized:
        image = image.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
    if blur:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 0.7))))
    pixels = np.asarray(image)
    if noise:
        spread = rng.uniform(2, 12)
        pixels = np.clip(pixels + rng.normal(0, spread, pixels.shape), 0, 255).astype(np.uint8)
    return pixels


def to_pixel_values(pictures: list[np.ndarray]) -> torch.Tensor:
    """float32[B, 3, 32, 32], normalised as the judges' image processor does."""
    pixels_BHWC = np.stack(pictures).astype(np.float32) / 127.5 - 1.0
    return torch.from_numpy(pixels_BHWC).permute(0, 3, 1, 2).contiguous()


def patch_targets(scenes: list[Scene], grid: int) -> torch.Tensor:
    """int64[B, P, 4]: shape + 1, colour, texture and size of the object centred in each patch.

    Without an object the shape is 0 and the rest is ignored.
    """
    targets = np.full((len(scenes), grid * grid, 4), IGNORE, np.int64)
    targets[:, :, 0] = 0
    for row, scene in enumerate(scenes):
        for item in scene.objects:
            patch = int(item.y * grid) * grid + int(item.x * grid)
            shape, *others = _indices(item)
            targets[row, patch] = (shape + 1, *others)
    return torch.from_numpy(targets)


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


def read_losses(logits_Bn: torch.Tensor, sizes: tuple[int, ...], targets_Bk: torch.Tensor) -> torch.Tensor:
    """float32[k]: cross-entropy of each of the `k` questions whose logits lie side by side in `logits_Bn`."""
    parts = logits_Bn.float().split(sizes, dim=-1)
    return torch.stack(
        [
            torch.nn.functional.cross_entropy(part, targets_Bk[:, i], ignore_index=IGNORE)
            for i, part in enumerate(parts)
        ]
    )


class BoardReader(torch.nn.Module):
    """A linear head that reads from one vector what lies at each of the nine places.

    The lesson of both CLIP towers: to keep all that a long caption says. It is not saved.
    """

    sizes = (len(SHAPES) + 1, len(COLORS) + 1, len(TEXTURES) + 1, len(SIZES) + 1) * 9 + (len(BACKGROUNDS),)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = torch.nn.Linear(width, sum(self.sizes))

    def loss(self, vectors_BD: torch.Tensor, targets_Bk: torch.Tensor) -> torch.Tensor:
        """Mean over places and questions, times four."""
        return 4 * read_losses(self.head(vectors_BD), self.sizes, targets_Bk).mean()


class PatchReader(torch.nn.Module):
    """Linear heads that name the object centred in each patch.

    A dense lesson for the vision tower: with it the towers learn to see in hundreds of steps instead of
    thousands. Only training uses it; it is not saved.
    """

    sizes = (len(SHAPES) + 1, len(COLORS), len(TEXTURES), len(SIZES))

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(width)
        self.head = torch.nn.Linear(width, sum(self.sizes))

    def loss(self, patches_BPD: torch.Tensor, targets_BP4: torch.Tensor) -> torch.Tensor:
        """Sum of the four cross-entropies."""
        logits_BPn = self.head(self.norm(patches_BPD))
        return read_losses(logits_BPn.flatten(0, 1), self.sizes, targets_BP4.flatten(0, 1)).sum()
