"""An image tokenizer of any kind: new, with the loss that trains it, or from its folder."""

from __future__ import annotations

from pathlib import Path

from ddt.baselines.config import SpatialConfig
from ddt.baselines.spatial import SpatialLoss, SpatialTokenizer
from ddt.hub import local_folder
from ddt.tokenizer import DDTConfig, DDTTokenizer, TokenizerLoss, folder

ImageTokenizer = DDTTokenizer | SpatialTokenizer


def new_image_tokenizer(config: DDTConfig | SpatialConfig) -> ImageTokenizer:
    """An untrained tokenizer of the kind its configuration is of."""
    return SpatialTokenizer(config) if isinstance(config, SpatialConfig) else DDTTokenizer(config)


def loss_of(config: DDTConfig | SpatialConfig) -> TokenizerLoss | SpatialLoss:
    """What trains a tokenizer of that configuration in `ddt.train.fit`."""
    return SpatialLoss(config) if isinstance(config, SpatialConfig) else TokenizerLoss(config)


def load_image_tokenizer(path: str | Path) -> ImageTokenizer:
    """The tokenizer of a folder or hub id, whichever it is; ValueError as its own `from_pretrained`."""
    path = local_folder(path)
    spatial = folder.describe(path).get("model_type") == SpatialTokenizer.model_type
    return SpatialTokenizer.from_pretrained(path) if spatial else DDTTokenizer.from_pretrained(path)
