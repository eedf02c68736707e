"""Stages across two machines with addresses of their own, no disk in common, and a store on S3.

What they make has the digest of one machine's work, also where one of the two is lost in the midst of it,
killed or cut off from the network. A training goes on when another machine has come in its place, with the
same samples: from the last checkpoint, and without a step lost where the machine was asked to leave.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.machines import ROOT, Machine, machines, needs_machines
from tests.pipelines.engine.across_machines import CHECKPOINT_EVERY, LOST, MIDST, ROWS, SHARDS, STEPS
from tests.processes import HANGS_AFTER_S

pytestmark = [pytest.mark.slow, pytest.mark.ray, needs_machines]
DRIVER = "tests.pipelines.engine.across_machines"
# A machine that is gone is known to be within half a minute, and a slow one is not taken for gone.
NOTICED = {
    "health_check_initial_delay_ms": 2000,
    "health_check_period_ms": 2000,
    "health_check_failure_threshold": 5,
}
# Nor is it given up before it has come up.
PATIENT = {
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "600",
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_worker_register_timeout_seconds": "600",
}
S3_PORT, RAY_PORT = 5555, 6379
MAKE_BUCKET = "import boto3; boto3.client('s3', region_name='us-east-1').create_bucket(Bucket='shared')"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """What one machine makes of a stage, with its own Ray and a folder as the store."""
    made: dict[str, dict[str, Any]] = {}

    def make(stage: str) -> dict[str, Any]:
        if stage not in made:
            folder = tmp_path_factory.mktemp(stage)
            done = subprocess.run(
                [sys.executable, "-m", DRIVER, stage, str(folder / "store")],
                cwd=ROOT, capture_output=True, text=True, timeout=HANGS_AFTER_S,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr[-4000:]
            made[stage] = result(done.stdout)
        return made[stage]

    return make


def result(said: str) -> dict[str, Any]:
    found = json.loads(said.strip().splitlines()[-1])
    assert isinstance(found, dict)
    return found


@dataclass
class Cluster:
    """A machine with S3 and Ray's head, which does no work, and others that do.

    `nodes`: by a machine's address its `ray start --block`, which is process 1 in a pod.
    """

    machines: list[Machine]
    nodes: dict[str, subprocess.Popen[str]]

    @property
    def last(self) -> Machine:
        return self.machines[-1]

    def join(self, machine: Machine) -> None:
        process = ray(machine, "--block", f"--address={self.machines[0].address}:{RAY_PORT}", "--num-cpus=1")
        self.nodes[machine.address] = process

    def add(self) -> None:
        """One more machine."""
        first = self.machines[0]
        self.machines.append(Machine(len(self.machines) + 1, first, first.environment))
        self.join(self.last)

    def drain(self) -> None:
        """Ask the last one to leave, as Kubernetes does."""
        self.last.terminate(self.nodes[self.last.address])


@contextmanager
def cluster() -> Iterator[Cluster]:
    """One with two machines that work."""
    place = f"http://10.231.7.1:{S3_PORT}"
    credentials = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    own = {"AWS_ENDPOINT_URL": place, "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    with machines(3, **own, **credentials, **PATIENT) as made:
        first, *others = made
        server = ("-m", "moto.server", "-H", first.address, "-p", str(S3_PORT))
        first.python(*server, words=subprocess.DEVNULL)
        until(first, MAKE_BUCKET)
        head = ("--head", f"--port={RAY_PORT}", "--num-cpus=0", "--include-dashboard=false")
        ray(first, "--block", *head, f"--system-config={json.dumps(NOTICED)}")
        made_of = Cluster(made, {})
        for other in others:
            made_of.join(other)
        yield made_of


def ray(machine: Machine, *options: str) -> subprocess.Popen[str]:
    """Its Ray node, up and running, whose workers have the environment of this command."""
    own = (f"--node-ip-address={machine.address}", f"--object-store-memory={100 * 1_000_000}")
    process = machine.python("-m", "tests.patient_ray", "start", "--disable-usage-stats", *own, *options)
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if "Ray runtime started" in line:
            return process
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


def work(stage: str, of: Cluster, take_away: Callable[[Cluster], None] | None = None) -> dict[str, Any]:
    """The stage's result and words; `take_away` is called when the last machine is in the midst of it."""
    first, lost = of.machines[0], [of.last.address] if take_away else []
    first.environment["RAY_ADDRESS"] = f"{first.address}:{RAY_PORT}"
    process = first.python("-m", DRIVER, stage, "s3://shared/run", *lost)
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if line.strip() == LOST and take_away is not None:
            take_away(of)
            take_away = None
    assert process.wait(HANGS_AFTER_S) == 0, said[-4000:]
    print(said)  # shown where the test fails
    assert take_away is None, "it ended before the machine was taken away"
    return result(said) | {"said": said}


def counts(found: dict[str, Any]) -> dict[str, int]:
    return {address: len(what) for address, what in found["begun"].items()}


def test_two_machines_make_what_one_makes(alone: Callable[[str], dict[str, Any]]) -> None:
    whole = alone("tokenize_images")
    with cluster() as of:
        found = work("tokenize_images", of)
    assert whole["rows"] == SHARDS * ROWS and whole["metrics"]["tokenize/codes_used"] > 0.1
    assert all(found[what] == whole[what] for what in ("digest", "rows", "metrics"))
    assert set(found["begun"]) == {machine.address for machine in of.machines[1:]}
    assert sum(counts(found).values()) == SHARDS


@pytest.mark.parametrize("take_away", [Machine.kill, Machine.cut_off])
def test_so_they_do_where_one_is_lost(
    alone: Callable[[str], dict[str, Any]], take_away: Callable[[Machine], None]
) -> None:
    with cluster() as of:
        found = work("tokenize_images", of, lambda of: take_away(of.last))
    assert all(found[what] == alone("tokenize_images")[what] for what in ("digest", "rows", "metrics"))
    left, lost = (counts(found)[machine.address] for machine in of.machines[1:])
    assert lost >= MIDST["tokenize_images"] and left < SHARDS
    assert SHARDS <= lost + left <= SHARDS + 1  # again but the unit that the lost one was at


@pytest.mark.parametrize("drained", [False, True])
def test_a_training_goes_on_where_a_machine_is_replaced(
    alone: Callable[[str], dict[str, Any]], drained: bool
) -> None:
    def replace(of: Cluster) -> None:
        of.drain() if drained else of.last.kill()
        of.add()

    whole = alone("pretrain")
    [undisturbed] = whole["begun"].values()  # two workers on one machine
    assert set(undisturbed) == {f"{step:03d}-{rank}" for step in range(STEPS) for rank in range(2)}
    with cluster() as of:
        found = work("pretrain", of, replace)
    assert found["digest"] == whole["digest"]
    left, lost, new = (found["begun"][machine.address] for machine in of.machines[1:])
    for seen in (left, lost, new):
        assert seen and seen.items() <= undisturbed.items()
    again, last = int(min(new)[:3]), int(max(lost)[:3])
    assert last + 1 >= MIDST["pretrain"]
    if drained:
        assert again == last + 1 and f"goes on from a checkpoint of step {again}" in found["said"]
    else:
        assert last - CHECKPOINT_EVERY <= again <= last and again % CHECKPOINT_EVERY == 0 < again
