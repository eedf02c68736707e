"""The rendezvous of a run's processes, without Ray: who is alive, and what a failed start says."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading

import pytest

from pipelines.engine import cluster, shared_cluster
from pipelines.engine.cluster import require_cluster
from pipelines.engine.shared_cluster import ClusterError, is_alive, shared_address
from pipelines.services import surroundings

LATE = "The current node timed out during startup. This could happen because some of the raylet failed"


def test_a_process_that_waits_to_be_reaped_is_not_alive():
    process = subprocess.Popen(["sleep", "60"])
    assert is_alive(process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, not reaped
    assert not is_alive(process.pid)
    process.wait()
    assert not is_alive(process.pid)


def test_an_address_without_its_holder_is_stale_and_a_failed_start_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(surroundings.tempfile, "gettempdir", lambda: str(tmp_path))
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


@pytest.mark.parametrize(
    ("faults", "starts"), [([LATE] * 2, 3), ([LATE] * 3, 3), ([LATE, "no room for an object store"], 2)]
)
def test_a_start_that_takes_ray_too_long_is_tried_again(
    faults: list[str], starts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def start(cpus: int, object_store_mb: int) -> str:
        tried.append((cpus, object_store_mb))
        if len(tried) <= len(faults):
            raise Exception(faults[len(tried) - 1])
        return "127.0.0.1:1"

    monkeypatch.setattr(cluster, "_start", start)
    if len(faults) < starts:
        assert cluster.start_local(2, 100) == "127.0.0.1:1"
    else:
        with pytest.raises(Exception, match=faults[-1]):
            cluster.start_local(2, 100)
    assert tried == [(2, 100)] * starts


def answering(data: bytes) -> socket.socket:
    """A server that answers the first who asks with `data`, then hangs up."""
    server = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(100)
            connection.sendall(data)

    threading.Thread(target=answer, daemon=True).start()
    return server


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "localhost:{}"])
def test_a_cluster_answers_as_http_2(form, monkeypatch):
    monkeypatch.setattr(cluster, "_why_no_ray", lambda address: None)  # test_cluster.py asks a real one
    with answering(b"\0\0\0\4\0\0\0\0\0") as server:  # empty settings, RFC 9113
        monkeypatch.setenv("RAY_ADDRESS", form.format(server.getsockname()[1]))
        require_cluster()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_what_is_no_cluster_is_told(answer, monkeypatch):
    with answering(answer) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(
            ClusterError, match=r"RAY_ADDRESS = 127.0.0.1:\d+: no cluster there \(what answers is"
        ):
            require_cluster()


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:9", "Connection refused"),
        ("host.invalid:6379", "."),
        ("127.0.0.1:99999", "."),
    ],
)
def test_a_cluster_that_is_gone_is_told(address, reason, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(
        ClusterError, match=rf"RAY_ADDRESS = {address}: no cluster there \(.*{reason}.*\); start it"
    ):
        require_cluster()


def test_one_that_says_nothing_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(cluster, "ANSWER_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(ClusterError, match="no cluster there .timed out.;"):
            require_cluster()


@pytest.mark.parametrize("address", ["", "auto", "local"])
def test_what_ray_judges_at_once_is_left_to_it(address, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address)
    require_cluster()
