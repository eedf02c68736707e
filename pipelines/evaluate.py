"""Stage `evaluate`: the benchmarks, each with its floor, ceiling and interval, in one report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from ddt.config import to_dict
from ddt.data.decode import decode_image
from ddt.eval.benchmark import Benchmark, Row
from ddt.eval.report.compare import text_rows
from ddt.eval.report.evaluation import Evaluation, write_html, write_json
from ddt.eval.report.pictures import png_bytes
from ddt.eval.report.results import Result, example_sheet, score_table
from ddt.eval.report.tasks import SHOWN, tasks_sheet
from ddt.eval.suite import Photographs, does_not_apply, suite
from ddt.manifest import Commit
from ddt.records import read_shard, write_shard
from ddt.sections.quality import EvaluateParams
from ddt.store import Store
from pipelines.engine.runner import StageContext, StageResult
from pipelines.engine.units import Output, UnitWorker, digest_of, run_units
from pipelines.reports.pictures import paper_plot
from pipelines.reports.recursion import recursion_pictures
from pipelines.reports.report import SCORES, Report
from pipelines.services.models import model_folder, model_key

MODULES = (
    "ddt.eval", "ddt.mllm", "ddt.tokenizer", "ddt.baselines", "ddt.scenes", "ddt.data.decode",
    "ddt.data.metadata", "pipelines.evaluate",
)  # fmt: skip
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
        held_out = load_photographs(self.store, photographs, params.cases, side)
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
    params: EvaluateParams = ctx.section
    shards = photograph_shards(ctx)
    _, _, benchmarks = _suite(ctx)
    units = [
        unit for benchmark in benchmarks for unit in blocks(ctx.fingerprint, benchmark, params.batch_size)
    ]
    model = model_key(ctx.inputs["finetune"])
    made = run_units(ctx, EvaluateWorker, units, model=model, params=params, photographs=shards)
    evaluation = evaluation_of(ctx, made)
    report = Report("evaluate")
    tasks = tasks_sheet({name: read_rows(ctx.store, made, name) for name in SHOWN})
    if tasks is not None:
        _picture(ctx, report, "What the model does: draws, edits, captions, answers", "tasks", tasks)
    _tell(ctx, report, evaluation)
    if shards is not None and ctx.params.ingest.holdout is None:
        report.notes.append("No ingest.holdout is set: reconstruction is measured on training images.")
    write_json(ctx.folder / "scores.json", evaluation)
    write_html(ctx.folder / "report.html", evaluation)
    report.pages["Evaluation report"] = ctx.relative(ctx.folder / "report.html")
    report.pages["Numbers"] = ctx.relative(ctx.folder / "scores.json")
    return StageResult(made, report, {SCORES: report.scores})


def evaluation_of(ctx: StageContext, made: Sequence[Commit]) -> Evaluation:
    """Scores, pictures and settings from the rows that the units made."""
    side_px, held_out, benchmarks = _suite(ctx)
    rows = {benchmark.name: read_rows(ctx.store, made, benchmark.name) for benchmark in benchmarks}
    return Evaluation(
        [_result(benchmark, rows[benchmark.name]) for benchmark in benchmarks],
        f"{'scenes' if held_out is None else 'photographs'} of {side_px} px",
        _settings(ctx),
        does_not_apply(ctx.section, held_out),
    )


def _result(benchmark: Benchmark, rows: Sequence[Row]) -> Result:
    """A benchmark's outcome; of recursion with its plots."""
    result = Result.of(benchmark, rows)
    return replace(result, pictures=recursion_pictures(rows)) if benchmark.name == "recursion" else result


def _suite(ctx: StageContext) -> tuple[int, Photographs | None, list[Benchmark]]:
    """The pictures' side, the photographs where the data are real, and the benchmarks that apply."""
    from ddt.baselines.kinds import load_image_tokenizer

    tokenizer = load_image_tokenizer(model_folder(ctx.store, ctx.inputs["train_tokenizer"]))
    side_px = tokenizer.config.image_size
    held_out = load_photographs(ctx.store, photograph_shards(ctx), ctx.section.cases, side_px)
    return side_px, held_out, suite(ctx.section, side_px, held_out)


def _settings(ctx: StageContext) -> dict[str, Any]:
    """What every score was measured with and on."""
    return {
        "sampling": to_dict(ctx.params.finetune.sampling),
        "evaluate": to_dict(ctx.section),
        "model": ctx.inputs["finetune"].digest,
        "model folder": ctx.inputs["finetune"].commits[0].sha256,
        "tokenizer": ctx.inputs["train_tokenizer"].digest,
        "data": ctx.inputs["ingest"].digest,
    }


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


def load_photographs(store: Store, shards: list[str] | None, most: int, side_px: int) -> Photographs | None:
    """The first `most` records of `shards`, as the squares that a tokenizer of `side_px` takes of them.

    None for scenes, which draw their own.
    """
    if shards is None:
        return None
    images: list[bytes] = []
    captions: list[str] = []
    for key in shards:
        table = read_shard(store.fetch(key), ["image", "caption"]).slice(0, most - len(images))
        images += [png_bytes(decode_image(image.as_py(), side_px)) for image in table["image"]]
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


def _tell(ctx: StageContext, report: Report, evaluation: Evaluation) -> None:
    scores = evaluation.scores
    report.metrics = {name: score.value for name, score in scores.items()}
    report.scores = {name: score.to_dict() for name, score in scores.items()}
    report.notes = [f"{name}: {reason}." for name, reason in evaluation.left_out.items()]
    report.notes.append("Measured on: " + json.dumps(evaluation.settings))
    tables = evaluation.tables()
    for table, lines in tables:
        report.tables[f"Beside the paper's Table {table.number}: {table.title}"] = text_rows(lines)
    report.tables["Scores"] = score_table(scores)
    _picture(ctx, report, "Beside the paper", "beside_the_paper", paper_plot(tables))
    for result in evaluation.results:
        for i, (title, image) in enumerate(result.pictures.items()):
            _picture(ctx, report, title, f"{result.name}_{i}", image)
        sheet = None if result.pictures else example_sheet(result)
        if sheet is not None:
            _picture(ctx, report, result.title, result.name, sheet)


def _picture(ctx: StageContext, report: Report, title: str, name: str, image: Image.Image) -> None:
    path = ctx.folder / f"{name}.png"
    image.save(path)
    report.pictures[title] = ctx.relative(path)
