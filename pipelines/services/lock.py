"""The lock of a workspace: one run at a time, and who it is."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from pipelines.services.surroundings import is_gone, process_mark

FILE = "lock.json"


class Locked(ValueError):
    """Somebody else has the workspace."""


@dataclass(frozen=True)
class Holder:
    """Who has a workspace: a run by its name, the process that it ends with, and since when."""

    run: str
    process: str
    since: str

    def __str__(self) -> str:
        host, _, rest = self.process.partition(" ")
        where = f" (process {rest.split()[0]} on {host})" if rest else ""
        return f"{self.run}{where} since {self.since}"


def take(workspace: Path, run: str, process: int) -> None:
    """Take the workspace for `run` until `give_back`, or until `process` has ended.

    A run may take it as often as it likes, from whatever process or machine. Raises Locked where another
    run has it.
    """
    with _opened(workspace) as file:
        holder = _read(file)
        _refuse(workspace, holder, run)
        since = holder.since if holder is not None and holder.run == run else _now()
        _write(file, Holder(run, process_mark(process), since))


def require_free(workspace: Path) -> None:
    """Locked where a run has the workspace now."""
    if (workspace / FILE).is_file():
        with _opened(workspace) as file:
            _refuse(workspace, _read(file), "")


def _refuse(workspace: Path, holder: Holder | None, run: str) -> None:
    if holder is not None and holder.run != run and not is_gone(holder.process):
        raise Locked(
            f"paths.workspace = {workspace}: in use by {holder}; wait for it, take another workspace, or "
            f"delete {workspace / FILE} if that run has ended"
        )


def give_back(workspace: Path, run: str) -> None:
    """Give the workspace back, if it is this run's."""
    with _opened(workspace) as file:
        holder = _read(file)
        if holder is not None and holder.run == run:
            file.truncate(0)


@contextmanager
def held(workspace: Path, run: str, process: int) -> Iterator[None]:
    """The workspace is `run`'s meanwhile."""
    take(workspace, run, process)
    try:
        yield
    finally:
        give_back(workspace, run)


@contextmanager
def _opened(workspace: Path) -> Iterator[IO[str]]:
    """The file of the lock, which one process at a time has open."""
    workspace.mkdir(parents=True, exist_ok=True)
    with (workspace / FILE).open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _read(file: IO[str]) -> Holder | None:
    file.seek(0)
    try:
        return Holder(**json.loads(file.read()))
    except (ValueError, TypeError):  # given back, or cut off while it was written
        return None


def _write(file: IO[str], holder: Holder) -> None:
    file.truncate(0)
    json.dump(asdict(holder), file)
    file.flush()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
