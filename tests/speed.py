"""How long something takes beside a fixed piece of work, so that a limit holds on slow and fast machines."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

PIXELS = np.linspace(0, 1, 32 * 32 * 3).reshape(32, 32, 3)


def reference() -> None:
    """Small operations of numpy and of Python, as our code has them: 4 ms on a core of a first EPYC."""
    found = []
    for step in range(200):
        moved = PIXELS * (step / 200) + 0.1
        found.append(float(moved.max()) + int((moved > 0.5).sum()))
    sorted(found)


def seconds(work: Callable[[], object]) -> float:
    """The best of five, of this core's own time: other processes don't count."""
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def relative(work: Callable[[], object]) -> float:
    """How many times the reference's time `work` takes."""
    return seconds(work) / seconds(reference)
