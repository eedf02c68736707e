"""Pictures through the image tokenizer and back, drawn as a model's own are.

It bounds what a model can reach that draws by this tokenizer: ground truth that is known to score 1 may score
0.02 once it has been encoded and decoded. T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddt.eval.benchmark import Case
from ddt.eval.report.pictures import rgb_array
from ddt.mllm.pictures import to_images, to_pixels


def round_trip(
    tokenizer: Any, images: Sequence[Image.Image], seeds: Sequence[int], num_steps: int | None = None
) -> tuple[Tensor, list[Image.Image]]:
    """Codes [n, T] of the images, and what `num_steps` draw from them; noise is that of each one's seed."""
    codes_BT = tokenizer.encode(to_pixels(images, tokenizer.config.image_size)).cpu()
    noise = [torch.Generator().manual_seed(seed) for seed in seeds]
    return codes_BT, to_images(tokenizer.decode(codes_BT, num_steps, generator=noise))


def tokenized(
    model: Any, cases: Sequence[Case], pictures: Sequence[np.ndarray], num_steps: int | None
) -> list[np.ndarray]:
    """Each case's picture (uint8 HWC) as the model's tokenizer gives it back, by the case's seed."""
    images = [Image.fromarray(picture) for picture in pictures]
    seeds = [case["seed"] for case in cases]
    return [rgb_array(image) for image in round_trip(model.image_tokenizer, images, seeds, num_steps)[1]]
