"""A stage's MLflow run: curves while it goes on, and an end that is told however it comes."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import psutil
import pytest

from ddt.manifest import Manifest
from ddt.params import Params, load_params
from ddt.sections.run import Tracking
from pipelines import ingest
from pipelines.commands.plan import stage_state
from pipelines.engine import runner
from pipelines.reports.report import Report
from pipelines.reports.workspace import manifest_path
from pipelines.services import tracking
from pipelines.services.expectations import Expectation, GateFailed, validate
from pipelines.services.failures_told import _address
from pipelines.services.stage_run import StageRun, commit_tag
from pipelines.services.surroundings import process_mark
from tests.processes import HANGS_AFTER_S

ROOT = Path(__file__).resolve().parents[3]
SOON_S = 0.05
READ = {"ingest": ("d" * 64, "s3://store/manifests/ingest/d.json")}  # digest, and where the manifest is kept


def begin(params: Params, folder: Path, parent: str | None = None) -> StageRun:
    return StageRun(params.tracking, "pretrain", "f" * 64, {"a": {"b": 1}}, READ, folder, parent, SOON_S)


def run_of(run: StageRun) -> Any:
    return run.client.get_run(run.id)


def no_card(stage: str) -> None:
    """There is none."""


def curve(run: StageRun, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in run.client.get_metric_history(run.id, name)]


def until(done: Callable[[], bool]) -> None:
    limit = time.monotonic() + HANGS_AFTER_S
    while not done():
        assert time.monotonic() < limit
        time.sleep(SOON_S)


def test_curves_are_there_while_it_goes_on_and_once_at_its_end(params: Params, tmp_path: Path) -> None:
    run = begin(params, tmp_path)
    for step in (10, 20):
        run.on_metrics(step, {"train/loss": 1.0 / step, "position_perplexity/3": 2.0})
    until(lambda: len(curve(run, "train/loss")) == 2)
    assert run_of(run).info.status == "RUNNING"
    whole = [[10, 0.1], [20, 0.05], [30, 0.03]]  # the last is not written yet, or was lost
    run.finish(Report("pretrain", digest="m" * 64, curves={"train/loss": whole}, metrics={"kept": 3.0}))
    assert curve(run, "train/loss") == [(step, value) for step, value in whole]
    told = run_of(run)
    values = {name: value for name, value in told.data.metrics.items() if not name.startswith("system/")}
    assert told.info.status == "FINISHED"
    assert values == {"train/loss": 0.03, "kept": 3.0, "seconds": 0.0}
    assert told.data.params == {"a.b": "1"} and told.data.tags["manifest"] == "m" * 64
    [dataset] = told.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("ingest", "d" * 32)
    assert dataset.dataset.source == '{"uri": "s3://store/manifests/ingest/d.json"}'
    assert commit_tag().items() <= told.data.tags.items()


def test_the_machine_is_sampled_along(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "1")  # MLflow's own; 10 where nothing says
    run = begin(params, tmp_path)
    until(lambda: len(curve(run, "system/cpu_utilization_percentage")) == 2)
    assert run_of(run).info.status == "RUNNING"
    run.end(ValueError("no"))
    for name in ("cpu_utilization_percentage", "system_memory_usage_megabytes", "disk_usage_percentage"):
        points = curve(run, f"system/{name}")
        assert [step for step, _ in points] == list(range(len(points))) and len(points) >= 3
    used = [value for _, value in curve(run, "system/system_memory_usage_percentage")]
    assert all(
        abs(value - psutil.virtual_memory().used / psutil.virtual_memory().total * 100) < 30 for value in used
    )
    told = run_of(run).data.metrics
    assert sum(name.startswith("system/") for name in told) >= 8


def test_a_short_stage_has_one_sample_and_none_where_mlflow_says_so(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(params, tmp_path)
    run.finish(Report("pretrain"))
    assert [step for step, _ in curve(run, "system/cpu_utilization_percentage")] == [0]
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    run = begin(params, tmp_path)
    run.finish(Report("pretrain"))
    assert run_of(run).data.metrics == {"seconds": 0.0}


def test_the_commit_is_the_repositorys() -> None:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    expected = {"mlflow.source.git.commit": done.stdout.strip()} if done.returncode == 0 else {}
    assert commit_tag() == expected


def test_no_step_waits_for_a_server(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server takes nothing until the steps are done; then it fails, and has all of them at the end."""
    asked, answers, log_points = threading.Event(), threading.Event(), tracking.log_points

    def hanging(*_: object) -> None:
        asked.set()
        assert answers.wait(HANGS_AFTER_S)
        raise ConnectionError("the server is gone")

    run = begin(params, tmp_path)
    monkeypatch.setattr(tracking, "log_points", hanging)
    run.on_metrics(1, {"train/loss": 1.0})
    assert asked.wait(HANGS_AFTER_S)
    for step in range(2, 100):
        run.on_metrics(step, {"train/loss": 1.0})
    monkeypatch.setattr(tracking, "log_points", log_points)
    answers.set()
    whole = [[step, 1.0] for step in range(1, 100)]
    run.finish(Report("pretrain", curves={"train/loss": whole}))
    assert sorted(set(curve(run, "train/loss"))) == [(step, 1.0) for step in range(1, 100)]


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("no\npairs"), "FAILED"), (OSError("disk"), "FAILED"), (KeyboardInterrupt(), "KILLED")],
)
def test_an_end_before_the_end_is_told(
    error: BaseException, status: str, params: Params, tmp_path: Path
) -> None:
    run = begin(params, tmp_path)
    run.end(error)
    told = run_of(run)
    assert told.info.status == status and told.info.end_time
    assert told.data.tags["failure"] == {"no\npairs": "no pairs", "disk": "disk"}.get(
        str(error), "KeyboardInterrupt"
    )


def test_a_failed_gate_is_linked_from_the_stages_run_and_the_flows(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Great Expectations' own page, whose links still lead somewhere where MLflow keeps it."""

    def failing(ctx: runner.StageContext) -> runner.StageResult:
        few = [Expectation("ExpectColumnValuesToBeBetween", {"column": "pairs", "min_value": 2})]
        gate = validate("ingest", {"all": (pd.DataFrame({"pairs": [1]}), few)}, ctx.folder / "gate")
        return runner.StageResult([], Report("ingest"), gate=gate)

    monkeypatch.setattr(ingest, "run", failing)
    overrides = [
        f"tracking.uri={params.tracking.uri}",
        f"paths.store={tmp_path}/s",
        f"paths.workspace={tmp_path}/w",
    ]
    parent = tracking.start_parent(params.tracking, "Flow/1", {}, 1)
    made = load_params(ROOT / "params.yaml", None, overrides)
    with pytest.raises(GateFailed):
        runner.run_stage("ingest", made, parent)
    manifest = Manifest.load(manifest_path(tmp_path / "w", "ingest"))
    [failed] = manifest.extra[runner.FAILED_GATE]
    assert failed.startswith("ExpectColumn") and stage_state(made, "ingest") == "failed"
    for keys in (None, {"ingest": manifest.key}):  # of the workspace, and as a flow hands it on
        with pytest.raises(
            runner.StageError,
            match="recaption: ingest version .* failed its gate, and is not to be used: ExpectColumn",
        ):
            runner.stage_context("recaption", made, keys)
    [failure] = tracking.end_parent(params.tracking, parent, {"ingest": "<p>the card"}.get)
    assert failure.stage == "ingest" and failure.reason.startswith("gate ingest: ExpectColumn")
    client = tracking.client(params.tracking)
    child, whole = client.get_run(failure.run_id), client.get_run(parent)
    assert child.info.status == whole.info.status == "FAILED"
    assert child.data.tags["failure"] == failure.reason
    assert whole.data.tags["failure"] == f"ingest: {failure.reason}"
    route = f"#/experiments/{child.info.experiment_id}/runs/{child.info.run_id}/artifacts"
    places = list(failure.places())
    for name, tag, file in (
        ("Data Docs of the gate", "failure_page", "pages/index.html"),
        ("card of the step", "failure_card", "pages/card.html"),
    ):
        address = child.data.tags[tag]
        assert address == whole.data.tags[tag] and f"ingest, {name}: {address}" in places
        for run in (child, whole):
            assert f"[{name}]({route}/{file})" in run.data.tags["mlflow.note.content"]
    card = Path(child.data.tags["failure_card"].removeprefix("file://"))
    assert card.read_text() == "<p>the card"
    index = Path(child.data.tags["failure_page"].removeprefix("file://"))
    [shown] = set(re.findall(r"validations/[^'\"]+\.html", index.read_text()))
    assert "Failed" in (index.parent / shown).read_text()
    # Resumed, it ends well: nothing is told of a failure any more.
    tracking.finish_parent(params.tracking, parent, {}, [])
    told = client.get_run(parent)
    assert told.info.status == "FINISHED"
    assert not {"failure", "failure_page", "failure_card", "mlflow.note.content"} & set(told.data.tags)


def test_an_address_on_a_server_is_one_of_its_pages() -> None:
    where = Tracking("https://ann:s3cret@host/base/?token=x", None, "e", "t", "m")
    info = SimpleNamespace(experiment_id="1", run_id="2", artifact_uri="mlflow-artifacts:/1/2/artifacts")
    expected = "https://host/base/#/experiments/1/runs/2/artifacts/pages/index.html"
    assert _address(where, info, "pages/index.html") == expected


def test_a_stage_that_went_well_at_last_has_not_failed(params: Params, tmp_path: Path) -> None:
    parent = tracking.start_parent(params.tracking, "Flow/1", {}, 1)
    begin(params, tmp_path, parent).end(ValueError("once"))
    begin(params, tmp_path, parent).finish(Report("pretrain"))
    assert tracking.end_parent(params.tracking, parent, no_card) == []
    assert tracking.client(params.tracking).get_run(parent).info.status == "KILLED"


def test_runs_of_killed_processes_are_closed_by_the_next(params: Params, tmp_path: Path) -> None:
    code = "import sys; print(flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdin is not None
    process.stdout.readline()
    dead = tracking.start_parent(params.tracking, "Flow/1", {}, process.pid)
    living = tracking.start_parent(params.tracking, "Flow/2", {}, 1)
    begin(params, tmp_path).finish(Report("pretrain"))
    client = tracking.client(params.tracking)
    status = lambda run: client.get_run(run).info.status  # noqa: E731
    assert status(dead) == status(living) == "RUNNING"
    process.kill()
    process.communicate()
    assert process_mark(process.pid) == ""
    run = begin(params, tmp_path, dead)  # its flow was resumed, in another process
    assert status(living) == "RUNNING" and status(dead) == "RUNNING"
    run.end(KeyboardInterrupt())
    tracking.end_parent(params.tracking, dead, no_card)
    assert status(dead) == "KILLED"
    lost = tracking.start_parent(params.tracking, "Flow/3", {}, 1)
    client.set_tag(lost, tracking.PROCESS, process_mark(1) + "0")  # the number is another process's now
    begin(params, tmp_path).finish(Report("pretrain"))
    assert status(lost) == "KILLED"
