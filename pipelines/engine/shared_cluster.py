"""One local Ray cluster for all processes of a run, which ends when the run's owner does, however it ends.

The first step that asks starts a holder, `python -m pipelines.engine.cluster_holder <owner pid> ...`. The
holder starts Ray, publishes its address in a folder named after the owner, and stops Ray when the owner is
gone: kill -9 of a flow leaves no process behind. While it lives it holds a lock on that folder, so two
steps that ask at once get one cluster, and an address without a held lock is known to be stale.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from pipelines.services.surroundings import private_folder

HOLDER = "pipelines.engine.cluster_holder"
REPOSITORY = Path(__file__).resolve().parents[2]
POLL_S = 0.5
START_LIMIT_S = 120.0  # Ray was seen to start in 4 to 11 s; more than this is a cluster that never comes


class ClusterError(ConnectionError):
    """Ray could not be started or reached."""


def shared_address(owner_pid: int, cpus: int, object_store_mb: int) -> str:
    """The address of the owner's cluster, which is started if it is not there. Raises ClusterError."""
    folder, holder = rendezvous(owner_pid), None
    limit = time.monotonic() + START_LIMIT_S
    while time.monotonic() < limit:
        address = _published(folder)
        if address is not None:
            return address
        if not _held(folder):
            if holder is not None and holder.poll() is not None:
                break
            holder = holder or start_holder(owner_pid, cpus, object_store_mb)
        time.sleep(0.05)
    log = folder / "holder.log"
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    raise ClusterError(f"the local Ray cluster did not start: {lines[-1] if lines else 'no message'} ({log})")


def start_holder(owner_pid: int, cpus: int, object_store_mb: int) -> subprocess.Popen[bytes]:
    """Starts a holder without waiting for it; one that finds another at work ends at once."""
    command = [sys.executable, "-m", HOLDER, str(owner_pid), str(cpus), str(object_store_mb)]
    with (rendezvous(owner_pid) / "holder.log").open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the flow; the holder sees the owner end
            cwd=REPOSITORY,
        )


def leave_with(owner_pid: int) -> None:
    """Ends this process when the owner is gone: a step of a killed flow must not go on writing."""
    name = f"owner-{owner_pid}"

    def watch() -> None:
        while is_alive(owner_pid):
            time.sleep(POLL_S)
        os._exit(1)

    if all(thread.name != name for thread in threading.enumerate()):
        threading.Thread(target=watch, name=name, daemon=True).start()


def is_alive(pid: int) -> bool:
    """Whether process `pid` runs; one that has ended and waits to be reaped does not."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except PermissionError:
        return True
    except ProcessLookupError:
        return False
    except OSError:
        return not Path("/proc/self/stat").exists()  # without /proc the signal's answer is all there is
    return state not in ("Z", "X")


def rendezvous(owner_pid: int) -> Path:
    """The owner's folder, private to this user: the lock, the address and the log of its holder."""
    folder = private_folder("ddt-ray") / str(owner_pid)
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _held(folder: Path) -> bool:
    """Whether a holder has the folder's lock."""
    with (folder / "lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _published(folder: Path) -> str | None:
    """The address, if the holder that wrote it still lives."""
    try:
        published = json.loads((folder / "address.json").read_text())
    except FileNotFoundError:
        return None
    alive = _held(folder) and is_alive(published["holder_pid"])
    return published["address"] if alive else None
