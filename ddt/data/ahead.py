"""What a model will be given next, made while it works on what it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from ddt.train.prefetch import Prefetch

T = TypeVar("T")


def ahead(make: Callable[[int], T], count: int) -> Iterator[T]:
    """`make(0)` to `make(count - 1)` in order, or the first error. The next is made in a thread meanwhile:
    two are in memory.
    """
    prefetch = Prefetch(make)
    try:
        for index in range(count):
            yield prefetch.get(index, index + 1 if index + 1 < count else None)
    finally:
        prefetch.close()
