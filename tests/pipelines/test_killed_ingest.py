"""`ingest` on real Ray, its workers and its driver killed with SIGKILL at seeded moments: the version of an
undisturbed run, on a folder and on S3, with 1, 2 and 4 workers.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from ddt.manifest import units_prefix
from ddt.store import open_store
from pipelines import ingest
from pipelines.engine.shared_cluster import is_alive
from tests.data.test_readers import image, write_tar
from tests.data.test_s3_sources import upload
from tests.pipelines.killed_ingest import PRINT, context, digest
from tests.pipelines.test_own_data import one_after_another
from tests.processes import HANGS_AFTER_S

pytestmark = [pytest.mark.slow, pytest.mark.ray]

ROOT = Path(__file__).parents[2]
SHARDS, PAIRS = 16, 40
KILLS = ("worker", "driver", "worker", "driver")  # of each of six runs: 24


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tars of pictures, some of them damaged."""
    folder = tmp_path_factory.mktemp("source")
    for shard in range(SHARDS):
        members = []
        for i in range(PAIRS):
            data = image(shard * PAIRS + i)
            members += [(f"{i:03d}.jpg", data[:99] if i == shard else data), (f"{i:03d}.txt", b"text %d" % i)]
        write_tar(folder / f"{shard:03d}.tar", members)
    return folder


@pytest.fixture(scope="module")
def undisturbed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The version that the same workers make here, one unit after the other."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ingest, "run_most_units", one_after_another)
        return digest(context(str(source), str(folder / "store"), folder, 1))


@pytest.mark.parametrize("cpus", [1, 2, 4])
@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_killed_anywhere_it_makes_the_same(
    kind: str, cpus: int, source: Path, undisturbed: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place, store = str(source), str(tmp_path / "store")
    if kind == "s3":
        request.getfixturevalue("s3_endpoint")
        upload(source, f"{tmp_path.name}/raw")
        place, store = f"s3://test-bucket/{tmp_path.name}/raw", f"s3://test-bucket/{tmp_path.name}/store"
    moments, done = random.Random(f"{kind} {cpus}"), open_store(store, tmp_path / "cache")

    def made() -> int:
        return len(done.list(units_prefix("ingest", PRINT)))

    def is_at(driver: subprocess.Popen[str], target: int) -> bool:
        return driver.poll() is not None or (made() >= target and bool(workers_of(driver.pid)))

    killed, left = list[str](), set[int]()
    command = [sys.executable, "-m", "tests.pipelines.killed_ingest", place, store, str(tmp_path), str(cpus)]
    # `made` when each comes, spread over the units; then some part of a unit's time
    targets = sorted(moments.randrange(SHARDS - 1) for _ in KILLS)
    waiting = list(zip(KILLS, targets, strict=True))
    while True:
        with running(command, tmp_path, left) as driver:
            while waiting and driver.poll() is None:
                what, target = waiting[0]
                wait_until(partial(is_at, driver, target))
                time.sleep(moments.uniform(0, 0.2))
                victims = [driver.pid] if what == "driver" else workers_of(driver.pid)
                if driver.poll() is None and victims:
                    left |= set(below(driver.pid))
                    os.kill(moments.choice(victims), signal.SIGKILL)
                    killed.append(waiting.pop(0)[0])
                if what == "driver":
                    break
            told = driver.communicate(timeout=HANGS_AFTER_S)[0]
        if driver.returncode == 0:
            break
        assert driver.returncode == -signal.SIGKILL
    assert told.strip() == undisturbed
    assert made() == SHARDS and len(killed) >= len(KILLS) - 1, "it was over before it could be killed"


@contextlib.contextmanager
def running(command: list[str], folder: Path, left: set[int]) -> Iterator[subprocess.Popen[str]]:
    """The driver; when it has ended, all that was seen to be started by it (`left`) is waited for."""
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
    environment.pop("RAY_ADDRESS", None)
    driver = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        yield driver
    finally:
        driver.kill()
        driver.wait()
        wait_until(lambda: not any(map(is_alive, left)))


def wait_until(is_so: Callable[[], object]) -> None:
    limit = time.monotonic() + HANGS_AFTER_S
    while not is_so():
        assert time.monotonic() < limit
        time.sleep(0.02)


def workers_of(driver: int) -> list[int]:
    """The actors' processes of a driver's cluster."""
    return [pid for pid in below(driver) if b"MapWorker" in _read(pid, "cmdline")]


def below(pid: int) -> list[int]:
    """All processes that go back to this one."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        stat = _read(int(path.name), "stat").rpartition(b")")[2].split()
        if stat:
            parents[int(path.name)] = int(stat[1])
    found, new = [], [pid]
    while new:
        new = [child for child, parent in parents.items() if parent in new]
        found += new
    return found


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
