"""What `select` asks of a native caption: its words, that it says something, its language."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ddt.clean import one_line
from ddt.data.boilerplate import is_boilerplate
from ddt.sections.curation import SelectParams

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier


class CaptionFilters:
    """The filters of one selection. Raises ValueError for a language that can't be told from others."""

    def __init__(self, params: SelectParams) -> None:
        self.params = params
        self.identifier = None if params.caption_languages is None else load_identifier()
        if self.identifier is not None:
            unknown = set(params.caption_languages or ()) - set(self.identifier.labels)
            if unknown or not params.caption_languages:
                known = one_line(", ".join(sorted(self.identifier.labels)), 160)
                asked = list(params.caption_languages or ())
                raise ValueError(f"select.caption_languages = {asked}: expected null or codes of {known}")

    def reasons(self, captions: Sequence[str]) -> dict[str, np.ndarray]:
        """reason -> bool[n], the reasons that are told rather than those before them coming last."""
        params, words = self.params, np.array([len(caption.split()) for caption in captions], np.int64)
        nothing = np.zeros(len(captions), bool)
        short = words < params.min_caption_words
        return {
            "foreign_caption": nothing if self.identifier is None else self._each(self._is_foreign, captions),
            "boilerplate": self._each(is_boilerplate, captions) if params.drop_boilerplate else nothing,
            "long_caption": nothing if params.max_caption_words is None else words > params.max_caption_words,
            "short_caption": short,
            "empty_caption": short & (words == 0),
        }

    @staticmethod
    def _each(judge: Callable[[str], bool], captions: Sequence[str]) -> np.ndarray:
        return np.fromiter(map(judge, captions), bool, len(captions))

    def _is_foreign(self, caption: str) -> bool:
        assert self.identifier is not None
        wanted = self.params.caption_languages or ()
        likely = sum(probability for name, probability in self.identifier.rank(caption) if name in wanted)
        return likely < self.params.min_language_probability


def load_identifier() -> LanguageIdentifier:
    """The model that py3langid ships: 99 languages, probabilities that add up to one."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
