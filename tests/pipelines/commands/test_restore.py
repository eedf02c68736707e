"""`ddt restore`: from an end to the workspace that its run left, from the store and MLflow alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ddt.manifest import Manifest
from ddt.params import Params
from pipelines.commands import restore
from pipelines.engine.graph import STAGES
from pipelines.reports.report import Report
from pipelines.reports.workspace import manifest_path, report_key, report_path
from pipelines.services import lock
from tests.pipelines.lineages import Lineages


@pytest.fixture(params=["folder", "s3"])
def lineages(
    request: pytest.FixtureRequest, tmp_path: Path, mlflow_uri: str, monkeypatch: pytest.MonkeyPatch
) -> Lineages:
    """Two whole runs; the workspace shows the second."""
    store = None
    if request.param == "s3":
        request.getfixturevalue("s3_endpoint")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        store = f"s3://test-bucket/{tmp_path.name}"
    return Lineages(tmp_path, mlflow_uri, f"restore-{tmp_path.name}", store)


def elsewhere(lineages: Lineages) -> Params:
    """A workspace that nothing was ever in."""
    paths = replace(lineages.params.paths, workspace=str(lineages.folder / "clone" / "workspace"))
    return replace(lineages.params, paths=paths)


def lying_in(params: Params) -> dict[str, Manifest]:
    workspace = Path(params.paths.workspace)
    paths = {stage: manifest_path(workspace, stage) for stage in STAGES}
    return {stage: Manifest.load(path) for stage, path in paths.items() if path.is_file()}


def test_a_version_brings_all_that_it_goes_back_to(
    lineages: Lineages, capsys: pytest.CaptureFixture[str]
) -> None:
    first = lineages.make("a")
    lineages.make("b", until="select")
    params = elsewhere(lineages)
    told = Report("finetune", metrics={"loss": 1.5}, pictures={"drawn": "reports/finetune/gone.png"})
    told.fingerprint, told.digest = first["finetune"].fingerprint, first["finetune"].digest
    lineages.store.put_bytes(report_key(first["finetune"].key), told.to_json().encode())
    lineages.store.delete(report_key(first["ingest"].key))  # as an earlier release left it
    restore.run(params, f"models:/{params.tracking.model_name}/1")
    wanted = {stage: manifest for stage, manifest in first.items() if stage != "promote"}
    assert lying_in(params) == wanted
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == list(wanted)
    found = Report.load(report_path(Path(params.paths.workspace), "finetune"))
    assert (found.metrics, found.pictures) == ({"loss": 1.5}, {})  # the picture is not here
    ingested = Report.load(report_path(Path(params.paths.workspace), "ingest"))
    assert ingested == Report(
        "ingest", first["ingest"].fingerprint, first["ingest"].digest, first["ingest"].key
    )


@pytest.mark.parametrize("lineages", ["folder"], indirect=True)
def test_a_digest_and_a_run_are_ends_as_well(lineages: Lineages) -> None:
    first = lineages.make("a", until="pretrain")
    lineages.make("b", until="pretrain")
    params = elsewhere(lineages)
    restore.run(params, first["score"].digest[:12])
    assert lying_in(params) == {stage: first[stage] for stage in ("ingest", "recaption", "score")}
    restore.run(params, "FullPipeline/a")
    assert lying_in(params) == first
    with pytest.raises(ValueError, match="^deadbeef: no manifest"):
        restore.run(params, "deadbeef")


def test_what_is_lost_is_told_and_nothing_is_written(lineages: Lineages) -> None:
    made = lineages.make("a", until="pretrain")
    params = elsewhere(lineages)
    shard, model = made["score"].commits[0].key, made["pretrain"].commits[0].key
    kept = lineages.store.get_bytes(shard)
    lineages.store.put_bytes(shard, kept[:5])
    with pytest.raises(ValueError, match=f"{shard}: 5 bytes, expected {len(kept)}; nothing is written$"):
        restore.run(params, "FullPipeline/a")
    lineages.store.put_bytes(shard, kept)
    weights = model.replace("_COMPLETE", "ddt.json")
    lineages.store.delete(weights)
    lineages.store.delete(shard)
    with pytest.raises(ValueError, match=f"{shard}: missing, and 1 more; nothing is written$"):
        restore.run(params, "FullPipeline/a")
    lineages.store.delete(made["recaption"].key)
    with pytest.raises(ValueError, match="can't be restored: recaption: .*no such manifest"):
        restore.run(params, "FullPipeline/a")
    assert lying_in(params) == {}


@pytest.mark.parametrize("lineages", ["folder"], indirect=True)
def test_it_refuses_another_store_and_a_workspace_in_use(lineages: Lineages, tmp_path: Path) -> None:
    lineages.make("a")
    params = elsewhere(lineages)
    version = f"models:/{params.tracking.model_name}/1"
    other = replace(params, paths=replace(params.paths, store=str(tmp_path / "other")))
    with pytest.raises(ValueError, match=f"is in {tmp_path}/store: set paths.store to it$"):
        restore.run(other, version)
    in_use = pytest.raises(lock.Locked, match="in use by FullPipeline/7")
    with lock.held(Path(params.paths.workspace), "FullPipeline/7", 1), in_use:
        restore.run(params, version)
    assert lying_in(params) == {}


@pytest.mark.parametrize("lineages", ["folder"], indirect=True)
def test_data_made_in_two_ways_is_no_end(lineages: Lineages) -> None:
    made = lineages.make("a", until="ingest")["ingest"]
    again = replace(made, fingerprint="1" * 64)
    assert again.digest == made.digest and again.keep(lineages.store) != made.key
    with pytest.raises(ValueError, match="was made in several ways; name a version, a run"):
        restore.run(elsewhere(lineages), made.digest)
