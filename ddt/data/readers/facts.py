"""What web-scale sets tell of a picture beside its caption (FACTS), under the names that LAION, COYO and
img2dataset give it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ddt.clean import clean_text
from ddt.records import FACTS

NAMES = {
    "url": ("url", "image_url"),
    "nsfw": ("punsafe", "nsfw_score_opennsfw2", "nsfw_score_gantman", "nsfw"),
    "watermark": ("pwatermark", "watermark_score", "watermark"),
    "similarity": ("similarity", "clip_similarity_vitl14", "clip_similarity_vitb32"),
    "original_width": ("original_width", "width"),
    "original_height": ("original_height", "height"),
}
assert tuple(NAMES) == tuple(field.name for field in FACTS)
EVERY_NAME = frozenset(name for names in NAMES.values() for name in names)
LABELS = {"unlikely": 0.0, "unsure": 0.5, "nsfw": 1.0}  # of LAION-400M and 2B
LARGEST = 2**31 - 1


def facts_of(meta: Mapping[str, Any]) -> dict[str, Any]:
    """FACTS by name, of a sample's metadata; None where there is none, or nothing of that kind.

    Of several names the first that has a value counts. Case does not.
    """
    by_name = {str(name).lower(): value for name, value in meta.items()}
    return {fact: _first(READERS.get(fact, _score), by_name, names) for fact, names in NAMES.items()}


def _first(read: Callable[[Any], Any], by_name: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    values = (read(by_name.get(name)) for name in names)
    return next((value for value in values if value is not None), None)


def _text(value: Any) -> str | None:
    return clean_text(value) or None if isinstance(value, str) else None


def _score(value: Any) -> float | None:
    if isinstance(value, str):
        if value.strip().lower() in LABELS:
            return LABELS[value.strip().lower()]
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def _pixels(value: Any) -> int | None:
    score = _score(value)
    return int(score) if score is not None and 0 < score <= LARGEST else None


READERS: dict[str, Callable[[Any], Any]] = {
    "url": _text, "original_width": _pixels, "original_height": _pixels,
}  # fmt: skip
