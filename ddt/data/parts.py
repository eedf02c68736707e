"""A file of many parts, each read alone: what workers hand to each other where every one has rows for every
other.

First the places where the parts begin, int64, and where the last one ends; then the parts, rows of fixed
width one after another. Two short reads find any part, on a disk or of an object in S3.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

PLACE = np.dtype("<i8")


def write_parts(path: str | Path, parts: Iterable[np.ndarray], count: int) -> int:
    """Writes `count` arrays as they come, one in memory at a time; returns how many rows they have."""
    places, rows = [PLACE.itemsize * (count + 1)], 0
    with open(path, "wb") as file:
        file.seek(places[0])
        for part in parts:
            file.write(np.ascontiguousarray(part).tobytes())
            places.append(file.tell())
            rows += len(part)
        assert len(places) == count + 1, f"{len(places) - 1} parts, not {count}"
        file.seek(0)
        file.write(np.array(places, PLACE).tobytes())
    return rows


def read_parts(file: BinaryIO, start: int, stop: int, kind: np.dtype) -> np.ndarray:
    """The rows of parts start..stop-1, of type `kind`, as one array that may not be written to."""
    file.seek(PLACE.itemsize * start)
    places = np.frombuffer(file.read(PLACE.itemsize * (stop - start + 1)), PLACE)
    file.seek(int(places[0]))
    return np.frombuffer(file.read(int(places[-1] - places[0])), kind)


def read_part(file: BinaryIO, index: int, kind: np.dtype) -> np.ndarray:
    """The rows of one part."""
    return read_parts(file, index, index + 1, kind)
