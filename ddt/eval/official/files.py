"""Reading and writing the text files of benchmarks, so that a fault is told by file and line."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ddt.eval.official.fields import NOTHING_MORE, Fields, fault_of
from ddt.eval.official.problems import Problems
from ddt.store import folder_digest

# An object of a file: its place among the lines or items from 0, faulty ones counted too, so that what is
# numbered by place keeps its number; the place for people; and the object.
Entry = tuple[int, str, dict]
CONTROL = dict.fromkeys([*range(32), 127, 0x85, 0x2028, 0x2029], " ")


def text_of(path: Path) -> str:
    """The file's text (UTF-8, with or without a mark). ValueError where it is missing or is no text."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ValueError(f"{path}: is a folder, expected a file") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text at byte {error.start}") from None


def lines_of(path: Path) -> Iterator[tuple[str, str]]:
    """(file:line, text) of every line but blank ones at the end; only a line feed ends a line."""
    lines = text_of(path).split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    for number, line in enumerate(lines, start=1):
        yield f"{path}:{number}", line.removesuffix("\r")


def json_lines(
    path: Path, problems: Problems, fields: Fields, optional: Fields = NOTHING_MORE
) -> Iterator[Entry]:
    """The objects of a JSON lines file; lines that are blank, cut or lack one of `fields` are problems."""
    for number, (where, line) in enumerate(lines_of(path)):
        try:
            item = json.loads(line)
        except (ValueError, RecursionError):
            problems.add("line that is no JSON", where)
            continue
        fault = fault_of(item, fields, optional)
        if fault:
            problems.add(f"line {fault}", where)
        else:
            yield number, where, item


def json_of(path: Path) -> Any:
    """The content of a JSON file; ValueError names the line where it can't be read."""
    try:
        return json.loads(text_of(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: no JSON, or cut here ({error.msg})") from None
    except RecursionError:
        raise ValueError(f"{path}: nested too deep for JSON of a benchmark") from None


def records_of(
    path: Path, items: Any, problems: Problems, fields: Fields, optional: Fields = NOTHING_MORE, of: str = ""
) -> Iterator[Entry]:
    """The objects of a JSON file's list; items that lack one of `fields` are problems.

    `of` tells which of the file's lists it is, where there are several.
    """
    if not isinstance(items, list):
        raise ValueError(f"{path}: {of}expected a list of objects, found {type(items).__name__}")
    for number, item in enumerate(items):
        where = f"{path} {of}item {number + 1}"
        fault = fault_of(item, fields, optional)
        if fault:
            problems.add(f"item {fault}", where)
        else:
            yield number, where, item


def csv_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """(file:line, row) of a CSV file with a header; ValueError names the line where it can't be read."""
    reader = csv.DictReader(text_of(path).splitlines(keepends=True))
    try:
        for row in reader:
            yield f"{path}:{reader.line_num}", {key: value or "" for key, value in row.items() if key}
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.line_num + 1}: no CSV ({error})") from None


def write_whole(path: Path, content: str | bytes) -> None:
    """Write the file under a temporary name and move it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content if isinstance(content, bytes) else content.encode())
    temporary.replace(path)


def digest_of(path: Path) -> str:
    """Hex sha256 of the file, or the digest of a folder's files."""
    if path.is_dir():
        return folder_digest(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def one_line(text: str) -> str:
    """The text with control and line-separating characters as blanks."""
    return text.translate(CONTROL)
