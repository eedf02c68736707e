"""Ctrl-C and SIGTERM on a flow: its steps are told and end in their own time, then the flow does.

Metaflow gives steps five seconds after Ctrl-C and kills them, and does nothing on SIGTERM, which ends the
flow alone. So the flow's process has a handler for both that passes SIGTERM on and lets Metaflow see the
steps end, as failed and not to be retried; the second signal is Metaflow's Ctrl-C. A step does not listen to
Ctrl-C, which a terminal sends to all: it is told by its flow.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from pipelines.engine.stopping import terminated_by_sigterm

TOLD = "DDT_FLOW_TOLD"  # in the environment of steps that begin after the signal
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def listen_in_step(exit_code: int) -> None:
    """SIGTERM is an exception in this step; exits with `exit_code` where its flow was told before."""
    if os.environ.get(TOLD):
        print("not begun: the flow was told to end", file=sys.stderr)
        sys.exit(exit_code)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    terminated_by_sigterm()


@contextmanager
def told_flow(flow: str) -> Iterator[None]:
    """Around a flow's process: exits with 128 + the signal's number where one came."""
    came: list[int] = []

    def tell(number: int, _: object) -> None:
        again = bool(came)
        came.append(number)
        os.environ[TOLD] = "1"
        steps = running_steps()
        for step in steps:
            step.terminate()
        if again or not steps:
            raise KeyboardInterrupt
        name = signal.Signals(number).name
        print(f"{flow}: {name}: {len(steps)} steps are told to end; again ends them at once", file=sys.stderr)

    before = {number: signal.signal(number, tell) for number in SIGNALS}
    try:
        yield
    except SystemExit as ended:
        if came and ended.code:
            print(
                f"{flow}: ended by {signal.Signals(came[0]).name}; what was finished is kept, resume goes on",
                file=sys.stderr,
            )
            sys.exit(128 + came[0])
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def running_steps() -> list[psutil.Process]:
    """The processes of this flow's steps."""
    return [child for child in psutil.Process().children() if "step" in _command(child)]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has ended
        return []
