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
class PictureFilters:
    """Which sound pairs are not wanted; None: not asked. Held-out pictures, edits and chats are not filtered.

    `max_aspect_ratio`: longer side by shorter. `min_contrast`: standard deviation of the most varied channel,
    `min_colour`: mean difference between the channels of a pixel, both in levels of 255. `max_nsfw` and
    `max_watermark`: probabilities, where the source tells one. `max_share`: the stage stops where a kind or a
    shard loses more to filters: a threshold is then on another scale than the data.
    """

    max_aspect_ratio: Annotated[float, Range(1)] | None
    drop_animated: bool
    min_contrast: Annotated[float, Range(0, 128)] | None
    min_colour: Annotated[float, Range(0, 255)] | None
    max_nsfw: Fraction | None
    max_watermark: Fraction | None
    max_share: Fraction


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
    filters: PictureFilters
    scenes: SceneSource


@dataclass(frozen=True)
class RecaptionParams:
    """The captioner: a LLaVA-class checkpoint (ShareGPT-4V in the paper).

    `temperature` 0 is the likeliest token always. A caption that is empty, a refusal, a loop or not at its
    end after `max_new_tokens` is asked for once more; the stage stops where more than `max_reject_rate` of
    all, or of a shard of 20 or more, are then rejected.
    """

    model: str
    prompt: str
    max_new_tokens: Count
    temperature: Annotated[float, Range(0, 2)]
    batch_size: Count
    max_reject_rate: Fraction


@dataclass(frozen=True)
class ScoreParams:
    """The CLIP model that scores native and generated captions."""

    model: str
    batch_size: Count


@dataclass(frozen=True)
class SelectParams:
    """Which pairs are kept: filters first, then exactly `keep` pairs with the highest score.

    Filters of captions judge the native one. `caption_languages` are ISO 639-1 codes; a caption is dropped
    where all of them together are less probable than `min_language_probability`.
    The gate asks for a mean score, and where `gate_max_score_drift` is set for a distribution of native
    scores that is no further from the version before (0: the same, 1: nothing in common).
    `takedown` is a file (ddt/data/takedown.py) of what no version that is made with it may have.
    """

    keep: Count
    rank_by: Literal["native", "generated", "mean"]
    min_native_score: Annotated[float, Range(-1, 1)]
    min_generated_score: Annotated[float, Range(-1, 1)]
    min_caption_words: Natural
    max_caption_words: Count | None
    drop_boilerplate: bool
    caption_languages: tuple[str, ...] | None
    min_language_probability: Fraction
    takedown: str | None
    drop_near_duplicates: bool
    seed: int
    gate_min_mean_score: Annotated[float, Range(-1, 1)]
    gate_max_score_drift: Fraction | None
    gate_max_long_caption_words: Count
