"""One sample of a source shard before any check."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RawSample:
    """Encoded image bytes and the native caption ('' where there is none), with the metadata beside them.

    `doubt` says, of a sample without a caption, what there is in its place that was not understood.
    """

    key: str
    image: bytes
    caption: str
    meta: dict[str, Any] = field(default_factory=dict)
    doubt: str = ""

    @property
    def planted(self) -> str | None:
        """The fault a synthetic crawl planted in this sample, for measuring curation."""
        value = self.meta.get("planted")
        return value if isinstance(value, str) else None
