"""Text-only training data, addressed by index: JSON lines, or texts drawn on the spot.

The paper mixes 10 % of it into pre-training so that the language model stays one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from ddt.clean import WIDE_MARKS, clean_text, one_line, parse_json

MAX_BAD_SHARE = 0.2  # of a file's lines
FIRST_LINES = 8
FIELD = "text"


class TextSource(Protocol):
    """Texts by index; the same index always gives the same text."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> str: ...


class DrawnText:
    """`size` texts made by `draw(rng)`, each from a generator of its own seeded by (seed, index)."""

    def __init__(self, draw: Callable[[np.random.Generator], str], size: int, seed: int) -> None:
        self._draw, self._size, self._seed = draw, size, seed

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> str:
        return self._draw(np.random.default_rng([self._seed, index]))


class JsonLines:
    """The field `text` of JSON-lines files (Wikipedia, Pile), found by byte offset, read one at a time.

    offsets: of each file what `line_offsets` found, mapped from a file where it is large. Raises ValueError
    where there is no text at all.
    """

    def __init__(self, paths: Sequence[Path | str], offsets: Sequence[np.ndarray]) -> None:
        self._paths, self._offsets = [Path(path) for path in paths], offsets
        self._starts = np.concatenate([[0], np.cumsum([len(o) for o in offsets])]).astype(np.int64)
        if not len(self):
            raise ValueError(f"no text in {', '.join(map(str, self._paths)) or 'an empty list of files'}")

    @classmethod
    def of_files(cls, paths: Sequence[Path | str]) -> JsonLines:
        """Of files without an index: all of their lines are read."""
        return cls(paths, [line_offsets(path)[0] for path in paths])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> str:
        file = int(np.searchsorted(self._starts, index, side="right")) - 1
        with self._paths[file].open("rb") as lines:
            lines.seek(int(self._offsets[file][index - int(self._starts[file])]))
            return _text_of(lines.readline())


def check_first_records(path: Path) -> None:
    """ValueError where a file can't be read or its first lines hold no such text: tells a wrong file fast."""
    first = ""
    for number, _, line in islice(_lines(path), FIRST_LINES):
        try:
            _text_of(line)
            return
        except ValueError as error:
            first = first or f"{path}: line {number}: {error}"
    if first:
        raise ValueError(first)


def _text_of(line: bytes) -> str:
    """The text of a line, cleaned; ValueError where it holds none."""
    record = parse_json(line)
    text = record.get(FIELD) if isinstance(record, dict) else None
    if not isinstance(text, str) or not (cleaned := clean_text(text)):
        raise ValueError(f"not a JSON object with a text {FIELD!r}")
    return cleaned


def line_offsets(path: Path | str) -> tuple[np.ndarray, str]:
    """Byte offsets (int64) of the lines that hold a text, and in words which do not, '' where all do.

    All lines are looked at. One that is not an object with a text is left out. Raises ValueError naming file
    and line where more than MAX_BAD_SHARE are: a training that met it later would have to begin again with
    other files.
    """
    offsets, bad, first = [], 0, ""
    for number, offset, line in _lines(Path(path)):
        try:
            _text_of(line)
            offsets.append(offset)
        except ValueError as error:
            bad, first = bad + 1, first or f"line {number}: {error}"
    told = ""
    if bad:
        told = one_line(f"{path}: {bad} of {bad + len(offsets)} lines hold no text, the first: {first}")
        if bad > MAX_BAD_SHARE * (bad + len(offsets)):
            raise ValueError(told)
    return np.asarray(offsets, dtype=np.int64), told


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(number from 1, byte offset, line) of the lines that are not blank."""
    position = 0
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not position and line.startswith(WIDE_MARKS):
                    raise ValueError(f"{path}: UTF-16 or UTF-32, expected JSON lines in UTF-8")
                if line.strip():
                    yield number, position, line
                position += len(line)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
