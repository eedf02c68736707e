"""What a run would take: rows, bytes, hours and money of each stage.

From throughputs in rows an hour of a core, or of an accelerator where the stage has them: those of
`resources.throughputs`, else those of the last run that the workspace shows. What neither tells is left
open: a guess would be taken for a measurement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ddt.manifest import Manifest
from ddt.params import Params
from ddt.sections.run import TRAININGS
from pipelines.engine.cluster import local_cpus
from pipelines.engine.graph import STAGES, longest_chain
from pipelines.reports.cost import ACCELERATOR_HOURS, CORE_HOURS, cost_of, cost_row, total
from pipelines.reports.report import Report
from pipelines.reports.workspace import manifest_path, report_path

SCENES, HELD_OUT_SCENES = "scenes", 256  # as `ingest` draws them
OF_PAIRS = ("recaption", "score", "select")
ONCE = ("evaluate", "promote")  # their time does not follow a number of rows: that of the last run
GIVEN, LAST_RUN = "resources.throughputs", "the last run"


@dataclass(frozen=True)
class Forecast:
    """Of one stage; None where nothing tells. `rate`: rows an hour of a core, or of an accelerator."""

    stage: str
    rows: int | None
    bytes: int | None
    rate: float | None
    source: str
    hours: float | None
    cost: dict[str, float]


def forecast(
    params: Params, rows: int | None = None, assumed: Mapping[str, float] | None = None
) -> list[Forecast]:
    """Of every stage. rows: samples of the source, where only the user knows; None: the scenes', or those of
    the last run. assumed: rates by stage that stand in for what was not measured.
    """
    last = _Last(Path(params.paths.workspace))
    return [_of_stage(stage, params, last, rows, assumed or {}) for stage in STAGES]


def table(forecasts: list[Forecast], currency: str) -> list[list[str]]:
    """For people; the last row has the sums, its hours those of the stages that can't run side by side."""
    head = ["stage", "rows", "bytes", "rows/h", "by", "hours", "core h", "accel. h", "money"]
    lines = [
        [f.stage, _whole(f.rows), _whole(f.bytes), _number(f.rate), f.source, _number(f.hours)]
        + cost_row(f.cost, currency)
        for f in forecasts
    ]
    known = {f.stage: f.hours for f in forecasts if f.hours is not None}
    open_ = [f.stage for f in forecasts if f.hours is None]
    least = f"{_number(longest_chain(known))}{' and more' if open_ else ''}"
    sums = cost_row(total([f.cost for f in forecasts]), currency)
    return [head, *lines, ["all", "", _whole(sum(f.bytes or 0 for f in forecasts)), "", "", least, *sums]]


class _Last:
    """What the workspace shows of the stages' last run."""

    def __init__(self, workspace: Path) -> None:
        self.reports: dict[str, Report] = {}
        self.manifests: dict[str, Manifest] = {}
        for stage in STAGES:
            if report_path(workspace, stage).is_file() and manifest_path(workspace, stage).is_file():
                self.reports[stage] = Report.load(report_path(workspace, stage))
                self.manifests[stage] = Manifest.load(manifest_path(workspace, stage))

    def read(self, stage: str) -> float | None:
        """Rows that the stage worked through."""
        if stage not in self.reports:
            return None
        if stage in TRAININGS:
            return self.reports[stage].metrics.get("train/consumed_samples")
        if stage == "select":
            return self.read("score")
        if stage in ONCE:
            return 1
        manifest = self.manifests[stage]
        return manifest.rows + sum(manifest.rejects.values())

    def metric(self, stage: str, name: str) -> float | None:
        return self.reports[stage].metrics.get(name) if stage in self.reports else None

    def bytes_a_row(self, stage: str) -> float | None:
        rows = self.manifests[stage].rows if stage in self.manifests else 0
        return self.manifests[stage].bytes / rows if rows else None


def _of_stage(
    stage: str, params: Params, last: _Last, rows: int | None, assumed: Mapping[str, float]
) -> Forecast:
    resources, cores = params.resources, local_cpus(params.resources)
    taken = resources.taken_by(stage, cores)
    own = _rows(stage, params, last, rows)
    written = last.bytes_a_row(stage)
    size = None if own is None or written is None else round(written * (1 if stage in TRAININGS else own))
    rate, source = _rate(stage, params, last, bool(taken[1]), assumed)
    hours = None if own is None or rate is None else own / rate / (taken[1] or taken[0])
    cost = {} if hours is None else cost_of(stage, resources, cores, hours * 3600)
    return Forecast(stage, own, size, rate, source, hours, cost)


def _rows(stage: str, params: Params, last: _Last, rows: int | None) -> int | None:
    scenes, drawn = params.ingest.scenes, params.ingest.source == SCENES
    if stage == "ingest":
        if rows is not None:
            return rows
        if drawn:
            beside = scenes.shards * scenes.edits_per_shard + HELD_OUT_SCENES
            return scenes.shards * scenes.rows_per_shard + beside
        read = last.read("ingest")
        return None if read is None else round(read)
    if stage in OF_PAIRS:
        return _pairs(params, last, rows)
    if stage == "tokenize_images":
        others = [last.metric("ingest", f"ingest/{role}") or 0 for role in ("holdout", "edits", "chat")]
        return params.select.keep + round(sum(others))
    if stage in TRAININGS:
        fit = getattr(params, stage).fit
        return int(fit.steps * fit.global_batch)
    return 1


def _pairs(params: Params, last: _Last, rows: int | None) -> int | None:
    """Of the source's samples those that are pairs and pass `ingest`: as many as of the last run's."""
    pairs, read = last.metric("ingest", "ingest/pairs"), last.read("ingest")
    if rows is None and params.ingest.source == SCENES:
        return params.ingest.scenes.shards * params.ingest.scenes.rows_per_shard
    if rows is None:
        return None if pairs is None else round(pairs)
    return round(rows * pairs / read) if pairs is not None and read else rows


def _rate(
    stage: str, params: Params, last: _Last, accelerated: bool, assumed: Mapping[str, float]
) -> tuple[float | None, str]:
    """Rows an hour of one core or accelerator, and who says so."""
    if stage in params.resources.throughputs:
        return params.resources.throughputs[stage], GIVEN
    read, metric = last.read(stage), ACCELERATOR_HOURS if accelerated else CORE_HOURS
    hours = last.metric(stage, metric)
    on_others = accelerated != bool(last.metric(stage, ACCELERATOR_HOURS))
    if read and hours and not on_others:
        return read / hours, LAST_RUN
    if stage in assumed:
        return assumed[stage], "--tflops"
    return None, "not measured"


def _whole(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
