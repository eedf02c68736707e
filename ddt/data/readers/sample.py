"""One sample of a source shard before any check."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ddt.clean import clean_text
from ddt.records import canonical_caption

TYPICAL_SAMPLE_BYTES = 100_000  # of a picture from the web: about how many are lost where none could be read


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
        return clean_text(value) if isinstance(value, str) else None

    @property
    def questions(self) -> list[dict[str, str]]:
        """What the metadata ask about the image under "questions": a list of `question` and `answer`.

        What is not text is left out: damage to metadata does not cost the sample.
        """
        asked = self.meta.get("questions")
        found = [_question(entry) for entry in asked] if isinstance(asked, list) else []
        return [question for question in found if all(question.values())]


def _question(entry: Any) -> dict[str, str]:
    found = {name: entry.get(name) if isinstance(entry, dict) else None for name in ("question", "answer")}
    return {name: canonical_caption(text) if isinstance(text, str) else "" for name, text in found.items()}
