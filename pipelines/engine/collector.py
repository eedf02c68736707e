"""What the workers of a training tell its driver, and which of their failures end the run.

An exception of the job ends it at once: it would only come again. A RuntimeError of torch's may be gone in a
new group (a peer or a device was lost), so it ends the run when it comes again where it came before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class _Trouble:
    """A failure that may pass: in which group, after which logged step."""

    group: int
    step: int
    failure: dict[str, Any]


class Collector:
    """Lives in an actor of its own on the driver's node: no killed worker or lost node takes it along."""

    def __init__(self) -> None:
        self.began: float | None = None
        self.groups: list[int] = []  # workers of each group there has been
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.step = 0  # the last that the newest group logged
        self.ended = False  # whether that group has ended, in Ray's eyes
        self.trouble: _Trouble | None = None
        self.failure: dict[str, Any] | None = None
        self.result: str | None = None
        self.stopping = False  # whether the driver was told to end
        self.stopped_step: int | None = None

    def start(self, rank: int, workers: int, now: float) -> bool:
        """A worker begins; whether there is nothing left to do: the job has failed for good, or is done."""
        self.began = self.began or now
        if rank == 0:
            self.groups.append(workers)
            self.step, self.ended, self.stopped_step = 0, False, None
        return self.stopping or self.failure is not None or self.result is not None

    def add(self, step: int, metrics: dict[str, float]) -> None:
        self.lines.append((step, metrics))
        self.step = step
        if self.trouble is not None and len(self.groups) > self.trouble.group and step > self.trouble.step:
            self.trouble = None  # a later group got past it

    def end_group(self) -> None:
        """Ray knows that the group has failed; its workers may live on until the next one starts."""
        self.ended = True

    def fail(self, failure: dict[str, Any], may_pass: bool) -> bool:
        """A worker's exception; whether it ends the run. One that `may_pass` does when it comes again."""
        before, group = self.trouble, len(self.groups)
        if may_pass and self.ended:
            return False
        if may_pass and self.failure is None:
            again = before is not None and before.group < group and before.step == self.step
            if not again:
                self.trouble = _Trouble(group, self.step, failure)
                return False
        self.failure = self.failure or failure
        return True

    def stop(self) -> None:
        """The driver was told to end: the workers are to save a checkpoint and stop."""
        self.stopping = True

    def is_stopping(self) -> bool:
        return self.stopping

    def stopped(self, step: int) -> None:
        """The workers have stopped, because one of them or the driver was told to, with a checkpoint."""
        self.stopped_step = step

    def take_stop(self) -> int | None:
        """The step that the newest group stopped at, None where it did not; asked again, None."""
        step, self.stopped_step = self.stopped_step, None
        return step

    def finish(self, result: str) -> None:
        self.result = result

    def outcome(self) -> tuple[dict[str, Any] | None, str | None]:
        """Why the run ended, where the job itself says so, and its result."""
        last = self.trouble if self.trouble is not None and self.trouble.group == len(self.groups) else None
        unfinished = None if last is None or self.result is not None else last.failure
        return self.failure or unfinished, self.result

    def since(self, seen: int) -> tuple[float | None, list[int], list[tuple[int, dict[str, float]]]]:
        """When the first worker began, the groups so far, and the metrics after the first `seen`."""
        return self.began, self.groups, self.lines[seen:]
