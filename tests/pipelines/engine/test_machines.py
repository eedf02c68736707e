"""`tokenize_images` across two machines with addresses of their own, no disk in common, and a store on S3.

The digest is that of one machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.machines import ROOT, Machine, machines, needs_machines
from tests.pipelines.engine.across_machines import ROWS, SHARDS
from tests.processes import HANGS_AFTER_S

pytestmark = [pytest.mark.slow, pytest.mark.ray, needs_machines]
DRIVER = "tests.pipelines.engine.across_machines"
STARTS = 3  # Ray gives a node 30 s to come up, which a busy processor may not have done by then
S3_PORT, RAY_PORT = 5555, 6379
MAKE_BUCKET = "import boto3; boto3.client('s3', region_name='us-east-1').create_bucket(Bucket='shared')"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one machine makes, with its own Ray and a folder as the store."""
    folder = tmp_path_factory.mktemp("alone")
    done = subprocess.run(
        [sys.executable, "-m", DRIVER, str(folder / "store")],
        cwd=ROOT, capture_output=True, text=True, timeout=HANGS_AFTER_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return result(done.stdout)


def result(said: str) -> dict[str, Any]:
    found = json.loads(said.strip().splitlines()[-1])
    assert isinstance(found, dict)
    return found


@contextmanager
def cluster() -> Iterator[list[Machine]]:
    """A machine with S3 and Ray's head, which does no work, and two that do."""
    place = f"http://10.231.7.1:{S3_PORT}"
    credentials = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    with machines(
        3, AWS_ENDPOINT_URL=place, RAY_AUTH_MODE="disabled", OMP_NUM_THREADS="1", **credentials
    ) as made:
        first, *others = made
        server = ("-m", "moto.server", "-H", first.address, "-p", str(S3_PORT))
        first.python(*server, words=subprocess.DEVNULL)
        until(first, MAKE_BUCKET)
        ray(first, "--head", f"--port={RAY_PORT}", "--num-cpus=0")
        for other in others:
            ray(other, f"--address={first.address}:{RAY_PORT}", "--num-cpus=1")
        yield made


def ray(machine: Machine, *options: str) -> None:
    """Its Ray node, whose workers have the environment of this command."""
    program, said = str(Path(sys.executable).parent / "ray"), ""
    own = (f"--node-ip-address={machine.address}", f"--object-store-memory={100 * 1_000_000}")
    for _ in range(STARTS):
        process = machine.start(program, "start", "--disable-usage-stats", *own, *options)
        said, _words = process.communicate(timeout=HANGS_AFTER_S)
        if process.returncode == 0:
            return
        machine.call(program, "stop", "--force")
    raise AssertionError(said[-4000:])


def until(machine: Machine, code: str) -> None:
    """Run `code` there again and again, until it succeeds."""
    limit = time.monotonic() + HANGS_AFTER_S
    while True:
        process = machine.python("-c", code)
        said, _ = process.communicate()
        if process.returncode == 0:
            return
        assert time.monotonic() < limit, said[-4000:]
        time.sleep(0.5)


def tokenize(made: list[Machine]) -> dict[str, Any]:
    """The stage's result across the machines."""
    first, *_ = made
    first.environment["RAY_ADDRESS"] = f"{first.address}:{RAY_PORT}"
    process = first.python("-m", DRIVER, "s3://shared/run")
    said, _none = process.communicate(timeout=HANGS_AFTER_S)
    assert process.returncode == 0, said[-4000:]
    return result(said)


def test_two_machines_make_what_one_makes(alone: dict[str, Any]) -> None:
    with cluster() as made:
        found = tokenize(made)
    assert alone["rows"] == SHARDS * ROWS and alone["used"] > 0.1
    assert (found["digest"], found["rows"], found["used"]) == (alone["digest"], alone["rows"], alone["used"])
    assert set(found["begun"]) == {made[1].address, made[2].address}
    assert sum(found["begun"].values()) == SHARDS
