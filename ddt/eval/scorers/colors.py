"""The colour of a found object, by CLIP, as GenEval classifies it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from ddt.data.clip_score import ClipScorer
from ddt.eval.metrics.geneval import COLORS
from ddt.eval.scorers.detector import Found

BACKGROUND = "#999"
TEMPLATES = (
    "a photo of a {color} {name}",
    "a photo of a {color}-colored {name}",
    "a photo of a {color} object",
)


class ColorClassifier:
    """The most likely of GenEval's ten colours."""

    def __init__(self, clip: ClipScorer) -> None:
        self.clip = clip
        self._embedded: dict[str, torch.Tensor] = {}

    def __call__(self, image: Image.Image, objects: Sequence[Found]) -> list[str]:
        """One colour for each object of the picture."""
        if not objects:
            return []
        crops_ND = self.clip.embed_images([crop_of(image, item) for item in objects])
        return [
            COLORS[int((self._colors(item.name) @ crop_D).argmax())]
            for item, crop_D in zip(objects, crops_ND, strict=True)
        ]

    def _colors(self, name: str) -> torch.Tensor:
        if name not in self._embedded:
            rows = []
            for color in COLORS:
                texts = [template.format(color=color, name=name) for template in TEMPLATES]
                rows.append(torch.nn.functional.normalize(self.clip.embed_texts(texts).mean(0), dim=0))
            self._embedded[name] = torch.stack(rows)
        return self._embedded[name]


def crop_of(image: Image.Image, item: Found) -> Image.Image:
    """The object's box, all but its mask painted grey where it has one."""
    if item.mask is not None:
        image = Image.composite(image, Image.new("RGB", image.size, BACKGROUND), Image.fromarray(item.mask))
    x1, y1, x2, y2 = item.box
    return image.crop((round(x1), round(y1), round(x2), round(y2)))
