"""Stage `score`: CLIP score of the native and of the generated caption, and what duplicates are found by."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from ddt.data.ahead import ahead
from ddt.data.decode import decode_rgb
from ddt.data.descriptor import descriptor
from ddt.data.refs import model_digest
from ddt.data.schemas import SCORE_SCHEMA
from ddt.manifest import unit_id
from ddt.records import read_shard, write_shard
from ddt.sections.curation import ScoreParams
from pipelines.engine.runner import StageContext, StageResult
from pipelines.engine.units import Output, UnitWorker, digest_of, run_most_units
from pipelines.reports.pictures import score_histogram
from pipelines.reports.report import Report

MODULES = (
    "ddt.data.clip_score",
    "ddt.data.decode",
    "ddt.data.descriptor",
    "ddt.data.metadata",
    "ddt.data.pretrained",
    "pipelines.score",
)
BY_SHARD = ("ingest", "recaption")


def models(section: ScoreParams) -> dict[str, str]:
    """Digest of the CLIP model."""
    return {"clip": model_digest(section.model)}


class ScoreWorker(UnitWorker):
    """Scores one record shard with its generated captions."""

    def setup(self, params: ScoreParams) -> None:  # type: ignore[override]
        import torch  # here: only workers need it

        from ddt.data.clip_score import ClipScorer

        self.params, self.threads = params, torch.get_num_threads()  # the actor's cores
        self.scorer = ClipScorer(params.model)

    def process(self, unit: dict[str, Any], folder: Path) -> Output:
        records = read_shard(self.store.fetch(unit["records"]), ["sample_id", "image", "caption"])
        captions = read_shard(self.store.fetch(unit["captions"]))
        if records["sample_id"] != captions["sample_id"]:
            raise ValueError(f"{unit['captions']} does not hold the captions of {unit['records']}")
        rows, size = [], self.params.batch_size
        merged = records.append_column("long_caption", captions["long_caption"])
        batches = [merged.slice(start, size) for start in range(0, len(merged), size)]
        images = [batch["image"] for batch in batches]
        for batch, seen in zip(batches, ahead(self._look, images, self.threads), strict=True):
            rows += self._score(batch, seen)
        path = folder / "scores.arrow"
        write_shard(path, rows, SCORE_SCHEMA)
        native = np.array([row["native_score"] for row in rows])
        generated = np.array([row["generated_score"] for row in rows])
        stats = {
            "records": unit["records"],
            "captions": unit["captions"],
            "native_mean": _mean(native),
            "generated_mean": _mean(generated),
        }
        return Output(path=path, rows=len(rows), stats=stats)

    def _look(self, encoded: pa.BinaryScalar) -> tuple[Image.Image, dict[str, bytes]]:
        """A picture as CLIP takes it, and what its duplicates are found by."""
        data, image_input = encoded.as_py(), self.scorer.image_input
        picture = decode_rgb(data, image_input.side_px)
        look = {"image_sha256": hashlib.sha256(data).digest(), "descriptor": descriptor(picture)}
        return image_input.fit(picture), look

    def _score(
        self, batch: pa.Table, seen: Sequence[tuple[Image.Image, dict[str, bytes]]]
    ) -> list[dict[str, Any]]:
        images, looks = zip(*seen, strict=True)
        texts = batch.select(["sample_id", "caption", "long_caption"]).to_pydict()
        native, generated = self.scorer.scores(images, texts["caption"], texts["long_caption"])
        generated[[not text for text in texts["long_caption"]]] = (
            np.nan
        )  # rejected: there is nothing to score
        return [
            {"sample_id": name, "native_score": float(a), "generated_score": float(b), **look}
            for name, a, b, look in zip(texts["sample_id"], native, generated, looks, strict=True)
        ]


def run(ctx: StageContext) -> StageResult:
    """Score every recaptioned record."""
    units = []
    for c in ctx.inputs["recaption"].commits:
        records = c.stats["records"]
        digest = digest_of([records, c.key])
        units.append({"unit": unit_id(digest, ctx.fingerprint), "records": records, "captions": c.key})
    made, missing = run_most_units(ctx, ScoreWorker, units, params=ctx.section)
    scores = pa.concat_tables([read_shard(ctx.store.fetch(c.key)) for c in made[:16]])
    native, generated = scores["native_score"].to_numpy(), scores["generated_score"].to_numpy()
    report = Report("score")
    report.metrics = {
        "score/rows": sum(c.rows for c in made),
        "score/native_mean": _mean(native),
        "score/generated_mean": _mean(generated),
    }
    path = ctx.folder / "scores.png"
    there = {"native": native, "generated": generated}
    score_histogram({name: scores[np.isfinite(scores)] for name, scores in there.items()}).save(path)
    report.pictures["CLIP scores"] = ctx.relative(path)
    return StageResult(made, report, quarantined=missing)


def _mean(scores: np.ndarray) -> float:
    """Of those that there are; 0 where there is none."""
    there = scores[np.isfinite(scores)]
    return float(there.mean()) if len(there) else 0.0
