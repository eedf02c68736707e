"""Rows, hours and money of a plan against sums by hand, from given throughputs and from a last run."""

from __future__ import annotations

from pathlib import Path

import pytest

from ddt.manifest import Commit, Manifest
from ddt.params import load_params
from pipelines.commands.forecast import GIVEN, LAST_RUN, Forecast, forecast, table
from pipelines.commands.plan import print_plan
from pipelines.reports.cost import ACCELERATOR_HOURS, CORE_HOURS, MONEY
from pipelines.reports.report import Report
from pipelines.reports.workspace import show

PARAMS = Path(__file__).resolve().parents[3] / "params.yaml"
PRICES = ["resources.prices.core_hour=0.05", "resources.prices.accelerator_hour=3.0"]


def by_stage(folder: Path, *settings: str, rows: int | None = None, **assumed: float) -> dict[str, Forecast]:
    params = load_params(PARAMS, None, [f"paths.workspace={folder}", "resources.cpus=4", *PRICES, *settings])
    return {f.stage: f for f in forecast(params, rows, assumed)}


def last_run(
    folder: Path, stage: str, rows: int, size: int, rejects: dict[str, int], **metrics: float
) -> None:
    commit = Commit("1" * 32, "shards/x", rows, size, "2" * 64, rejects)
    report = Report(stage, metrics={name.replace("__", "/"): value for name, value in metrics.items()})
    show(folder, Manifest(stage, "3" * 64, {}, (commit,)), report)


def test_by_throughputs_that_are_given(tmp_path: Path) -> None:
    found = by_stage(
        tmp_path, "resources.throughputs.ingest=1000", "resources.throughputs.recaption=500",
        "resources.gpus_per_actor=0.5", "ingest.scenes.shards=2", "ingest.scenes.rows_per_shard=3000",
        "ingest.scenes.edits_per_shard=0",
    )  # fmt: skip
    ingest, recaption = found["ingest"], found["recaption"]
    assert (ingest.rows, ingest.source, ingest.bytes) == (2 * 3000 + 256, GIVEN, None)
    assert ingest.hours == pytest.approx(6256 / 1000 / 4)
    assert ingest.cost == pytest.approx({CORE_HOURS: 6.256, MONEY: 6.256 * 0.05})
    assert recaption.hours == pytest.approx(6000 / 500 / 2), "four actors of half an accelerator"
    assert recaption.cost[ACCELERATOR_HOURS] == pytest.approx(12)
    assert recaption.cost[MONEY] == pytest.approx(12 * 3 + 4 * 6 * 0.05)
    assert (
        found["score"].source == "not measured" and found["score"].hours is None and not found["score"].cost
    )


def test_by_the_last_run_for_ten_times_as_much(tmp_path: Path) -> None:
    source = f"ingest.source={tmp_path}"
    last_run(tmp_path, "ingest", 900, 90_000, {"too_small": 100}, ingest__pairs=800, ingest__holdout=100,
             **{CORE_HOURS.replace("/", "__"): 0.5})  # fmt: skip
    last_run(tmp_path, "score", 800, 8000, {}, **{CORE_HOURS: 2.0})
    last_run(tmp_path, "select", 500, 5000, {}, **{CORE_HOURS: 0.1})
    last_run(tmp_path, "pretrain", 7, 7000, {}, **{CORE_HOURS: 4.0, "train/consumed_samples": 2000.0})
    found = by_stage(tmp_path, source, "select.keep=4000", rows=10_000)
    assert (found["ingest"].rows, found["ingest"].source) == (10_000, LAST_RUN)
    assert found["ingest"].hours == pytest.approx(10_000 / (1000 / 0.5) / 4)
    assert found["ingest"].bytes == 10_000 * 100
    assert found["score"].rows == 8000 and found["score"].hours == pytest.approx(8000 / 400 / 4)
    assert found["select"].hours == pytest.approx(8000 / (800 / 0.1) / 4), "it works through what was scored"
    assert found["tokenize_images"].rows == 4100
    fit = load_params(PARAMS).pretrain.fit
    assert found["pretrain"].rows == fit.steps * fit.global_batch
    assert found["pretrain"].hours == pytest.approx(found["pretrain"].rows / 500 / 4)
    assert by_stage(tmp_path, source)["ingest"].rows == 1000, "without a number as many as before"
    one = ("resources.train_workers=1", "resources.gpus_per_worker=1")
    on_accelerators = by_stage(tmp_path, source, *one, pretrain=7200.0)
    assert on_accelerators["pretrain"].source == "--tflops", "cores say nothing of accelerators"
    assert on_accelerators["pretrain"].hours == pytest.approx(on_accelerators["pretrain"].rows / 7200)


def test_nothing_is_known_of_a_source_that_nobody_read(tmp_path: Path) -> None:
    found = by_stage(tmp_path, f"ingest.source={tmp_path}")
    assert found["ingest"].rows is None and found["recaption"].rows is None
    lines = table(list(found.values()), "USD")
    assert lines[1][:6] == ["ingest", "?", "?", "?", "not measured", "?"]
    assert len({len(line) for line in lines}) == 1 and lines[-1][0] == "all"


def test_the_plan_prints_sums(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last_run(tmp_path / "w", "ingest", 900, 90_000, {}, ingest__pairs=900, **{CORE_HOURS: 0.5})
    places = [f"paths.workspace={tmp_path}/w", f"paths.store={tmp_path}/s", "resources.cpus=4", *PRICES]
    given = [f"resources.throughputs.{stage}=100" for stage in ("recaption", "score", "select")]
    print_plan(load_params(PARAMS, None, [*places, *given]))
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.startswith("recaption") and "resources.throughputs" in line)
    pairs = 8 * 3600
    assert row.split()[1:] == [f"{pairs:,}", "?", "100", GIVEN, f"{pairs / 400:.3g}", f"{pairs / 100:.2f}",
                               f"{pairs / 100 * 0.05:.2f}", "USD"]  # fmt: skip
    assert any(line.startswith("all ") and "and more" in line for line in lines)
    with pytest.raises(ValueError, match="resources.throughputs.nothing: expected one of ingest"):
        print_plan(load_params(PARAMS, None, [*places, "resources.throughputs.nothing=1"]))
