"""MLflow's own commands as servers beside a test: started, waited for, ended with it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from tests.processes import HANGS_AFTER_S


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean(uri: str) -> dict[str, str]:
    """The environment without anything of MLflow's but `uri`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environment.pop("PYTHONPATH", None)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # as in an active environment
    return environment | {"PATH": path, "MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true"}


@contextmanager
def mlflow(arguments: list[str], page: str, environment: dict[str, str], folder: Path) -> Iterator[None]:
    """`mlflow ARGUMENTS` in `folder`, from when its page answers to the end of the block."""
    log = folder / f"mlflow-{arguments[0]}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *arguments],
            env=environment,
            cwd=folder,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        limit = time.monotonic() + HANGS_AFTER_S
        while not _answers(page):
            assert process.poll() is None and time.monotonic() < limit, log.read_text()[-2000:]
            time.sleep(0.2)
        yield
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(HANGS_AFTER_S)


def _answers(page: str) -> bool:
    try:
        urlopen(page, timeout=5).close()
    except OSError:
        return False
    return True


@contextmanager
def tracking_server(folder: Path, artifacts: list[str], database: str | None = None) -> Iterator[str]:
    """Host and port of a tracking server; its database is in `folder` or where `database` says.

    `artifacts`: options that place these.
    """
    port, database = free_port(), database or f"sqlite:///{folder}/mlflow.db"
    command = ["server", "--backend-store-uri", database, "--port", str(port), "--workers", "1", *artifacts]
    no_jobs = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # which would be five processes more
    with mlflow(command, f"http://127.0.0.1:{port}/health", clean(database) | no_jobs, folder):
        yield f"127.0.0.1:{port}"
