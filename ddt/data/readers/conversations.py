"""Conversations about pictures as LLaVA and ShareGPT-4V publish them: a JSON list, or JSON lines.

Each entry has `conversations` (turns of `from` and `value`, or of `role` and `content`) and `image`, one path
or several, or data: URIs; `<image>` in a turn says where a picture stands. An entry without pictures is text
alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ddt.clean import clean_text
from ddt.data.decode import check_image
from ddt.data.readers.entries import Entry, Span, read_entries
from ddt.data.readers.pictures import Pictures
from ddt.records import Reject, canonical_caption, sample_id

IMAGE = "<image>"
ROLES = {
    "human": "user", "user": "user",
    "gpt": "assistant", "assistant": "assistant", "bot": "assistant", "model": "assistant",
}  # fmt: skip

Turn = dict[str, str]  # role "user" or "assistant", and text


@dataclass(frozen=True)
class Part:
    """Entries `start` to `stop` of a file. `digest` is of their text and of their pictures' sizes and times,
    `span` where they lie in the file, where that is known.

    The digest is not of what the pictures show: one file names a million of them, and reading them all to see
    whether anything is new would take as long as the stage itself. A copy with other times is read once more
    and gives the same shard.
    """

    start: int
    stop: int
    digest: str
    span: Span | None


def split_conversations(path: str | Path, images: str | Path, entries: int) -> list[Part]:
    """A file in parts of so many `entries`. Raises ValueError as `read_conversations` does."""
    pictures, parts, start = Pictures(images), [], 0
    for group in _batched(read_entries(Path(path)), entries):
        digest = hashlib.sha256()
        for entry in group:
            states = [pictures.state(name) for name in _image_names(entry.value)]
            digest.update(entry.text.encode("utf-8", "surrogatepass"))
            digest.update(json.dumps(states).encode())
        parts.append(Part(start, start + len(group), digest.hexdigest(), _span(group)))
        start += len(group)
    return parts


def read_conversations(
    path: str | Path,
    images: str | Path,
    max_pixels: int,
    min_side_px: int,
    part: Part | None = None,
) -> Iterator[dict[str, Any] | Reject]:
    """Rows of CONVERSATION_SCHEMA and Rejects of a file, or a part of it, in its order.

    Of a part with a span nothing else is read; of another what is before it is parsed as well. Picture paths
    are below folder `images`. Raises ValueError where the file is neither a JSON list nor JSON lines; a line
    that is damaged, and all that follows a break in a list, are Rejects.
    """
    pictures, name = Pictures(images), Path(path).name
    entries = read_entries(Path(path), None if part is None else part.span)
    if part is not None and part.span is None:
        entries = islice(entries, part.start, part.stop)
    for entry in entries:
        try:
            if isinstance(entry.value, Reject):
                raise entry.value
            turns = read_turns(entry.value)
            found = [pictures.read(image) for image in _image_names(entry.value)]
            for image in found:
                check_image(image, max_pixels, min_side_px)
            yield _row(turns, found)
        except Reject as reject:
            yield reject.place(name, _key(entry))


def _span(group: list[Entry]) -> Span | None:
    """Of entries that follow each other; None where any has none."""
    first, last = group[0].span, group[-1].span
    if first is None or last is None or any(entry.span is None for entry in group):
        return None
    return Span(first.begin, last.end, first.first, first.lines)


def _key(entry: Entry) -> str:
    """Where an entry stands, and what it calls itself."""
    name = entry.value.get("id") if isinstance(entry.value, dict) else None
    return f"{entry.place} ({name})" if isinstance(name, str | int | float) else entry.place


def read_turns(entry: Any) -> list[Turn]:
    """The turns of an entry, from the first question to the last answer; raises Reject.

    A system turn says nothing of the picture and is left out, as is a question that nobody answers.
    """
    try:
        said = [_turn(turn) for turn in entry.get("conversations") or entry["messages"]]
    except (AttributeError, KeyError, TypeError):
        raise Reject("bad_record", "expected conversations with from and value") from None
    turns = [turn for turn in said if turn is not None]
    while turns and turns[-1]["role"] == "user":
        turns.pop()
    if not turns:
        raise Reject("bad_record", "a conversation without an answer")
    for i, turn in enumerate(turns):
        if turn["role"] != ("user", "assistant")[i % 2]:
            raise Reject("bad_record", f"turn {i}: expected user and assistant by turns, beginning with user")
        if not turn["text"]:
            raise Reject("bad_record", f"turn {i} is empty")
    return turns


def _turn(turn: Any) -> Turn | None:
    role = (turn.get("from") or turn["role"]).lower()
    if role == "system":
        return None
    text = turn.get("value") if "value" in turn else turn["content"]
    if role not in ROLES:
        raise Reject("bad_record", f"a turn by {role!r}; known: system, {', '.join(ROLES)}")
    if not isinstance(text, str):
        raise Reject("bad_record", f"a turn of type {type(text).__name__}, expected a text")
    return {"role": ROLES[role], "text": clean_text(text)}


def _image_names(entry: Any) -> list[Any]:
    if not isinstance(entry, dict):
        return []
    names = entry.get("image") or entry.get("images")
    return names if isinstance(names, list) else [names] if names else []


def _batched(items: Iterator[Entry], size: int) -> Iterator[list[Entry]]:
    while group := list(islice(items, size)):
        yield group


def _row(turns: list[Turn], images: list[bytes]) -> dict[str, Any]:
    marks = sum(turn["text"].count(IMAGE) for turn in turns)
    if (
        images and not marks
    ):  # some exports leave the mark out: the picture is what the first question is about
        turns = [{**turns[0], "text": f"{IMAGE}\n{turns[0]['text']}"}, *turns[1:]]
    elif marks != len(images):
        raise Reject("bad_record", f"{marks} {IMAGE} marks for {len(images)} images")
    text = canonical_caption(" ".join(turn["text"] for turn in turns))
    return {"sample_id": sample_id(b"".join(images), text), "turns": turns, "images": images}
