"""What is wrong with a caption that a model wrote: it says nothing, refuses, repeats itself or never ends."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pyarrow as pa

FAULTS = ("empty", "refusal", "loop", "truncated")
REJECTED_CAPTION_SCHEMA = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in ("sample_id", "reason", "text")]
)

# How chat models begin where they do not describe; what a picture says ("sorry, closed") comes later.
_REFUSAL = re.compile(
    r"\W*(?:(?:i['’]?m|i am|we are|we['’]re) (?:very |so |truly )?sorry\b|sorry(?:[,.!;:]| but\b| for\b)"
    r"|i (?:must )?apologi[sz]e|my apologies|unfortunately,? (?:i|the image|there is no image)\b"
    r"|as an? (?:ai|artificial intelligence|(?:large )?language model|text-based)\b"
    r"|(?:i|we) (?:can['’]?t|can ?not|could(?:n['’]t| not)|won['’]t|will not|do(?:n['’]t| not) (?:have|see)"
    r"|am (?:not able|unable)|['’]m (?:not able|unable))\b"
    r"|i['’]m (?:not able|unable)\b|i need (?:the|an) image|please (?:provide|upload) (?:the|an) image)",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W\d_]+")  # a list that counts its lines repeats itself all the same
LONGEST_LOOP = 40  # words that are said again and again
FEW_WORDS, OFTEN = 2, 5  # "very, very, very" is no loop; five times the same word or two is
TIMES = 3  # of a longer run of words: two like objects may be told in the same words


@dataclass(frozen=True)
class Answer:
    """What a model said of an image, on one line; `ended`: by its own end token, not by the limit."""

    text: str
    ended: bool


def fault(answer: Answer) -> str | None:
    """The first of FAULTS that a caption has; None of a sound one."""
    words = [word.lower() for word in _WORD.findall(answer.text)]
    if not words:
        return "empty"
    if _REFUSAL.match(answer.text):
        return "refusal"
    if _repeats(words):
        return "loop"
    return None if answer.ended else "truncated"


def _repeats(words: list[str]) -> bool:
    """Whether the same words stand in a row, so often that nobody means it."""
    for size in range(1, min(LONGEST_LOOP, len(words) // TIMES) + 1):
        wanted = size * ((OFTEN if size <= FEW_WORDS else TIMES) - 1)
        run = 0  # words so far that are those of `size` words before
        for word, before in zip(words[size:], words, strict=False):
            run = run + 1 if word == before else 0
            if run == wanted:
                return True
    return False
