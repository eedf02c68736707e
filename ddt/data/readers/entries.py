"""Entries of a JSON list or of JSON lines, each with its place: damage to one costs that one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddt.clean import WIDE_MARKS, decode_text, parse_json, parse_list
from ddt.records import Reject


@dataclass(frozen=True)
class Entry:
    """One entry: where in the file, its text, and what it is, or why it is nothing."""

    place: str
    text: str
    value: Any | Reject


def read_entries(path: Path) -> Iterator[Entry]:
    """Each entry in order, one in memory at a time beside the text of a list.

    A line that is damaged, an item that is nested too deep and what follows a break in a list are Rejects.
    Raises ValueError where a .json file is no list from its first item on, and no JSON lines either.
    """
    return _of_lines(_lines(path)) if path.suffix.lower() == ".jsonl" else _of_list(path)


def _of_lines(lines: Iterable[bytes | str]) -> Iterator[Entry]:
    for number, line in enumerate(map(_strip, lines), start=1):
        if line:
            try:
                text = decode_text(line) if isinstance(line, bytes) else line
                yield Entry(f"line {number}", text, parse_json(text))
            except ValueError as error:
                yield Entry(f"line {number}", repr(line), Reject("bad_record", error))


def _strip(line: bytes | str) -> bytes | str:
    return line.strip()


def _lines(path: Path) -> Iterator[bytes | str]:
    """Lines as bytes, so that a damaged one is damaged alone; of UTF-16 and UTF-32 as text."""
    with path.open("rb") as file:
        wide = file.read(4).startswith(WIDE_MARKS)
        file.seek(0)
        if wide:
            yield from decode_text(file.read()).split("\n")
        else:
            yield from file


def _of_list(path: Path) -> Iterator[Entry]:
    """Items of a JSON list; where it breaks off, a Reject that counts about how many are lost."""
    try:
        text = decode_text(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if text.lstrip().startswith("{"):
        yield from _of_objects(path, text)
        return
    number = read = 0
    try:
        for item, value in parse_list(text):
            nothing = isinstance(value, ValueError)
            yield Entry(f"entry {number}", item, Reject("bad_record", value) if nothing else value)
            number, read = number + 1, read + len(item)
    except ValueError as error:
        if not number:
            raise ValueError(f"{path}: {error}, expected a list of conversations") from None
        lost = max(1, round((len(text) - read) * number / max(1, read)))
        yield Entry(f"after entry {number - 1}", text[read:], Reject("corrupt_archive", error, lost=lost))


def _of_objects(path: Path, text: str) -> Iterator[Entry]:
    """A file called .json that holds JSON lines; ValueError for one object alone."""
    lines = text.strip().split("\n")
    try:
        one = len(lines) == 1 or not isinstance(parse_json(lines[0]), dict)
    except ValueError:  # an object over several lines
        one = True
    if one:
        raise ValueError(f"{path}: expected a list of conversations, got {_kind_of(text)}")
    yield from _of_lines(lines)


def _kind_of(text: str) -> str:
    try:
        return type(parse_json(text)).__name__
    except ValueError as error:
        return str(error)
