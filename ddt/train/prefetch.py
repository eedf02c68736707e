"""The next batch, made while a step trains on this one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Prefetch:
    """What `make(index)` gives, made ahead in one thread, which never makes two at once.

    It must be a function of the index: what was made ahead and is not asked for next, since training went
    back, is dropped, with its error if it had one.
    """

    def __init__(self, make: Callable[[int], Any]) -> None:
        self._make = make
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._ahead: tuple[int, Future[Any]] | None = None

    def get(self, index: int, following: int | None) -> Any:
        """`make(index)` or its error; `following` is begun, the index that will be asked for next if any."""
        found, self._ahead = self._ahead, None
        if found is not None and found[0] == index:
            future = found[1]
        else:
            if found is not None:
                found[1].cancel()
            future = self._thread.submit(self._make, index)
        made = future.result()
        if following is not None:
            self._ahead = following, self._thread.submit(self._make, following)
        return made

    def close(self) -> None:
        """Ends the thread, once what it is making is made."""
        self._thread.shutdown(cancel_futures=True)
