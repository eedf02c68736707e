"""A stage reads what it is handed, whatever lies in the workspace, and hands on what it made."""

from pathlib import Path

import pytest

from ddt.manifest import Commit, Manifest, write_unit
from ddt.params import Params, load_params
from ddt.store import open_store
from pipelines import ingest, recaption
from pipelines.engine import runner
from pipelines.reports.report import Report
from pipelines.reports.workspace import manifest_path, metrics_path, report_path

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Stages whose work is to name the seed, or what they read; without MLflow, which is tested elsewhere."""

    class NoRun:
        def __init__(self, *_: object) -> None:
            self.on_metrics = lambda step, metrics: None

        def finish(self, report: Report) -> None: ...

        def end(self, error: BaseException) -> None: ...

    def make(ctx: runner.StageContext, content: str) -> runner.StageResult:
        return runner.StageResult([Commit(content, f"shards/{content}", 1, 1, content)], Report(ctx.name))

    monkeypatch.setattr(runner, "StageRun", NoRun)
    monkeypatch.setattr(ingest, "run", lambda ctx: make(ctx, f"seed {ctx.section.scenes.seed}"))
    monkeypatch.setattr(
        recaption, "run", lambda ctx: make(ctx, f"captions of {ctx.inputs['ingest'].commits[0].sha256}")
    )
    places = [f"paths.store={tmp_path}/store", f"paths.workspace={tmp_path}/workspace"]
    return load_params(ROOT / "params.yaml", None, [*places, f"tracking.uri=sqlite:///{tmp_path}/m.db"])


def with_seed(params: Params, seed: int) -> Params:
    places = [f"paths.{name}={getattr(params.paths, name)}" for name in ("store", "workspace")]
    return load_params(ROOT / "params.yaml", None, [*places, f"ingest.scenes.seed={seed}"])


def made(params: Params, report: Report) -> str:
    return Manifest.kept(open_store(params.paths.store), report.manifest).commits[0].sha256


def test_a_run_goes_on_with_its_own_data_in_another_ones_workspace(params: Params) -> None:
    a, b = with_seed(params, 1), with_seed(params, 2)
    mine = runner.run_stage("ingest", a)
    theirs = runner.run_stage("ingest", b)
    assert Manifest.load(manifest_path(Path(a.paths.workspace), "ingest")).digest == theirs.digest
    captions = runner.run_stage("recaption", a, inputs={"ingest": mine.manifest})
    assert made(a, captions) == "captions of seed 1"
    kept = Manifest.kept(open_store(a.paths.store), captions.manifest)
    assert kept.inputs == {"ingest": mine.digest} and kept.made_from == {"ingest": mine.manifest}
    assert made(a, runner.run_stage("recaption", b)) == "captions of seed 2"  # by hand: the workspace's
    again = runner.run_stage("recaption", a, inputs={"ingest": mine.manifest})
    assert made(a, again) == "captions of seed 1" and not again.skipped


def test_what_is_gone_is_refused_by_name(params: Params) -> None:
    mine = runner.run_stage("ingest", params)
    open_store(params.paths.store).delete(mine.manifest)
    with pytest.raises(
        runner.StageError, match="recaption needs what this run's ingest made: .*no such mani"
    ):
        runner.run_stage("recaption", params, inputs={"ingest": mine.manifest})


def test_the_same_data_made_in_two_ways_are_kept_apart(params: Params) -> None:
    first = runner.run_stage("ingest", params)
    second = runner.run_stage("ingest", load_with(params, "ingest.min_side_px=17"))
    assert first.digest == second.digest and first.manifest != second.manifest
    assert {Path(key).parent.name for key in (first.manifest, second.manifest)} == {first.digest}


def test_a_manifest_that_came_alone_has_its_report_from_the_store(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As DVC brings it to a fresh clone, whose metrics it wants to see as well."""

    def run(ctx: runner.StageContext) -> runner.StageResult:
        (tmp_path / "rows.arrow").write_text("rows")
        done = write_unit(ctx.store, ctx.name, ctx.fingerprint, "1" * 32, tmp_path / "rows.arrow", 1)
        return runner.StageResult([done], Report(ctx.name, metrics={"words": 7.0}))

    monkeypatch.setattr(recaption, "run", run)
    runner.run_stage("ingest", params)
    first, workspace = runner.run_stage("recaption", params), Path(params.paths.workspace)
    metrics = metrics_path(workspace, "recaption").read_text()
    for path in (report_path, metrics_path):
        path(workspace, "recaption").unlink()
    again = runner.run_stage("recaption", params)
    assert again.skipped and again.metrics == first.metrics
    assert metrics_path(workspace, "recaption").read_text() == metrics
    report_path(workspace, "recaption").write_text("{")  # a cut one is no stage's: its units are looked at
    assert not runner.run_stage("recaption", params).skipped


def load_with(params: Params, override: str) -> Params:
    places = [f"paths.{name}={getattr(params.paths, name)}" for name in ("store", "workspace")]
    return load_params(ROOT / "params.yaml", None, [*places, override])
