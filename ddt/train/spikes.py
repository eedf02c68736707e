"""Loss spikes: seeing one, and leaving out the batches that caused it (PAPER.md, pre-training)."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable


class SpikeDetector:
    """A loss above `factor` x the median of the last `window` losses is a spike. None: no spikes."""

    def __init__(self, factor: float | None, window: int, history: Iterable[float] = ()) -> None:
        self.factor = factor
        self.history: deque[float] = deque(history, maxlen=window)

    def sees(self, loss: float) -> bool:
        """Whether `loss`, the next one in order, is a spike. A spike does not enter the history."""
        full = self.factor is not None and len(self.history) == self.history.maxlen
        if full and loss > self.factor * statistics.median(self.history):  # type: ignore[operator]
            return True
        self.history.append(loss)
        return False


class BatchCursor:
    """Which batch a step takes: the step's own number, plus the batches skipped before it."""

    def __init__(self, skipped: Iterable[tuple[int, int]] = ()) -> None:
        self.skipped = [(int(first), int(last)) for first, last in skipped]

    def batch_of(self, step: int) -> int:
        """The batch index of `step`."""
        index = step
        for first, last in sorted(self.skipped):
            if index >= first:
                index += last - first + 1
        return index

    def skip(self, first: int, last: int) -> None:
        """Leaves batches `first` to `last` out from now on, ranges already skipped included or not."""
        covered = sorted([*self.skipped, (first, last)])
        merged = [covered[0]]
        for start, end in covered[1:]:
            if start <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((start, end))
        self.skipped = merged
