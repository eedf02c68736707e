"""Text-only training data, addressed by index: JSON lines, or texts drawn on the spot.

The paper mixes 10 % of it into pre-training so that the language model stays one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np


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

    Raises ValueError naming file and record where one is not an object with such a text: all are looked at
    when the files are opened, since a training that met it later would have to begin again with other files.
    """

    def __init__(self, paths: Sequence[Path | str], field: str = "text") -> None:
        self._paths, self._field = [Path(path) for path in paths], field
        offsets = [_line_offsets(path, field) for path in self._paths]
        self._offsets = np.concatenate(offsets) if offsets else np.zeros(0, dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum([len(o) for o in offsets])]).astype(np.int64)
        if not len(self._offsets):
            raise ValueError(f"no text in {', '.join(map(str, self._paths)) or 'an empty list of files'}")

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> str:
        file = int(np.searchsorted(self._starts, index, side="right")) - 1
        path = self._paths[file]
        with path.open("rb") as lines:
            lines.seek(int(self._offsets[index]))
            line = lines.readline()
        return _text_of(line, self._field, path, index - int(self._starts[file]) + 1)


def check_first_record(path: Path, field: str = "text") -> None:
    """ValueError where a file can't be read or its first record has no such text: tells a wrong file fast."""
    try:
        with path.open("rb") as lines:
            first = next((line for line in lines if line.strip()), None)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    if first is not None:
        _text_of(first, field, path, 1)


def _text_of(line: bytes, field: str, path: Path, number: int) -> str:
    try:
        text = json.loads(line)[field]
    except (ValueError, KeyError, TypeError):
        text = None
    if not isinstance(text, str):
        raise ValueError(f"{path}: record {number} is not a JSON object with a text {field!r}")
    return text


def _line_offsets(path: Path, field: str) -> np.ndarray:
    """Byte offsets of the lines that are not blank."""
    offsets, position = [], 0
    try:
        with path.open("rb") as lines:
            for line in lines:
                if line.strip():
                    offsets.append(position)
                    _text_of(line, field, path, len(offsets))
                position += len(line)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    return np.asarray(offsets, dtype=np.int64)
