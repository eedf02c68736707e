"""Progress of long work on stderr: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

LINE_EVERY_S = 5.0


class Progress:
    """Shows how many of `total` steps or units are done. `enabled` False shows nothing."""

    def __init__(
        self, label: str, total: int, done: int = 0, unit: str = "step", enabled: bool = True
    ) -> None:
        self.label, self.total, self.done, self.unit = label, total, done, unit
        self._first = done
        self._started = self._last_line = time.monotonic()
        self._lines = enabled and not sys.stderr.isatty()
        self._bar = None
        if enabled and not self._lines:
            self._bar = tqdm(desc=label, total=total, initial=done, file=sys.stderr, unit=unit)

    def update(self, done: int, note: str = "") -> None:
        """`done` in all are finished (fewer than before after a rewind); `note` says how it goes."""
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self.done)
        self.done = done
        now = time.monotonic()
        if self._lines and (now - self._last_line >= LINE_EVERY_S or done >= self.total):
            self._last_line = now
            print(self._line(now, note), file=sys.stderr, flush=True)

    def _line(self, now: float, note: str) -> str:
        rate = (self.done - self._first) / max(now - self._started, 1e-9)
        parts = [f"{self.label}: {self.done}/{self.total} {self.unit}s", f"{rate:.1f}/s"]
        if rate > 0 and self.done < self.total:
            parts.append(f"{(self.total - self.done) / rate:.0f} s left")
        return "  ".join([*parts, note]).rstrip()

    def close(self) -> None:
        """Leaves the terminal's line finished."""
        if self._bar is not None:
            self._bar.close()
