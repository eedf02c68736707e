"""Progress of a training run on stderr: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

LINE_EVERY_S = 5.0


class Progress:
    """Shows `done` of `total` steps. `enabled` False shows nothing (ranks other than 0, tests)."""

    def __init__(self, label: str, total: int, done: int = 0, enabled: bool = True) -> None:
        self.label, self.total, self.done = label, total, done
        self._first = done
        self._started = self._last_line = time.monotonic()
        self._lines = enabled and not sys.stderr.isatty()
        self._bar = None
        if enabled and not self._lines:
            self._bar = tqdm(desc=label, total=total, initial=done, file=sys.stderr, unit="step")

    def update(self, done: int, note: str = "") -> None:
        """Step `done` is finished; `note` is a few words on how it goes."""
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self.done)
        self.done = done
        now = time.monotonic()
        if self._lines and (now - self._last_line >= LINE_EVERY_S or done >= self.total):
            self._last_line = now
            rate = (done - self._first) / max(now - self._started, 1e-9)
            left = f"{(self.total - done) / rate:.0f} s left" if rate > 0 else ""
            print(
                f"{self.label}: {done}/{self.total}  {rate:.1f}/s  {note}  {left}",
                file=sys.stderr,
                flush=True,
            )

    def close(self) -> None:
        """Leaves the terminal's line finished."""
        if self._bar is not None:
            self._bar.close()
