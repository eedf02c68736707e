"""A PostgreSQL server of its own for a test, where its programs and its driver are installed."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

needs_postgres = pytest.mark.skipif(
    shutil.which("initdb") is None, reason="PostgreSQL's programs are not installed"
)
PASSWORD = "s3cret/@:x"
QUOTED = "s3cret%2F%40%3Ax"


@pytest.fixture
def postgres() -> Iterator[str]:
    """Its URI. The server refuses to run as root: then it is the user `postgres` who runs it."""
    pytest.importorskip("psycopg", exc_type=ImportError)
    owner = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="ddt-pg-", dir="/tmp") as name:
        folder = Path(name)
        (folder / "password").write_text(PASSWORD)
        if owner:
            user = pwd.getpwnam("postgres")
            for path in (folder, folder / "password"):
                os.chown(path, user.pw_uid, user.pw_gid)
        login = ["-U", "ann", "--auth=scram-sha-256", f"--pwfile={folder}/password"]
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        for command in (
            ["initdb", "-D", f"{folder}/data", "--no-sync", *login],
            ["pg_ctl", "-D", f"{folder}/data", "-l", f"{folder}/log", "-w", "-o", options, "start"],
        ):
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, **owner)
        try:
            yield f"postgresql://ann:{QUOTED}@127.0.0.1:{port}/postgres"
        finally:
            stop = ["pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "stop"]
            subprocess.run(stop, cwd=folder, check=True, stdout=subprocess.DEVNULL, **owner)
