"""Conversations about pictures as LLaVA and ShareGPT-4V publish them: a JSON list, or JSON lines.

Each entry has `conversations` (turns of `from` and `value`, or of `role` and `content`) and `image`, one path
or several; `<image>` in a turn says where a picture stands. An entry without pictures is text alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ddt.data.decode import MAX_IMAGE_BYTES, check_image
from ddt.records import Reject, canonical_caption, sample_id

IMAGE = "<image>"
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}

Turn = dict[str, str]  # role "user" or "assistant", and text


@dataclass(frozen=True)
class Part:
    """Entries `start` to `stop` of a file. `digest` is of their text and of their pictures' sizes and times.

    Not of what the pictures show: one file names a million of them, and reading them all to see whether
    anything is new would take as long as the stage itself. A copy with other times is read once more and
    gives the same shard.
    """

    start: int
    stop: int
    digest: str


def split_conversations(path: str | Path, images: str | Path, entries: int) -> list[Part]:
    """A file in parts of so many `entries`. Raises ValueError as `read_conversations` does."""
    root, parts, start = Path(images), [], 0
    for group in _batched(_entries(Path(path)), entries):
        digest = hashlib.sha256(json.dumps(group, sort_keys=True).encode())
        for entry in group:
            states = [_state(root / str(name)) for name in _image_names(entry)]
            digest.update(json.dumps(states).encode())
        parts.append(Part(start, start + len(group), digest.hexdigest()))
        start += len(group)
    return parts


def read_conversations(
    path: str | Path,
    images: str | Path,
    max_pixels: int,
    min_side_px: int,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[dict[str, Any] | Reject]:
    """Rows of CONVERSATION_SCHEMA and Rejects of entries `start` to `stop`, in the file's order.

    Picture paths are below folder `images`. Raises ValueError where the file is neither a JSON list nor JSON
    lines.
    """
    root = Path(images).resolve()
    for number, entry in islice(enumerate(_entries(Path(path))), start, stop):
        key = str(entry.get("id", number)) if isinstance(entry, dict) else str(number)
        try:
            turns = read_turns(entry)
            pictures = [_read_image(root, name, max_pixels, min_side_px) for name in _image_names(entry)]
            yield _row(turns, pictures)
        except Reject as reject:
            reject.key, reject.source = key, Path(path).name
            yield reject


def _entries(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as file:
        if path.suffix == ".jsonl":
            for number, line in enumerate(file, start=1):
                if line.strip():
                    try:
                        yield json.loads(line)
                    except ValueError:
                        raise ValueError(f"{path}: line {number} is not JSON") from None
            return
        try:
            entries = json.load(file)
        except ValueError as error:
            raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(entries, list):
        raise ValueError(f"{path}: expected a list of conversations, got {type(entries).__name__}")
    yield from entries


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
    role = turn.get("from") or turn["role"]
    if role == "system":
        return None
    text = turn.get("value") if "value" in turn else turn["content"]
    if role not in ROLES or not isinstance(text, str):
        raise Reject("bad_record", f"a turn by {role!r}; known: system, {', '.join(ROLES)}")
    return {"role": ROLES[role], "text": text.strip()}


def _image_names(entry: Any) -> list[Any]:
    names = entry.get("image") if isinstance(entry, dict) else None
    return list(names) if isinstance(names, list) else [names] if names else []


def _state(path: Path) -> tuple[int, int] | None:
    """Size and time of the last change; None where there is no file."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # ValueError: a null byte in the name
        return None
    return found.st_size, found.st_mtime_ns


def _batched(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while group := list(islice(items, size)):
        yield group


def _read_image(root: Path, name: Any, max_pixels: int, min_side_px: int) -> bytes:
    if not isinstance(name, str) or "\0" in name:
        raise Reject("bad_record", f"image {name!r}: expected a path")
    path = (root / name).resolve()
    if root not in path.parents:
        raise Reject("bad_record", f"image {name!r} lies outside the folder of images")
    if not path.is_file():
        raise Reject("missing_image", f"no file {name!r}")
    if path.stat().st_size > MAX_IMAGE_BYTES:
        raise Reject("too_large", f"{name!r}: more than {MAX_IMAGE_BYTES} bytes")
    data = path.read_bytes()
    check_image(data, max_pixels, min_side_px)
    return data


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
