"""Tells by name what makes no progress; ends nothing."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

LOOK_S = 1.0
logger = logging.getLogger(__name__)


class Watchdog:
    """Warns where `beat` is not called for `limit_s`, and again after each such time; None: never."""

    def __init__(
        self, label: str, limit_s: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.label, self.limit_s, self.clock = label, limit_s, clock
        self.beat()

    def beat(self) -> None:
        """There was progress."""
        self.since = self.told_at = self.clock()

    def look(self, describe: Callable[[], str]) -> None:
        """Warn if it is time to; `describe` says what is at work, and is called only then."""
        now = self.clock()
        if self.limit_s is None or now - self.told_at < self.limit_s:
            return
        self.told_at = now
        at_work = describe()
        logger.warning(
            "%s: no progress for %.0f s (resources.stalled_after_s = %g)%s",
            self.label,
            now - self.since,
            self.limit_s,
            f"; {at_work}" if at_work else "",
        )

    @contextlib.contextmanager
    def watching(self, describe: Callable[[], str]) -> Iterator[None]:
        """Looks in a thread while the block runs."""
        if self.limit_s is None:
            yield
            return
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(LOOK_S):
                self.look(describe)

        thread = threading.Thread(target=watch, name="watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
