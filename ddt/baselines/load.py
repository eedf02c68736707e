"""A saved image tokenizer of any kind."""

from __future__ import annotations

from pathlib import Path

from ddt.baselines.spatial import SpatialTokenizer
from ddt.tokenizer import DDTTokenizer, folder


def load_image_tokenizer(path: str | Path) -> DDTTokenizer | SpatialTokenizer:
    """The tokenizer in a folder, whichever it is; ValueError as its own `from_pretrained`."""
    spatial = folder.describe(Path(path)).get("model_type") == SpatialTokenizer.model_type
    return SpatialTokenizer.from_pretrained(path) if spatial else DDTTokenizer.from_pretrained(path)
