"""Tokens with parts of speech, and noun chunks, of prompts: by spaCy, or from a file that spaCy filled."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Phrase:
    """A prompt as spaCy reads it."""

    tokens: list[tuple[str, str]]  # (text, part of speech)
    chunks: list[str]


class Phrases(Protocol):
    """Reads a prompt."""

    def __call__(self, prompt: str) -> Phrase: ...


def open_phrases(name: str) -> Phrases:
    """A JSON file {prompt: {"tokens": [[text, pos], ...], "chunks": [...]}}, or a spaCy model by name."""
    return FilePhrases(Path(name)) if name.endswith(".json") else SpacyPhrases(name)


class FilePhrases:
    """Phrases that were made elsewhere."""

    def __init__(self, path: Path) -> None:
        try:
            self.known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: can't be read as phrases ({error})") from None
        if not isinstance(self.known, dict):
            raise ValueError(f"{path}: expected phrases by prompt, found {type(self.known).__name__}")
        self.path = path

    def __call__(self, prompt: str) -> Phrase:
        found = self.known.get(prompt)
        if found is None:
            raise ValueError(f"{self.path}: has no phrases of {prompt!r}")
        try:
            return Phrase([(str(text), str(part)) for text, part in found["tokens"]], list(found["chunks"]))
        except (TypeError, KeyError, ValueError):
            form = '{"tokens": [[text, part of speech], ...], "chunks": [...]}'
            raise ValueError(f"{self.path}: phrases of {prompt!r}: expected {form}") from None


class SpacyPhrases:
    """spaCy's own; needs the package and the named model."""

    def __init__(self, name: str) -> None:
        try:
            import spacy

            self.read = spacy.load(name)
        except (ImportError, OSError) as error:
            raise ValueError(
                f"phrases: needs spaCy with {name} ({error}); install both, or give --precomputed "
                "phrases=FILE.json made where they are"
            ) from None

    def __call__(self, prompt: str) -> Phrase:
        read = self.read(prompt)
        return Phrase(
            [(token.text, token.pos_) for token in read], [str(chunk) for chunk in read.noun_chunks]
        )
