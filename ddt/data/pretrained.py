"""What the loaders of pretrained judges share: opening a checkpoint, image input, device and precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors import SafetensorError

from ddt.data.decode import decode_rgb, to_rgb
from ddt.data.refs import resolve
from ddt.weights import check_safetensors, why_not_loaded


def load_model(loader: Any, path_or_ref: str, **kwargs: Any) -> Any:
    """`load` of a class that has weights: from safetensors alone."""
    check_safetensors(f"model {path_or_ref!r}", resolve(path_or_ref))
    return load(loader, path_or_ref, use_safetensors=True, **kwargs)


LONGEST_PX = 1344  # of a picture for a processor of another kind: more than its tiles take


def load(loader: Any, path_or_ref: str, **kwargs: Any) -> Any:
    """`loader.from_pretrained` with a missing or unsuitable checkpoint told in one line (ValueError)."""
    try:
        return loader.from_pretrained(resolve(path_or_ref), trust_remote_code=False, **kwargs)
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"model {path_or_ref!r} can't be loaded: {why_not_loaded(error)}") from None


def pick_device(device: str | None) -> torch.device:
    """The named device, or CUDA where there is one."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def pick_dtype(device: torch.device) -> torch.dtype:
    """bf16 on CUDA; float32 on CPU, where the small judges gain nothing and scores should not be rounded."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


class ImageInput:
    """PIL images to the pixel values that an image processor's config asks for.

    Images that already have the crop's size skip the per-image path of the processor: resize and crop do
    nothing to them, so rescaling and normalising the stacked batch gives the same numbers (a test compares).

    Encoded pictures are brought to that size one by one as they are decoded (`read`), so that a batch of them
    is small whatever their size. The processor's own numbers come out, but that its centre crop is cut out
    first and resized then (a grey level), and that a large JPEG is decoded at a half, a quarter or an eighth
    (a few). For a processor that tiles or pads, pictures are only shrunk, whole.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self._resized_to = _resized_to(processor)
        self.side_px = max(self._resized_to) if self._resized_to else LONGEST_PX // 2
        mean = np.asarray(processor.image_mean, dtype=np.float32)
        std = np.asarray(processor.image_std, dtype=np.float32)
        scale = np.float32(processor.rescale_factor)
        self._scale, self._shift = scale / std, -mean / std

    def __call__(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """float32[B, C, H, W]"""
        rgb = [to_rgb(image) for image in images]
        if all(self._fits(image) for image in rgb):
            pixels_BHWC = np.stack([np.asarray(image) for image in rgb])
            pixels_BHWC = pixels_BHWC * self._scale + self._shift
            return torch.from_numpy(pixels_BHWC).permute(0, 3, 1, 2).contiguous()
        return self.processor(images=rgb, return_tensors="pt")["pixel_values"].float()

    def read(self, data: bytes) -> Image.Image:
        """An encoded picture at the size that the processor resizes to. ValueError as `decode_rgb`."""
        return self.fit(decode_rgb(data, self.side_px))

    def fit(self, image: Image.Image) -> Image.Image:
        """The same of a decoded picture, of `side_px` or more."""
        if self._resized_to is None:
            longest = (LONGEST_PX, LONGEST_PX)
            return image if max(image.size) <= LONGEST_PX else ImageOps.contain(image, longest)
        if image.size == self._resized_to:
            return image
        resample = Image.Resampling(self.processor.resample)
        box = self._square(*image.size) if self.processor.size.get("shortest_edge") else None
        return image.resize(self._resized_to, resample, box)

    def _square(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Of a picture the part whose crop is the processor's, which resizes, rounds and cuts pixels."""
        edge, crop, shorter = self.side_px, self.processor.crop_size, min(width, height)
        resized = int(edge * width / shorter), int(edge * height / shorter)
        before = [
            (side - cut) // 2 - (edge - cut) // 2
            for side, cut in zip(resized, (crop["width"], crop["height"]), strict=True)
        ]
        x, y = width / resized[0], height / resized[1]
        return before[0] * x, before[1] * y, (before[0] + edge) * x, (before[1] + edge) * y

    def _fits(self, image: Image.Image) -> bool:
        size, crop = self.processor.size, self.processor.crop_size
        wanted = (
            (crop["width"], crop["height"]) if crop is not None else (size.get("width"), size.get("height"))
        )
        edge = size.get("shortest_edge")
        return image.size == wanted and (edge is None or edge == min(image.size))


def _resized_to(processor: Any) -> tuple[int, int] | None:
    """The one (width, height) that it resizes every picture to, of a centre square or of the whole picture.

    None where there is no such size: it pads, or cuts tiles, or keeps the shape.
    """
    size, crop = processor.size, processor.crop_size
    edge, width, height = (size.get(name) for name in ("shortest_edge", "width", "height"))
    if getattr(processor, "do_pad", False) or getattr(processor, "image_grid_pinpoints", None):
        return None
    if width and height:
        return width, height
    if edge and processor.do_center_crop and max(crop["width"], crop["height"]) <= edge:
        return edge, edge
    return None
