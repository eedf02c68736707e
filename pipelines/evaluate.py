"""Stage `evaluate`: the benchmarks, each with its floor, ceiling and interval, in one report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ddt.config import to_dict
from ddt.eval.benchmark import Benchmark, Row, Score
from ddt.eval.report import example_grid, write_html, write_json
from ddt.eval.suite import Photographs, does_not_apply, suite
from ddt.manifest import Commit
from ddt.params import EvaluateParams
from ddt.records import read_shard, write_shard
from ddt.store import Store
from pipelines.models import model_folder, model_key
from pipelines.report import Report
from pipelines.runner import StageContext, StageResult
from pipelines.units import Output, UnitWorker, digest_of, run_units

MODULES = ("ddt.eval", "ddt.mllm", "ddt.tokenizer", "ddt.baselines", "ddt.scenes", "pipelines.evaluate")
PICTURED = ("reconstruct", "geneval", "edit")
ROW_SCHEMA = pa.schema(
    [
        *[
            (name, pa.string())
            for name in ("case_id", "task", "prompt", "expected", "data", "output", "reason")
        ],
        ("values", pa.string()),
        ("unseen", pa.bool_()),
        ("seed", pa.int64()),
        ("correct", pa.float64()),
        *[(name, pa.binary()) for name in ("image", "target", "source")],
    ]
)


class EvaluateWorker(UnitWorker):
    """Runs the model on a block of cases of one benchmark."""

    def setup(  # type: ignore[override]
        self, model: str, params: EvaluateParams, photographs: list[str] | None
    ) -> None:
        import torch

        from ddt.mllm import DDTLlama

        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = DDTLlama.from_pretrained(self.store.fetch_tree(model), device)
        self.params = params
        side = self.model.image_tokenizer.config.image_size
        held_out = load_photographs(self.store, photographs, params.cases)
        self.benchmarks = {benchmark.name: benchmark for benchmark in suite(params, side, held_out)}

    def process(self, unit: dict[str, Any], folder: Path) -> Output:
        benchmark = self.benchmarks[unit["benchmark"]]
        cases = benchmark.cases()[unit["start"] : unit["stop"]]
        rows = benchmark.run(self.model, cases, self.params.batch_size)
        path = folder / "rows.arrow"
        write_shard(path, rows, ROW_SCHEMA)
        return Output(path, len(rows), stats={"benchmark": benchmark.name, "start": unit["start"]})


def run(ctx: StageContext) -> StageResult:
    """Run every benchmark that applies; the rest is named with the reason."""
    from ddt.baselines.kinds import load_image_tokenizer

    params: EvaluateParams = ctx.section
    shards = photograph_shards(ctx)
    held_out = load_photographs(ctx.store, shards, params.cases)
    tokenizer = load_image_tokenizer(model_folder(ctx.store, ctx.inputs["train_tokenizer"]))
    benchmarks = suite(params, tokenizer.config.image_size, held_out)
    units = [
        unit for benchmark in benchmarks for unit in blocks(ctx.fingerprint, benchmark, params.batch_size)
    ]
    model = model_key(ctx.inputs["finetune"])
    made = run_units(ctx, EvaluateWorker, units, model=model, params=params, photographs=shards)
    rows = {benchmark.name: read_rows(ctx.store, made, benchmark.name) for benchmark in benchmarks}
    scores = {
        name: score
        for benchmark in benchmarks
        for name, score in benchmark.summarize(rows[benchmark.name]).items()
    }
    report = _report(ctx, benchmarks, rows, scores)
    left_out = does_not_apply(params, held_out)
    report.notes += [f"{name}: {reason}." for name, reason in left_out.items()]
    if held_out is not None and ctx.params.ingest.holdout is None:
        report.notes.append("No ingest.holdout is set: reconstruction is measured on training images.")
    settings = {
        "sampling": to_dict(ctx.params.finetune.sampling),
        "evaluate": to_dict(params),
        "model": ctx.inputs["finetune"].digest,
        "tokenizer": ctx.inputs["train_tokenizer"].digest,
        "data": ctx.inputs["ingest"].digest,
    }
    write_json(ctx.folder / "scores.json", scores, left_out, settings)
    write_html(ctx.folder / "report.html", benchmarks, rows, scores, left_out, settings)
    report.pages["Evaluation report"] = ctx.relative(ctx.folder / "report.html")
    return StageResult(made, report)


def photograph_shards(ctx: StageContext) -> list[str] | None:
    """Record shards to evaluate on where the source is real: the held-out ones, else the training ones."""
    if ctx.params.ingest.source == "scenes":
        return None
    commits = ctx.inputs["ingest"].commits
    for role in ("holdout", "pairs"):
        found = [c.key for c in commits if c.stats["role"] == role and c.rows]
        if found:
            return found
    return []


def load_photographs(store: Store, shards: list[str] | None, most: int) -> Photographs | None:
    """The first `most` records of `shards`; None for scenes, which draw their own."""
    if shards is None:
        return None
    images: list[bytes] = []
    captions: list[str] = []
    for key in shards:
        table = read_shard(store.fetch(key), ["image", "caption"]).slice(0, most - len(images))
        images += table["image"].to_pylist()
        captions += table["caption"].to_pylist()
    return Photographs(images, captions)


def blocks(fingerprint: str, benchmark: Benchmark, size: int) -> list[dict[str, Any]]:
    """A benchmark's cases as units of `size` cases."""
    total = len(benchmark.cases())
    units = []
    for start in range(0, total, size):
        name = digest_of([fingerprint, benchmark.name, start])[:32]
        stop = min(start + size, total)
        units.append({"unit": name, "benchmark": benchmark.name, "start": start, "stop": stop})
    return units


def read_rows(store: Store, made: Sequence[Commit], benchmark: str) -> list[Row]:
    """All rows of a benchmark, in the order of its cases."""
    mine = sorted((c for c in made if c.stats["benchmark"] == benchmark), key=lambda c: c.stats["start"])
    return [row for c in mine for row in read_shard(store.fetch(c.key)).to_pylist()]


def _report(
    ctx: StageContext, benchmarks: Sequence[Benchmark], rows: dict[str, list[Row]], scores: dict[str, Score]
) -> Report:
    report = Report("evaluate")
    report.metrics = {name: score.value for name, score in scores.items()}
    header = ["metric", "score", "95 % interval", "floor", "ceiling", "n"]
    report.tables["Scores"] = [header, *[_score_row(name, score) for name, score in scores.items()]]
    for benchmark in benchmarks:
        if benchmark.name in PICTURED:
            path = ctx.folder / f"{benchmark.name}.png"
            example_grid(benchmark, rows[benchmark.name]).save(path)
            report.pictures[benchmark.title] = ctx.relative(path)
    return report


def _score_row(name: str, score: Score) -> list[str]:
    def show(value: float | None) -> str:
        return "" if value is None else f"{value:.3f}"

    floor = f"{show(score.floor)} ({score.floor_is})" if score.floor is not None else ""
    interval = f"{show(score.low)} to {show(score.high)}"
    return [name, show(score.value), interval, floor, show(score.ceiling), str(score.n)]
