"""Ingest to selection on an S3 that fails: the versions of an undisturbed run.

The stages' own workers run here one after the other, as an actor of theirs calls them: what may pass is tried
again as often as it would be.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from ddt.manifest import Commit, Manifest
from ddt.params import Params, load_params
from ddt.scenes.crawl import write_shard as write_crawl
from ddt.store import open_store
from pipelines import ingest, recaption, score, select
from pipelines.engine import actors
from pipelines.engine.runner import StageContext
from tests.failing_s3 import FAULTS, failing_server
from tests.pipelines.ray_support import RESOURCES
from tests.pipelines.test_select import added_up, without_gate

ROOT = Path(__file__).resolve().parents[2]
STAGES = {"ingest": ingest, "recaption": recaption, "score": score, "select": select}
SHARDS, ROWS = 3, 60


class NoLedger:
    """Of losses of processes: there are none here."""

    def begin(self, unit: str, name: str) -> int:
        return 0

    def end(self, unit: str) -> None: ...


def by_one_actor(
    ctx: StageContext, worker: Any, units: list[dict[str, Any]], **arguments: Any
) -> list[Commit]:
    told = dict(
        stage=ctx.name, fingerprint=ctx.fingerprint, store_uri=ctx.store.root_uri, arguments=arguments
    )
    actor, made = actors._Actor(worker, told, NoLedger(), RESOURCES.unit_retries), []
    for unit in sorted(units, key=lambda unit: unit["unit"]):
        answer = json.loads(actor({"unit": json.dumps(unit)})["answer"])
        assert "result" in answer, answer["error"]["trace"]
        made.append(Commit(**answer["result"]))
    return made


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Ray and Great Expectations, and without waiting before something is tried again."""
    for stage in STAGES.values():
        if hasattr(stage, "run_most_units"):
            monkeypatch.setattr(stage, "run_most_units", lambda *a, **k: (by_one_actor(*a, **k), []))
    monkeypatch.setattr(select, "run_units", by_one_actor)
    monkeypatch.setattr(select, "add_up", added_up)
    monkeypatch.setattr(select, "connect", lambda _: contextlib.nullcontext())
    without_gate(monkeypatch)
    monkeypatch.setattr(actors, "RETRY_AFTER_S", 0)
    monkeypatch.setattr("ddt.store.s3.READ_AGAIN_AFTER_S", 0)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)


def versions(params: Params, store: str, folder: Path) -> dict[str, str]:
    """Digest of what each stage made, by one process that finds nothing of its own."""
    made: dict[str, Manifest] = {}
    for number, (name, stage) in enumerate(STAGES.items()):
        place = open_store(store, folder / "cache")
        ctx = StageContext(name, params, getattr(params, name), place, folder, str(number) * 64, dict(made))
        commits = tuple(stage.run(ctx).commits)  # type: ignore[attr-defined]
        made[name] = Manifest(name, ctx.fingerprint, {}, commits)
        assert Manifest.kept(place, made[name].keep(place)).digest == made[name].digest
    return {name: manifest.digest for name, manifest in made.items()}


@pytest.mark.slow
def test_an_s3_that_fails_leaves_the_same_versions(
    alone: None, s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_store(f"s3://test-bucket/{tmp_path.name}/raw")
    faults = load_params(ROOT / "params.yaml").ingest.scenes.faults
    for shard in range(SHARDS):
        write_crawl(tmp_path / "crawl.tar", shard, ROWS, 3, 32, faults)
        source.put_file(f"{shard}.tar", tmp_path / "crawl.tar")
    settings = [f"ingest.source={source.root_uri}", "select.keep=90", "ingest.max_reject_rate=0.5"]
    params = dataclasses.replace(load_params(ROOT / "params.yaml", overrides=settings), resources=RESOURCES)
    found = {}
    with failing_server() as (address, seen):
        for name, endpoint in (("sound", s3_endpoint), ("failing", address)):
            monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name / "home"))
            (tmp_path / name).mkdir()
            found[name] = versions(params, f"s3://test-bucket/{tmp_path.name}/{name}", tmp_path / name)
    assert found["failing"] == found["sound"]
    assert seen.keys() - {""} == FAULTS.keys()
    assert seen.total() - seen[""] >= 0.045 * seen[""], "one request in twenty, but for those in waiting"
