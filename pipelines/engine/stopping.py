"""A driver that is told to end, by Ctrl-C or by SIGTERM: both are exceptions, and differ in the exit code."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143  # 128 + the signal's number, as shells have it
KEPT = "what was finished is kept, run the same command to go on"


class Terminated(KeyboardInterrupt):
    """SIGTERM came: whoever handles Ctrl-C handles this too."""


def terminated_by_sigterm() -> None:
    """From now on SIGTERM raises Terminated in the main thread."""

    def end(*_: object) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, end)


@contextlib.contextmanager
def sigterm_as_exception() -> Iterator[None]:
    """SIGTERM raises Terminated meanwhile; a process that only calls us has its own handler back."""
    if threading.current_thread() is not threading.main_thread():
        yield  # where there are no handlers
        return
    before = signal.getsignal(signal.SIGTERM)
    terminated_by_sigterm()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def signal_name(told: KeyboardInterrupt) -> str:
    return "SIGTERM" if isinstance(told, Terminated) else "Ctrl-C"


def exit_code(told: KeyboardInterrupt) -> int:
    return EXIT_TERMINATED if isinstance(told, Terminated) else EXIT_INTERRUPTED


def last_words(told: KeyboardInterrupt, name: str = "ddt") -> str:
    """The line that a command or step ends with: what a training says of itself, or that all is kept."""
    return str(told) or f"{name}: ended by {signal_name(told)}; {KEPT}"


@contextlib.contextmanager
def own_sigterm(is_over: bool = True) -> Iterator[None]:
    """Puts the handler of SIGTERM back that was there before Ray put its own in place.

    While Ray is in use (`is_over` False) that is done for a handler of ours alone: where there was none,
    Ray's own ends its processes with this one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # where there are no handlers
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(before) or (is_over and before is not None):
            signal.signal(signal.SIGTERM, before)
