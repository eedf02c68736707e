"""Stage `select`: filters, duplicates, then exactly K pairs with the highest score, checked by a gate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ddt.data.dedup import DESCRIPTOR_BYTES, find_duplicates
from ddt.data.schemas import PAIR_SCHEMA
from ddt.data.topk import select_top_k
from ddt.manifest import Commit, unit_id
from ddt.records import read_columns, read_shard, write_shard
from ddt.sections.curation import SelectParams
from ddt.store import Store
from pipelines.engine.runner import StageContext, StageError, StageResult
from pipelines.engine.units import Output, UnitWorker, digest_of, run_units
from pipelines.reports.curation import planted_selection
from pipelines.reports.overhead import overhead
from pipelines.reports.pictures import record_grid, score_histogram
from pipelines.reports.report import Report
from pipelines.services.expectations import Expectation, GateResult, validate

MODULES = ("ddt.data.topk", "ddt.data.dedup", "ddt.data.order", "pipelines.select")
KEPT, BELOW = "kept", "below_top_k"
GATE_SAMPLE_ROWS = 2000


@dataclass
class Shard:
    """One record shard's rows side by side: what the filters look at and the verdict on each row."""

    records: str
    captions: str
    digest: str
    ids: np.ndarray  # hex strings
    scores: np.ndarray  # float32, what rows are ranked by
    native: np.ndarray
    image_sha256: np.ndarray  # uint8[n, 32]
    descriptors: np.ndarray  # uint8[n, D], what near duplicates are found by
    planted: list[str | None]
    verdicts: np.ndarray  # object: reason, KEPT or BELOW

    def passing(self) -> np.ndarray:
        """Mask of the rows no filter dropped."""
        return self.verdicts == KEPT


class SelectWorker(UnitWorker):
    """Writes the selected pairs of one record shard: both captions and the score, no images."""

    def process(self, unit: dict[str, Any], folder: Path) -> Output:
        records = read_columns(self.store.open(unit["records"]), ["sample_id", "caption"]).take(unit["kept"])
        captions = read_shard(self.store.fetch(unit["captions"]), ["long_caption"]).take(unit["kept"])
        columns = [*(c.to_pylist() for c in (*records.columns, *captions.columns)), unit["scores"]]
        rows = [dict(zip(PAIR_SCHEMA.names, row, strict=True)) for row in zip(*columns, strict=True)]
        path = folder / "pairs.arrow"
        write_shard(path, rows, PAIR_SCHEMA)
        stats = {"records": unit["records"], "mean_score": float(np.mean(unit["scores"])) if rows else 0.0}
        return Output(path=path, rows=len(rows), stats=stats)


def run(ctx: StageContext) -> StageResult:
    """Select exactly `keep` pairs; stops when fewer pass the filters or when the gate fails."""
    params: SelectParams = ctx.section
    shards = _load(ctx)
    kept_instead = _drop_duplicates(shards, params)
    available = sum(int(shard.passing().sum()) for shard in shards)
    if available < params.keep:
        dropped = Counter(v for shard in shards for v in shard.verdicts if v != KEPT)
        raise StageError(
            f"select: {available} pairs pass the filters, select.keep asks for {params.keep} "
            f"(dropped: {', '.join(f'{k} {v}' for k, v in dropped.most_common())})"
        )
    threshold, ties = _keep_top(shards, params)
    made = run_units(ctx, SelectWorker, [_unit(shard, ctx.fingerprint) for shard in shards])
    with overhead("great_expectations"):
        gate = check_pairs(ctx.store, made, params, ctx.folder)
    report = _report(ctx, shards, kept_instead, gate)
    report.metrics |= {"select/threshold": threshold, "select/ties_at_threshold": ties}
    gate.require("select")
    return StageResult(made, report)


def check_pairs(store: Store, made: Sequence[Commit], params: SelectParams, folder: Path) -> GateResult:
    """The gate on the curated data: the selection as a whole, its shards, and a seeded sample of rows."""
    rows = pa.concat_tables([read_shard(store.fetch(c.key)) for c in _sample(made, params.seed)]).to_pandas()
    if len(rows) > GATE_SAMPLE_ROWS:
        rows = rows.sample(GATE_SAMPLE_ROWS, random_state=params.seed)
    rows["short_words"] = rows["short"].str.split().str.len()
    rows["long_words"] = rows["long"].str.split().str.len()
    total = sum(c.rows for c in made)
    mean = sum(c.rows * c.stats["mean_score"] for c in made) / max(1, total)
    selection = pd.DataFrame({"pairs": [total], "mean_score": [mean]})

    def between(column: str, low: float | None, high: float | None = None) -> Expectation:
        limits = {k: v for k, v in (("min_value", low), ("max_value", high)) if v is not None}
        return Expectation("ExpectColumnValuesToBeBetween", {"column": column, **limits})

    selection_expectations = [
        between("pairs", params.keep, params.keep),
        between("mean_score", params.gate_min_mean_score),
    ]
    row_expectations = [
        Expectation("ExpectColumnValuesToBeUnique", {"column": "sample_id"}),
        Expectation("ExpectColumnValuesToNotBeNull", {"column": "short"}),
        Expectation("ExpectColumnValuesToNotBeNull", {"column": "long"}),
        between("score", -1.0, 1.0),
        between("short_words", params.min_caption_words),
        between("long_words", 1, params.gate_max_long_caption_words),
    ]
    tables = {"selection": (selection, selection_expectations), "rows": (rows, row_expectations)}
    return validate("select", tables, folder)


def _sample(made: Sequence[Commit], seed: int, most: int = 16) -> list[Commit]:
    order = np.random.default_rng(seed).permutation(len(made))[:most]
    return [made[i] for i in sorted(order)]


def _load(ctx: StageContext) -> list[Shard]:
    shards = []
    for commit in ctx.inputs["score"].commits:
        records = read_columns(ctx.store.open(commit.stats["records"]), ["caption", "planted"])
        scores = read_shard(ctx.store.fetch(commit.key))
        native, generated = scores["native_score"].to_numpy(), scores["generated_score"].to_numpy()
        rank = {"native": native, "generated": generated, "mean": (native + generated) / 2}
        shards.append(
            Shard(
                records=commit.stats["records"],
                captions=commit.stats["captions"],
                digest=commit.sha256,
                ids=np.array(scores["sample_id"].to_pylist(), dtype=object),
                scores=rank[ctx.section.rank_by].astype(np.float32),
                native=native,
                image_sha256=_bytes_rows(scores["image_sha256"], 32),
                descriptors=_bytes_rows(scores["descriptor"], DESCRIPTOR_BYTES),
                planted=records["planted"].to_pylist(),
                verdicts=_filter(records["caption"].to_pylist(), native, generated, ctx.section),
            )
        )
    return shards


def _filter(
    captions: list[str], native: np.ndarray, generated: np.ndarray, params: SelectParams
) -> np.ndarray:
    words = np.array([len(caption.split()) for caption in captions])
    verdicts = np.full(len(captions), KEPT, dtype=object)
    verdicts[generated < params.min_generated_score] = "low_generated_score"
    verdicts[native < params.min_native_score] = "low_native_score"
    verdicts[words < params.min_caption_words] = "short_caption"
    return verdicts


def _drop_duplicates(shards: list[Shard], params: SelectParams) -> np.ndarray:
    """Of rows that pass the filters and show the same picture, only the one with the best score passes.

    Returns for each row, int64 numbers through all shards, the row kept in its stead; itself if no duplicate.
    """
    passing = [np.flatnonzero(shard.passing()) for shard in shards]
    numbers = np.flatnonzero(np.concatenate([shard.passing() for shard in shards]))

    def all_rows(column: str) -> np.ndarray:
        return np.concatenate([getattr(s, column)[rows] for s, rows in zip(shards, passing, strict=True)])

    found = find_duplicates(
        all_rows("image_sha256"),
        all_rows("descriptors"),
        all_rows("scores"),
        _id_bytes(all_rows("ids")),
        near=params.drop_near_duplicates,
    )
    names = np.array([KEPT, "duplicate", "near_duplicate"], dtype=object)  # by find_duplicates' numbers
    splits = np.cumsum([len(rows) for rows in passing])[:-1]
    for shard, rows, verdicts in zip(shards, passing, np.split(found.verdicts, splits), strict=True):
        shard.verdicts[rows] = names[verdicts]
    kept_instead = np.arange(sum(len(shard.ids) for shard in shards))
    kept_instead[numbers] = numbers[found.kept_instead]
    return kept_instead


def _keep_top(shards: list[Shard], params: SelectParams) -> tuple[float, int]:
    def part(shard: Shard) -> tuple[np.ndarray, np.ndarray]:
        passing = shard.passing()
        return _id_bytes(shard.ids[passing]), shard.scores[passing]

    selection = select_top_k([partial(part, shard) for shard in shards], params.keep, params.seed)
    for shard in shards:
        passing = shard.passing()
        kept = selection.keep(_id_bytes(shard.ids[passing]), shard.scores[passing])
        shard.verdicts[np.flatnonzero(passing)[~kept]] = BELOW
    return float(selection.threshold), int(selection.num_ties)


def _bytes_rows(column: pa.ChunkedArray, width: int) -> np.ndarray:
    """A binary column of equal lengths as uint8[n, width]; n is 0 where a shard held nothing usable."""
    return np.frombuffer(b"".join(column.to_pylist()), np.uint8).reshape(len(column), width)


def _id_bytes(ids: np.ndarray) -> np.ndarray:
    return np.frombuffer(bytes.fromhex("".join(ids)), np.uint8).reshape(-1, 32)


def _unit(shard: Shard, fingerprint: str) -> dict[str, Any]:
    kept = np.flatnonzero(shard.passing()).tolist()  # rows, not ids: exact copies share one id
    return {
        "unit": unit_id(digest_of([shard.digest, kept]), fingerprint),
        "records": shard.records,
        "captions": shard.captions,
        "kept": kept,
        "scores": [float(s) for s in shard.scores[kept]],
    }


def _report(ctx: StageContext, shards: list[Shard], kept_instead: np.ndarray, gate: GateResult) -> Report:
    report = Report("select")
    verdicts = [str(v) for shard in shards for v in shard.verdicts]
    report.metrics = {f"select/{name}": count for name, count in sorted(Counter(verdicts).items())}
    report.metrics["select/gate_expectations"] = gate.checked
    planted = [name for shard in shards for name in shard.planted]
    if any(planted):
        report.metrics |= planted_selection(planted, verdicts, kept_instead.tolist())
    report.pages["Data Docs of the gate"] = ctx.relative(gate.page)
    native = {
        name: np.concatenate([s.native[s.passing() == keep] for s in shards])
        for name, keep in (("kept", True), ("dropped", False))
    }
    path = ctx.folder / "scores.png"
    score_histogram(native).save(path)
    report.pictures["CLIP score of the native caption, kept and dropped"] = ctx.relative(path)
    for title, name, wanted in (("Kept pairs", "kept.png", True), ("Dropped pairs", "dropped.png", False)):
        rows = _examples(ctx, shards[0], wanted)
        if rows:
            record_grid(rows).save(ctx.folder / name)
            report.pictures[title] = ctx.relative(ctx.folder / name)
    return report


def _examples(ctx: StageContext, shard: Shard, wanted: bool, most: int = 16) -> list[dict[str, Any]]:
    chosen = np.flatnonzero(shard.passing() == wanted)[:most]
    table = read_shard(ctx.store.fetch(shard.records), ["image", "caption"])
    rows = table.take(chosen).to_pylist()
    for row, index in zip(rows, chosen, strict=True):
        row["note"] = f"{shard.native[index]:.2f}" if wanted else str(shard.verdicts[index])
    return rows
