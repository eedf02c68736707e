"""Where a caption stands in what people write beside a picture: the usual names, strings and lists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ddt.clean import clean_text, decode_text
from ddt.records import Reject

# Case does not count (LAION writes TEXT). What says most of the picture comes first.
CAPTION_NAMES = (
    "caption", "captions", "text", "texts", "txt", "title", "alt", "alt_text", "description", "prompt",
    "sentence", "sentences", "raw", "original_caption", "re_caption", "long_caption", "caption_text", "en",
    "label",
)  # fmt: skip
# What holds the metadata of a sample where they are no names of their own.
CONTAINERS = ("json", "meta", "metadata", "info", "data", "annotation", "annotations")
EMPTY: tuple[Any, ...] = (None, "", b"", [], {})
NAMES_TOLD = 6
LEVELS = 4  # of lists and objects in each other that are looked into


def find_caption(meta: Mapping[str, Any], levels: int = LEVELS) -> tuple[str, str]:
    """(caption, doubt) of metadata: the first usual name that holds a text, else '' and why there is none.

    A list of captions gives its first that is not empty. The doubt is '' where the metadata have a caption's
    name and nothing under it: that sample has none. Raises Reject for bytes that are no text.
    """
    by_name = _by_name(meta)
    known = [name for name in CAPTION_NAMES if name in by_name]
    for name in known:
        if text := first_text(by_name[name]):
            return text, ""
    for name in CONTAINERS:
        inner = by_name.get(name)
        if isinstance(inner, Mapping) and levels:
            text, doubt = find_caption(inner, levels - 1)
            if text or not doubt:
                return text, doubt
        elif isinstance(inner, list) and (text := first_text(inner)):
            return text, ""
    odd = next((name for name in known if by_name[name] not in EMPTY and not _is_blank(by_name[name])), None)
    if odd is not None:
        return "", f"{odd} is of type {type(by_name[odd]).__name__}, expected a text or a list of texts"
    if known or not by_name:
        return "", ""
    there = ", ".join(list(by_name)[:NAMES_TOLD])
    return "", f"no caption under a usual name (caption, text, title ...); there are: {there}"


def first_text(value: Any, levels: int = LEVELS) -> str:
    """The text that `value` is or begins with, cleaned; '' where it holds none. Raises Reject as above."""
    if isinstance(value, bytes):
        try:
            value = decode_text(value)
        except ValueError as error:
            raise Reject("bad_record", error) from None
    if isinstance(value, str):
        return clean_text(value)
    inner: Iterable[Any] = ()
    if isinstance(value, list):
        inner = value
    elif isinstance(value, Mapping):  # COCO: [{"raw": "a cat", "tokens": [...]}]
        by_name = _by_name(value)
        inner = (by_name.get(name) for name in CAPTION_NAMES)
    return next((text for item in inner if levels and (text := first_text(item, levels - 1))), "")


def _by_name(meta: Mapping[str, Any]) -> dict[str, Any]:
    by_name: dict[str, Any] = {}
    for name, value in meta.items():
        by_name.setdefault(str(name).lower(), value)
    return by_name


def _is_blank(value: Any) -> bool:
    return isinstance(value, str | bytes) or (isinstance(value, list) and all(v in EMPTY for v in value))
