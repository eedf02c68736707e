"""Stage `recaption`: a detailed caption for each image, by a LLaVA-class model (ShareGPT-4V in the paper)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ddt.data.refs import model_digest
from ddt.data.schemas import CAPTION_SCHEMA
from ddt.manifest import unit_id
from ddt.records import read_shard, write_shard
from ddt.sections.curation import RecaptionParams
from pipelines.engine.runner import StageContext, StageResult
from pipelines.engine.units import Output, UnitWorker, run_most_units
from pipelines.reports.pictures import captioned_grid
from pipelines.reports.report import Report

MODULES = (
    "ddt.data.captioner",
    "ddt.data.decode",
    "ddt.data.metadata",
    "ddt.data.pretrained",
    "pipelines.recaption",
)
BY_SHARD = ("ingest",)


def models(section: RecaptionParams) -> dict[str, str]:
    """Digest of the captioner: another model gives another dataset."""
    return {"captioner": model_digest(section.model)}


class RecaptionWorker(UnitWorker):
    """Captions the images of one record shard."""

    def setup(self, params: RecaptionParams) -> None:  # type: ignore[override]
        from ddt.data.captioner import Captioner  # here: only workers need torch

        self.params = params
        self.captioner = Captioner(params.model, prompt=params.prompt, max_new_tokens=params.max_new_tokens)

    def process(self, unit: dict[str, Any], folder: Path) -> Output:
        table = read_shard(self.store.fetch(unit["records"]), ["sample_id", "image"])
        rows = []
        for start in range(0, len(table), self.params.batch_size):
            batch = table.slice(start, self.params.batch_size)
            images = [self.captioner.read(data.as_py()) for data in batch["image"]]
            captions = self.captioner.caption(images)
            ids = batch["sample_id"].to_pylist()
            rows += [{"sample_id": i, "long_caption": c} for i, c in zip(ids, captions, strict=True)]
        path = folder / "captions.arrow"
        write_shard(path, rows, CAPTION_SCHEMA)
        words = [len(row["long_caption"].split()) for row in rows]
        stats = {"records": unit["records"], "words": sum(words), "empty": sum(w == 0 for w in words)}
        return Output(path=path, rows=len(rows), stats=stats)


def run(ctx: StageContext) -> StageResult:
    """Caption every training record."""
    pairs = [c for c in ctx.inputs["ingest"].commits if c.stats["role"] == "pairs"]
    units = [{"unit": unit_id(c.key, ctx.fingerprint), "records": c.key} for c in pairs]
    made, missing = run_most_units(ctx, RecaptionWorker, units, params=ctx.section)
    report = Report("recaption")
    rows = sum(c.rows for c in made)
    report.metrics = {
        "recaption/captions": rows,
        "recaption/words_per_caption": sum(c.stats["words"] for c in made) / max(1, rows),
        "recaption/empty": sum(c.stats["empty"] for c in made),
    }
    first = next(c for c in made if c.rows)  # a source shard that held nothing usable has none
    images = read_shard(ctx.store.fetch(first.stats["records"]), ["image"]).slice(0, 8)
    captions = read_shard(ctx.store.fetch(first.key)).slice(0, 8)
    path = ctx.folder / "captions.png"
    captioned_grid(images["image"].to_pylist(), captions["long_caption"].to_pylist()).save(path)
    report.pictures["Generated captions"] = ctx.relative(path)
    return StageResult(made, report, quarantined=missing)
