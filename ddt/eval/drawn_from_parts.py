"""Pictures drawn by the sampler in use from parts of their tokens (Fig. 8) and from mixtures (Fig. 6).

Each has a twin of the spatial reference, `ddt.eval.regions`. Shapes: B batch, T tokens, H W C pixels (uint8).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddt.baselines.kinds import ImageTokenizer
from ddt.eval.regions import Regions
from ddt.eval.report.pictures import rgb_array
from ddt.eval.token_looks import QUARTERS
from ddt.mllm.pictures import to_images
from ddt.tokenizer.inspect import swap_codes


def prefix_counts(num_tokens: int) -> list[int]:
    """1, 2, 4, 8 … tokens, each quarter of them, and all."""
    doubled = {1 << power for power in range(num_tokens.bit_length())}
    quarters = {num_tokens * quarter // QUARTERS for quarter in range(1, QUARTERS + 1)}
    return sorted(doubled | quarters)


@dataclass(frozen=True)
class DrawnFromParts:
    """What is drawn for one picture: of each prefix, and with either half of another picture's tokens.

    The mixtures are with V_1..V_(T/2) of the other picture, and with the rest.
    """

    prefixes: list[np.ndarray]
    mixtures: list[np.ndarray]
    region_prefixes: list[np.ndarray]
    region_mixtures: list[np.ndarray]

    def strip(self, picture: np.ndarray, partner: np.ndarray) -> np.ndarray:
        """Picture, prefixes, mixtures, partner; below them the spatial reference's."""
        rows = ((self.prefixes, self.mixtures), (self.region_prefixes, self.region_mixtures))
        drawn = [np.concatenate([picture, *one, *two, partner], axis=1) for one, two in rows]
        return np.concatenate(drawn)


def tiles(strip: np.ndarray) -> list[list[np.ndarray]]:
    """The pictures of `DrawnFromParts.strip`: the tokenizer's row and the spatial reference's."""
    side = strip.shape[0] // 2
    rows = (strip[:side], strip[side:])
    return [[row[:, x : x + side] for x in range(0, row.shape[1], side)] for row in rows]


def draw_from_parts(
    tokenizer: ImageTokenizer,
    codes_BT: Tensor,
    other_BT: Tensor,
    seeds: Sequence[int],
    num_steps: int | None,
) -> list[DrawnFromParts]:
    """Drawings for each picture, with `other_BT` the codes of the picture that it is mixed with."""

    def draw(drawn_BT: Tensor, count: int | None = None) -> list[np.ndarray]:
        noise = [torch.Generator().manual_seed(seed) for seed in seeds]
        return [rgb_array(image) for image in to_images(tokenizer.decode(drawn_BT, num_steps, count, noise))]

    num_tokens = codes_BT.shape[1]
    counts, halves = prefix_counts(num_tokens), ((0, num_tokens // 2), (num_tokens // 2, num_tokens))
    prefixes = [draw(codes_BT, count) for count in counts]
    wholes, others = prefixes[-1], draw(other_BT)
    mixtures = [draw(swap_codes(codes_BT, other_BT, start, stop)) for start, stop in halves]
    regions = Regions(num_tokens, len(wholes[0]))
    return [
        DrawnFromParts(
            [images[i] for images in prefixes],
            [images[i] for images in mixtures],
            [regions.first(whole, count) for count in counts],
            [regions.cut(whole, other, start, stop) for start, stop in halves],
        )
        for i, (whole, other) in enumerate(zip(wholes, others, strict=True))
    ]
