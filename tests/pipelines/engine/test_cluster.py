"""Ray as the stages use it: units survive killed actors, errors name the unit, nothing outlives its owner."""

from __future__ import annotations

import dataclasses
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

from pipelines.engine.actors import UnitError, UnitInputError, UnitSystemError, map_units
from pipelines.engine.cluster import connect, require_cluster
from pipelines.engine.failures import is_mistake
from pipelines.engine.ledger import Ledger
from pipelines.engine.shared_cluster import is_alive
from tests.pipelines.ray_support import RESOURCES, Squarer
from tests.processes import HANGS_AFTER_S

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[3]
UNITS = [{"unit": f"u{i}", "value": i, "extra": None if i % 2 else {"nested": [i]}} for i in range(8)]


@pytest.fixture(scope="module")
def ray_cluster():
    with connect(RESOURCES):
        yield


def squares(folder: Path, unit_retries: int = 2, **arguments) -> dict[str, dict]:
    resources = dataclasses.replace(RESOURCES, unit_retries=unit_retries)
    results = map_units(UNITS, Squarer, {"folder": str(folder), **arguments}, resources, "squares")
    return {result["unit"]: result for result in results}


def test_every_unit_comes_back_once_although_an_actor_is_killed(ray_cluster, tmp_path):
    found = squares(tmp_path, kill="u3")
    assert (tmp_path / "killed").exists()
    assert found == {
        unit["unit"]: {"unit": unit["unit"], "square": unit["value"] ** 2, "extra": unit["extra"]}
        for unit in UNITS
    }


def test_a_unit_that_takes_its_workers_along_is_named(ray_cluster, tmp_path):
    with pytest.raises(UnitSystemError, match=r"^squares, unit u4: its worker was lost 1 times") as lost:
        squares(tmp_path, unit_retries=0, deadly="u4")
    assert not is_mistake(lost.value)


def test_a_ledger_counts_lost_workers_and_knows_what_is_at_work(ray_cluster):
    ledger = Ledger.new()
    assert [ledger.begin("a", "a.tar"), ledger.begin("b", "b.tar")] == [0, 0]
    ledger.end("b")
    assert re.fullmatch(r"at work: a\.tar \(\d+ s\)", ledger.at_work())
    assert [ledger.begin("a", "a.tar"), ledger.begin("b", "b.tar"), ledger.begin("a", "a.tar")] == [1, 0, 2]
    ledger.end("a")
    assert ledger.begin("a", "a.tar") == 2  # done again beside a unit that was lost
    ledger.close()
    assert ledger.at_work() == "no worker has taken a unit up"


def test_a_users_mistake_is_one_line_that_names_the_unit(ray_cluster, tmp_path, capsys):
    with pytest.raises(UnitInputError, match=r"^squares, unit u5: it is too bad$"):
        squares(tmp_path, bad="u5", error="user")
    assert "Traceback" not in capsys.readouterr().err


def test_our_own_failure_shows_its_trace(ray_cluster, tmp_path, capsys):
    with pytest.raises(UnitError, match=r"unit u2: ZeroDivisionError: it is too bad"):
        squares(tmp_path, bad="u2", error="ours")
    assert "in __call__" in capsys.readouterr().err
    assert len(squares(tmp_path)) == 8  # the cluster is free again


def test_a_cluster_that_is_there_is_found(ray_cluster, monkeypatch):
    address = ray.get_runtime_context().gcs_address
    monkeypatch.setenv("RAY_ADDRESS", address)
    require_cluster()


def test_no_units_need_no_cluster():
    assert list(map_units([], Squarer, {}, RESOURCES, "none")) == []


STEP = """
import json, sys, time
from pipelines.engine.cluster import connect
from tests.pipelines.ray_support import RESOURCES
import ray
with connect(RESOURCES, owner_pid=int(sys.argv[1])):
    print(ray.get_runtime_context().gcs_address, flush=True)
    if sys.argv[2] == "stay":
        time.sleep(1000)
"""


def _step(owner: int, what: str) -> subprocess.Popen:
    command = [sys.executable, "-c", STEP, str(owner), what]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def _ray_processes(address: str) -> list[int]:
    """Processes that were told this address on their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if address.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return [pid for pid in found if is_alive(pid)]


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks at /proc")
def test_steps_share_one_cluster_that_dies_with_the_flow(tmp_path):
    owner = subprocess.Popen(["sleep", str(HANGS_AFTER_S)])
    steps = [_step(owner.pid, "go"), _step(owner.pid, "stay")]
    addresses = {step.stdout.readline().strip() for step in steps}
    assert len(addresses) == 1 and steps[0].wait(HANGS_AFTER_S) == 0
    (address,) = addresses
    assert _ray_processes(address)
    owner.send_signal(signal.SIGKILL)  # not waited for: a zombie counts as gone
    assert steps[1].wait(HANGS_AFTER_S) == 1  # the step of a killed flow stops too
    limit = time.monotonic() + HANGS_AFTER_S
    while _ray_processes(address) and time.monotonic() < limit:
        time.sleep(0.2)
    left = _ray_processes(address)
    owner.wait()
    assert left == []


def test_a_leftover_cluster_address_is_ignored(tmp_path, monkeypatch):
    """`ray start` leaves /tmp/ray/ray_current_cluster behind when it is killed."""
    code = (
        "import ray, signal\n"
        "from pipelines.engine.cluster import connect\n"
        "from tests.pipelines.ray_support import RESOURCES\n"
        "def handled(): return signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL\n"
        "with connect(RESOURCES): print(int(ray.cluster_resources()['CPU']), handled())\n"
        "print(handled())"  # Ray's own does not stay
    )
    current = Path("/tmp/ray/ray_current_cluster")
    existed = current.read_text() if current.exists() else None
    current.parent.mkdir(exist_ok=True)
    current.write_text("127.0.0.1:1")
    try:
        ran = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=HANGS_AFTER_S
        )
    finally:
        current.unlink() if existed is None else current.write_text(existed)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["2", "True", "False"] and ran.stderr == ""


def test_an_actor_too_large_for_the_cluster_is_refused(ray_cluster):
    resources = dataclasses.replace(RESOURCES, cpus_per_actor=3)
    with pytest.raises(ValueError, match="actor wants 3 CPUs, 0 GPUs; the cluster has 2 and 0"):
        list(map_units(UNITS, Squarer, {}, resources, "squares"))
