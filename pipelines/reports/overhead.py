"""Seconds a process spends in services (Ray, MLflow, Great Expectations), apart from its own work."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

_seconds: dict[str, float] = defaultdict(float)


@contextmanager
def overhead(service: str) -> Iterator[None]:
    """Count the time inside the block as `service`'s. Blocks must not nest."""
    start = time.perf_counter()
    try:
        yield
    finally:
        _seconds[service] += time.perf_counter() - start


def overhead_seconds() -> float:
    """All of this process's service time so far."""
    return sum(_seconds.values())


def count(service: str, seconds: float) -> None:
    """Count `seconds` that were measured elsewhere."""
    _seconds[service] += seconds
