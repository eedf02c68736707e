"""Machines on this one: each with a network address, processes and temporary files of its own.

They are Linux namespaces, which root may make. What is written on one is on no other: `/tmp` and `/dev/shm`
are its own, the disk can only be read. A machine ends, with all that runs on it, when it is killed or the
test that made it is gone, however that ends; nothing is left of it or of its network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.processes import HANGS_AFTER_S

ROOT = Path(__file__).resolve().parent.parent
NEW = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
NETWORK = "10.231.7"  # a network of its own: no other can be reached from it
OWN_FILES = (
    "mount -t tmpfs none /tmp && mount -t tmpfs none /dev/shm && mount -o remount,bind,ro / "
    "&& ip link set lo up && mkdir /tmp/home"
)


def allowed() -> bool:
    """Whether this process may make them."""
    if not all(map(shutil.which, ("unshare", "nsenter", "ip", "mount"))):
        return False
    command = [*NEW, "sh", "-c", f"{OWN_FILES} && ip link add br0 type bridge"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


needs_machines = pytest.mark.skipif(not allowed(), reason="namespaces may not be made here")


class Machine:
    """One of them; the first has the switch that all are connected to."""

    def __init__(self, number: int, first: Machine | None, environment: dict[str, str]) -> None:
        self.address, self.environment = f"{NETWORK}.{number}", environment
        # It waits for the end of a pipe, which comes when the test is gone.
        self.holder = subprocess.Popen([*NEW, "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        self.pid = self._child()
        self.enter = ["nsenter", "--target", str(self.pid), "--mount", "--net", "--pid"]
        subprocess.run([*self.enter, "sh", "-c", OWN_FILES], check=True, capture_output=True)
        port = "br0"
        if first is None:
            self._network("ip", "link", "add", "br0", "type", "bridge")
        else:
            port = "eth0"
            first._network("ip", "link", "add", f"to{number}", "type", "veth", "peer", "name", port)
            first._network("ip", "link", "set", port, "netns", str(self.pid))
            first._network("ip", "link", "set", f"to{number}", "master", "br0", "up")
        self._network("ip", "addr", "add", f"{self.address}/24", "dev", port)
        self._network("ip", "link", "set", port, "up")

    def start(self, *command: str, words: int = subprocess.PIPE) -> subprocess.Popen[str]:
        """A command on the machine, its words in a pipe, which is to be read, or nowhere."""
        at_home = ["sh", "-c", 'cd /tmp/home && exec "$@"', "sh"]
        own = {"PYTHONPATH": str(ROOT), "HOME": "/tmp/home", "XDG_CACHE_HOME": "/tmp/home/cache"}
        environment = {k: v for k, v in os.environ.items() if k not in ("TMPDIR", "RAY_ADDRESS")}
        return subprocess.Popen(
            [*self.enter, *at_home, *command],
            env=environment | own | self.environment,
            text=True,
            stdout=words,
            stderr=subprocess.STDOUT,
        )

    def python(self, *command: str, words: int = subprocess.PIPE) -> subprocess.Popen[str]:
        return self.start(sys.executable, *command, words=words)

    def call(self, *command: str) -> str:
        """What a command says; it must succeed."""
        process = self.start(*command)
        said, _ = process.communicate(timeout=HANGS_AFTER_S)
        assert process.returncode == 0, said[-4000:]
        return said

    def kill(self) -> None:
        """At once, with all its processes, as when the power fails."""
        self.holder.kill()
        self.holder.wait()

    def _network(self, *command: str) -> None:
        """In its network, with this machine's process numbers and programs."""
        enter = ["nsenter", "--target", str(self.pid), "--net"]
        subprocess.run([*enter, *command], check=True, capture_output=True)

    def _child(self) -> int:
        children = Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children")
        limit = time.monotonic() + HANGS_AFTER_S
        while not (found := children.read_text().split()):
            assert self.holder.poll() is None and time.monotonic() < limit
            time.sleep(0.05)
        return int(found[0])


@contextmanager
def machines(count: int, **environment: str) -> Iterator[list[Machine]]:
    """So many, connected with each other alone."""
    made: list[Machine] = []
    try:
        for number in range(1, count + 1):
            made.append(Machine(number, made[0] if made else None, environment))
        yield made
    finally:
        for machine in made:
            machine.kill()
