"""What a model will be given next, made ready while it works on what it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ahead(read: Callable[[T], R], batches: Sequence[Sequence[T]], threads: int) -> Iterator[list[R]]:
    """`read` of each item, batch by batch in their order; the first error ends it.

    The batch after the one that is handed out is read meanwhile, in so many threads (decoding leaves Python's
    lock): two batches are in memory, and as many items at work as threads.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="ahead")
    coming: list[Future[R]] = []
    try:
        for batch in [*batches, []]:
            ready, coming = coming, [pool.submit(read, item) for item in batch]
            if ready:
                yield [future.result() for future in ready]
    finally:
        pool.shutdown(cancel_futures=True)
