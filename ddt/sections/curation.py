"""From raw sources to the selected pairs: ingest, recaption, score, select."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ddt.config import Count, Fraction, Natural, Range


@dataclass(frozen=True)
class SceneSource:
    """The raw crawl drawn when `ingest.source` is `scenes`, and the faults planted in it."""

    shards: Count
    rows_per_shard: Count
    edits_per_shard: Natural
    image_side_px: Annotated[int, Range(16, 512)]
    seed: int
    faults: dict[str, Fraction]


@dataclass(frozen=True)
class IngestParams:
    """Sources to checked records. `source` is `scenes`, or a folder, file or glob of tars or Parquet.

    `conversations` (JSON or JSON lines, their pictures below `conversation_images`) and `edits` (Parquet)
    are data for instruction tuning beside it. The stage stops where more than `max_reject_rate` of the
    samples of a kind (pairs, held-out pairs, edits, conversations) are lost, or of a shard of 20 or more.
    """

    source: str
    holdout: str | None
    conversations: str | None
    conversation_images: str | None
    edits: str | None
    caption_column: str | None
    image_column: str | None
    min_side_px: Count
    max_pixels: Count
    max_reject_rate: Fraction
    scenes: SceneSource


@dataclass(frozen=True)
class RecaptionParams:
    """The captioner: a LLaVA-class checkpoint (ShareGPT-4V in the paper)."""

    model: str
    prompt: str
    max_new_tokens: Count
    batch_size: Count


@dataclass(frozen=True)
class ScoreParams:
    """The CLIP model that scores native and generated captions."""

    model: str
    batch_size: Count


@dataclass(frozen=True)
class SelectParams:
    """Which pairs are kept: filters first, then exactly `keep` pairs with the highest score."""

    keep: Count
    rank_by: Literal["native", "generated", "mean"]
    min_native_score: Annotated[float, Range(-1, 1)]
    min_generated_score: Annotated[float, Range(-1, 1)]
    min_caption_words: Natural
    drop_near_duplicates: bool
    seed: int
    gate_min_mean_score: Annotated[float, Range(-1, 1)]
    gate_max_long_caption_words: Count
