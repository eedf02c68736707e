"""Machines on this one: each with a name, a network address, processes and temporary files of its own.

They are Linux namespaces, which root may make. What is written on one is on no other: `/tmp` and `/dev/shm`
are its own, the disk can only be read. A machine ends, with all that runs on it, when it is killed or the
test that made it is gone, however that ends; nothing is left of it or of its network.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.processes import HANGS_AFTER_S

ROOT = Path(__file__).resolve().parent.parent
NEW = ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
NETWORK = "10.231.7"  # a network of its own: no other can be reached from it
# The name leads to the address, as in a pod: torch tells the others where it listens by that.
OWN_FILES = """
mount -t tmpfs none /tmp && mount -t tmpfs none /dev/shm && mount -o remount,bind,ro / && mkdir /tmp/home &&
printf '127.0.0.1 localhost\n%s %s\n' "$1" "$2" > /tmp/hosts && mount --bind /tmp/hosts /etc/hosts &&
hostname "$2" && ip link set lo up
"""


def allowed() -> bool:
    """Whether this process may make them, and they would see the project and its Python."""
    if any(os.path.realpath(place).startswith("/tmp/") for place in (ROOT, sys.executable, sys.prefix)):
        return False
    if not all(map(shutil.which, ("unshare", "nsenter", "ip", "mount", "hostname"))):
        return False
    try_it = f"{OWN_FILES.strip()} && ip link add br0 type bridge"
    command = [*NEW, "sh", "-c", try_it, "sh", f"{NETWORK}.1", "machine1"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


needs_machines = pytest.mark.skipif(not allowed(), reason="no namespaces here, or all is in /tmp")


class Machine:
    """One of them; the first has the switch that all are connected to."""

    def __init__(self, number: int, first: Machine | None, environment: dict[str, str]) -> None:
        self.address, self.environment = f"{NETWORK}.{number}", environment
        # It waits for the end of a pipe, which comes when the test is gone.
        self.holder = subprocess.Popen([*NEW, "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        self.pid = _child(self.holder)
        self.enter = ["nsenter", "--target", str(self.pid), "--mount", "--net", "--uts", "--pid"]
        own = [self.address, f"machine{number}"]
        subprocess.run([*self.enter, "sh", "-c", OWN_FILES, "sh", *own], check=True, capture_output=True)
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
        # Of Ray's settings those of this process are for clusters of its own, which nobody drains.
        environment = {k: v for k, v in os.environ.items() if k != "TMPDIR" and not k.startswith("RAY_")}
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

    def terminate(self, process: subprocess.Popen[str]) -> None:
        """SIGTERM to a command that was started here: nsenter, which is its parent, does not pass it on."""
        os.kill(_child(process), signal.SIGTERM)

    def cut_off(self) -> None:
        """From all others: it goes on by itself, as behind a switch that fails."""
        self._network("ip", "link", "set", "eth0", "down")

    def _network(self, *command: str) -> None:
        """In its network, with this machine's process numbers and programs."""
        enter = ["nsenter", "--target", str(self.pid), "--net"]
        subprocess.run([*enter, *command], check=True, capture_output=True)


def _child(process: subprocess.Popen[Any]) -> int:
    """The process that it has started, as soon as that is there."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    limit = time.monotonic() + HANGS_AFTER_S
    while not (found := children.read_text().split()):
        assert process.poll() is None and time.monotonic() < limit
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
