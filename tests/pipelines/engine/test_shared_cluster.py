"""The rendezvous of a run's processes, without Ray: who is alive, and what a failed start says."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from pipelines.engine import shared_cluster
from pipelines.engine.shared_cluster import ClusterError, is_alive, shared_address


def test_a_process_that_waits_to_be_reaped_is_not_alive():
    process = subprocess.Popen(["sleep", "60"])
    assert is_alive(process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, not reaped
    assert not is_alive(process.pid)
    process.wait()
    assert not is_alive(process.pid)


def test_an_address_without_its_holder_is_stale_and_a_failed_start_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_cluster.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = shared_cluster.rendezvous(os.getpid())
    stale = {"address": "127.0.0.1:1", "holder_pid": os.getpid()}
    (folder / "address.json").write_text(json.dumps(stale))

    def failing(owner_pid: int, cpus: int, object_store_mb: int) -> subprocess.Popen:
        with (folder / "holder.log").open("wb") as log:
            command = [sys.executable, "-c", "raise SystemExit('no room for an object store')"]
            return subprocess.Popen(command, stderr=log)

    monkeypatch.setattr(shared_cluster, "start_holder", failing)
    with pytest.raises(ClusterError, match="did not start: no room for an object store"):
        shared_address(os.getpid(), cpus=1, object_store_mb=100)
