"""Images as codes: train_tokenizer, tokenize_images."""

from __future__ import annotations

from dataclasses import dataclass

from ddt.baselines.config import SpatialConfig, SpatialSizes
from ddt.config import Count, Fraction
from ddt.tokenizer.config import DDTConfig
from ddt.train.config import FitConfig


@dataclass(frozen=True)
class TrainTokenizerParams:
    """The DDT tokenizer and its training. `init`: SD3 weights for the decoder's image stream, or null.

    `source`: its own images (ImageNet in the paper), read as `ingest.source` is; null: those of the pairs.
    `spatial`: sizes of the baseline to train in its place, with the tokens, codes and quantizer of `model`.
    """

    init: str | None
    source: str | None
    spatial: SpatialSizes | None
    model: DDTConfig
    fit: FitConfig

    def __post_init__(self) -> None:
        if self.spatial is not None and self.init is not None:
            raise ValueError(f"init = {self.init!r}: expected null with spatial, which has nothing of SD3's")
        _ = self.image_tokenizer  # the baseline's own checks

    @property
    def image_tokenizer(self) -> DDTConfig | SpatialConfig:
        """The configuration of what is trained."""
        return self.model if self.spatial is None else SpatialConfig.like(self.model, self.spatial)


@dataclass(frozen=True)
class TokenizeImagesParams:
    """Bulk tokenization and its gate."""

    batch_size: Count
    gate_min_usage: Fraction
