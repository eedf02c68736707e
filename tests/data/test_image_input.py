"""Pictures for a pretrained model: read small, against the same picture through the model's own processor."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from ddt.data.pretrained import LONGEST_PX, ImageInput
from tests.data.pictures import encode

PROCESSORS = {
    "shorter side and centre crop": CLIPImageProcessorPil(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}
    ),
    "crop smaller than the side": CLIPImageProcessorPil(
        size={"shortest_edge": 72}, crop_size={"height": 64, "width": 64}
    ),
    "one size for every shape": SiglipImageProcessorPil(size={"height": 64, "width": 48}),
}


def smooth(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width] / 100
    planes = [127 + 120 * np.sin(3 * x + 1), 127 + 120 * np.cos(2 * y), 127 + 120 * np.sin(x + y)]
    return Image.fromarray(np.stack(planes, -1).astype(np.uint8))


@pytest.mark.parametrize("processor", PROCESSORS.values(), ids=PROCESSORS)
@pytest.mark.parametrize("size", [(400, 300), (300, 400), (1200, 900), (100, 300), (40, 90), (64, 64)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_picture_that_is_read_small_gives_the_model_the_same(processor, size, kind):
    """Up to resampling: a grey level, and what JPEG itself changes."""
    picture, read = smooth(*size), ImageInput(processor)
    small = read.read(encode(picture, kind, **({"quality": 100} if kind == "JPEG" else {})))
    assert max(small.size) <= 72
    levels = 255 * torch.tensor(processor.image_std)[:, None, None]
    difference = (read([small]) - read([picture])) * levels
    most, mean = {"PNG": (1.01, 0.05), "JPEG": (5, 0.7)}[kind]
    assert difference.abs().max() <= most and difference.abs().mean() <= mean


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (3, 2)])
@pytest.mark.parametrize("processor", PROCESSORS.values(), ids=PROCESSORS)
def test_any_shape_is_read_small(processor, size):
    small = ImageInput(processor).read(encode(Image.new("RGB", size, (120, 120, 120))))
    assert max(small.size) <= 72 and small.getextrema() == ((120, 120),) * 3


def test_a_picture_for_tiles_is_shrunk_whole():
    read = ImageInput(LlavaNextImageProcessorPil())
    large, small = encode(smooth(2800, 700)), encode(smooth(600, 400))
    assert read.read(large).size == (LONGEST_PX, 336)
    assert np.array_equal(read.read(small), smooth(600, 400))
