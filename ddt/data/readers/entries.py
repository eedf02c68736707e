"""Entries of a JSON list or of JSON lines, each with its place: damage to one costs that one.

Where a file is UTF-8 an entry knows its bytes: a part of a large file is read without what is before it.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddt.clean import WIDE_MARKS, decode_text, parse_json, parse_list
from ddt.records import Reject


@dataclass(frozen=True)
class Span:
    """Bytes `begin` to `end` of a file, whole entries, whose first is entry or line `first` of the file."""

    begin: int
    end: int
    first: int
    lines: bool  # JSON lines, else items of a list


@dataclass(frozen=True)
class Entry:
    """One entry: where in the file, its text, what it is or why it is nothing, and its bytes.

    `span`: None where the bytes can't be read by themselves: in other encodings than UTF-8, behind a break.
    """

    place: str
    text: str
    value: Any | Reject
    span: Span | None


def read_entries(path: Path, span: Span | None = None) -> Iterator[Entry]:
    """Each entry in order, one in memory at a time beside the text of a list; of these bytes alone, if told.

    A line that is damaged, an item that is nested too deep and what follows a break in a list are Rejects.
    Raises ValueError where a .json file is no list from its first item on, and no JSON lines either.
    """
    if span is not None:
        with path.open("rb") as file:
            file.seek(span.begin)
            data = file.read(span.end - span.begin)
        if span.lines:
            yield from _of_lines(io.BytesIO(data), span.begin, span.first)
        else:
            yield from _of_items(path, f"[{decode_text(data)}]", span.begin - len("["), span.first)
    elif path.suffix.lower() == ".jsonl":
        yield from _of_file_of_lines(path)
    else:
        yield from _of_list(path)


def _of_file_of_lines(path: Path) -> Iterator[Entry]:
    """Lines as bytes, so that a damaged one is damaged alone; of UTF-16 and UTF-32 as text."""
    with path.open("rb") as file:
        wide = file.read(4).startswith(WIDE_MARKS)
        file.seek(0)
        if wide:
            yield from _of_lines(decode_text(file.read()).split("\n"), None)
        else:
            yield from _of_lines(file, 0)


def _of_lines(lines: Iterable[bytes | str], begin: int | None, first: int = 1) -> Iterator[Entry]:
    """begin: the byte that the first of them begins at; None of text."""
    for number, whole in enumerate(lines, first):
        span = None if begin is None else Span(begin, begin + len(whole), number, lines=True)
        begin = None if span is None else span.end
        line = whole.strip()
        if line:
            try:
                text = decode_text(line) if isinstance(line, bytes) else line
                yield Entry(f"line {number}", text, parse_json(text), span)
            except ValueError as error:
                yield Entry(f"line {number}", repr(line), Reject("bad_record", error), span)


def _of_list(path: Path) -> Iterator[Entry]:
    data = path.read_bytes()
    try:
        text = decode_text(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if text.lstrip().startswith("{"):
        yield from _of_objects(path, text)
        return
    mark = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
    plain = data[mark:] == text.encode("utf-8", "surrogatepass")
    yield from _of_items(path, text, mark if plain else None)


def _of_items(path: Path, text: str, begin: int | None, first: int = 0) -> Iterator[Entry]:
    """Items of a JSON list; where it breaks off, a Reject that counts about how many are lost.

    begin: the byte that the text begins at, None where its characters are not those bytes.
    """
    number, read, at = first, 0, 0
    try:
        for item, value in parse_list(text):
            start = text.index(item, at)  # only blanks, commas and brackets are in between
            span = None
            if begin is not None:
                begin += _bytes(text[at:start])
                span = Span(begin, begin + _bytes(item), number, lines=False)
                begin = span.end
            nothing = isinstance(value, ValueError)
            yield Entry(f"entry {number}", item, Reject("bad_record", value) if nothing else value, span)
            number, read, at = number + 1, read + len(item), start + len(item)
    except ValueError as error:
        if number == first:
            raise ValueError(f"{path}: {error}, expected a list of conversations") from None
        lost = max(1, round((len(text) - read) * (number - first) / max(1, read)))
        reject = Reject("corrupt_archive", error, lost=lost)
        yield Entry(f"after entry {number - 1}", text[read:], reject, None)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _of_objects(path: Path, text: str) -> Iterator[Entry]:
    """A file called .json that holds JSON lines; ValueError for one object alone."""
    lines = text.strip().split("\n")
    try:
        one = len(lines) == 1 or not isinstance(parse_json(lines[0]), dict)
    except ValueError:  # an object over several lines
        one = True
    if one:
        raise ValueError(f"{path}: expected a list of conversations, got {_kind_of(text)}")
    yield from _of_file_of_lines(path)


def _kind_of(text: str) -> str:
    try:
        return type(parse_json(text)).__name__
    except ValueError as error:
        return str(error)
