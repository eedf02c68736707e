"""The process that holds a run's shared Ray cluster until its owner ends: see shared_cluster.py beside this.

python -m pipelines.engine.cluster_holder OWNER_PID CPUS OBJECT_STORE_MB
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time

from pipelines.engine.cluster import start_local, stop
from pipelines.engine.shared_cluster import POLL_S, is_alive, rendezvous


def hold(owner_pid: int, cpus: int, object_store_mb: int) -> None:
    """Runs a cluster until the owner ends or this process is told to."""
    folder = rendezvous(owner_pid)
    with (folder / "lock").open("ab") as lock:
        if not _take(lock.fileno()):
            return
        address = start_local(cpus, object_store_mb)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # now: starting Ray sets a handler of its own
        try:
            temporary = folder / "address.tmp"
            temporary.write_text(json.dumps({"address": address, "holder_pid": os.getpid()}))
            temporary.replace(folder / "address.json")
            while is_alive(owner_pid):
                time.sleep(POLL_S)
        finally:
            for name in ("address.json", "holder.log", "lock"):
                (folder / name).unlink(missing_ok=True)
            folder.rmdir()
            stop()


def _take(lock: int) -> bool:
    """Takes the lock; tries for a second, since a step that looks whether it is held has it for a moment."""
    for _ in range(20):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.05)
    return False


if __name__ == "__main__":
    hold(*map(int, sys.argv[1:4]))
