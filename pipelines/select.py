"""Stage `select`: filters, duplicates, then exactly K pairs with the highest score, checked by a gate.

The driver holds counts and names of shards, no rows. Workers judge the rows of some record shards and deal
those that pass the filters out by what they look like (`filter`); find duplicates in each deal
(`duplicates`); bring together what was found of the rows of a group of shards (`survivors`); count them,
digit by digit, until the K-th score is known; and write each shard's pairs. What they hand to each other is
removed once the pairs are there.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ddt.data.dedup import (
    DUPLICATE,
    FOUND,
    NEAR_DUPLICATE,
    STANDS_FOR_CLEAN,
    bands,
    deal,
    entry_kind,
    find_in_deal,
)
from ddt.data.descriptor import DESCRIPTOR_BYTES
from ddt.data.parts import read_part, read_parts, write_parts
from ddt.data.schemas import PAIR_SCHEMA
from ddt.data.topk import TopK, TopKSearch, digit_counts, tie_hash
from ddt.data.verdicts import BELOW, KEPT, KINDS, ROW, SCORE_EDGES, VERDICTS, Tally, kind_codes
from ddt.manifest import Commit, commits, shard_prefix, unit_id, unit_prefix, write_unit
from ddt.records import read_columns, read_shard, write_shard
from ddt.sections.curation import SelectParams
from ddt.store import Store, open_store
from pipelines.engine.cluster import add_up, connect
from pipelines.engine.runner import StageContext, StageError, StageResult
from pipelines.engine.units import Output, UnitWorker, run_units
from pipelines.reports.curation import planted_selection
from pipelines.reports.overhead import overhead
from pipelines.reports.pictures import record_grid, score_counts
from pipelines.reports.report import Report
from pipelines.services.expectations import Expectation, GateResult, validate

MODULES = (
    "ddt.data.topk",
    "ddt.data.dedup",
    "ddt.data.descriptor",
    "ddt.data.order",
    "ddt.data.parts",
    "ddt.data.verdicts",
    "pipelines.select",
)
MAX_GROUPS = 4096  # of record shards: at 400 M rows a group has some 100,000, of which 2 GB are dealt out
DEAL_ROWS = 1 << 20  # of a deal, on average: 1.2 GB on a worker's disk, 0.4 GB in its memory
STEPS = ("filter", "duplicates", "survivors")
GATE_SAMPLE_ROWS, GATE_SAMPLE_SHARDS, GATE_THRESHOLD_SHARDS = 2000, 16, 4
GATE_OUTSIDE = 0.01  # of the long captions of a shard: one of 200 M that is empty stops nothing
EXAMPLES = 16


@dataclass(frozen=True)
class Plan:
    """Which score shards make a group, and how many deals there are of each band."""

    groups: list[list[Commit]]
    deals: int
    rows: int

    @classmethod
    def of(cls, scores: Sequence[Commit]) -> Plan:
        """Shards are numbered in the manifest's order, which their content decides."""
        rows = sum(c.rows for c in scores)
        size = -(-len(scores) // MAX_GROUPS)
        groups = [list(scores[start : start + size]) for start in range(0, len(scores), size)]
        return cls(groups, max(1, -(-rows // DEAL_ROWS)), rows)

    @property
    def first_shards(self) -> list[int]:
        """The number of each group's first shard."""
        return np.cumsum([0, *(len(group) for group in self.groups)])[:-1].tolist()


class FilterWorker(UnitWorker):
    """Judges the rows of a group of shards and deals out those that pass: first the deals, then the rows."""

    def setup(self, params: SelectParams, deals: int, rows: int) -> None:  # type: ignore[override]
        self.params, self.deals, self.rows = params, deals, rows

    def process(self, unit: dict[str, Any], folder: Path) -> Output:
        near = self.params.drop_near_duplicates
        judged = [self._judge(number, **shard) for number, shard in enumerate(unit["shards"], unit["first"])]
        entries = np.concatenate([entries for _, entries in judged])
        rows = [rows for rows, _ in judged]
        parts = chain(deal(entries, self.rows, self.deals, near), rows)
        path = folder / "filtered.parts"
        write_parts(path, parts, bands(near) * self.deals + len(rows))
        return Output(path, sum(map(len, rows)))

    def _judge(self, number: int, scores: str, records: str) -> tuple[np.ndarray, np.ndarray]:
        """ROWs of a shard, and entries of those that pass the filters."""
        near = self.params.drop_near_duplicates
        wanted = ["sample_id", "native_score", "generated_score", "image_sha256"]
        table = read_columns(self.store.open(scores), [*wanted, *(["descriptor"] if near else [])])
        texts = read_columns(self.store.open(records), ["caption", "planted"])
        native, generated = table["native_score"].to_numpy(), table["generated_score"].to_numpy()
        rows = np.zeros(len(table), ROW)
        ids = bytes.fromhex("".join(table["sample_id"].to_pylist()))
        rows["id"] = np.frombuffer(ids, np.uint8).reshape(-1, 32)
        ranks = {"native": native, "generated": generated, "mean": (native + generated) / 2}
        rows["score"] = ranks[self.params.rank_by]
        rows["native"] = native
        rows["verdict"] = judge(texts["caption"].to_pylist(), native, generated, self.params)
        rows["planted"] = kind_codes(texts["planted"].to_pylist())
        passing = np.flatnonzero(rows["verdict"] == KEPT)
        entries = np.zeros(len(passing), entry_kind(near))
        entries["score"], entries["clean"] = (
            rows["score"][passing],
            rows["planted"][passing] == KINDS.index("clean"),
        )
        entries["tie"] = tie_hash(rows["id"][passing], self.params.seed)
        entries["shard"], entries["row"] = number, passing
        entries["sha256"] = _bytes_rows(table["image_sha256"], 32)[passing]
        if near:
            entries["descriptor"] = _bytes_rows(table["descriptor"], DESCRIPTOR_BYTES)[passing]
        return rows, entries


class DuplicatesWorker(UnitWorker):
    """Finds the duplicates in one deal, of which every group has a part; tells each group of its rows."""

    def setup(self, filtered: list[str], first_shards: list[int], near: bool) -> None:  # type: ignore[override]
        self.filtered, self.first_shards, self.near = filtered, first_shards, near

    def process(self, unit: dict[str, Any], folder: Path) -> Output:
        kind, local = entry_kind(self.near), folder / "entries"
        with local.open("wb") as sink:
            for key in self.filtered:
                with self.store.open(key) as file:
                    sink.write(read_part(file, unit["deal"], kind).tobytes())
        entries = np.memmap(local, kind, "r") if local.stat().st_size else np.empty(0, kind)
        found = find_in_deal(entries, self.near)
        path = folder / "duplicates.parts"
        groups = np.split(found, np.searchsorted(found["shard"], self.first_shards[1:]))
        return Output(path, write_parts(path, groups, len(groups)))


class SurvivorsWorker(UnitWorker):
    """Brings together what all deals told of a group's rows."""

    def setup(self, found: list[str], deals: int) -> None:  # type: ignore[override]
        self.found, self.deals = found, deals

    def process(self, unit: dict[str, Any], folder: Path) -> Output:
        told = []
        for key in self.found:
            with self.store.open(key) as file:
                told.append(read_part(file, unit["group"], FOUND))
        found = np.concatenate(told)
        with self.store.open(unit["filtered"]) as file:
            shards = [read_part(file, self.deals + n, ROW).copy() for n in range(unit["shards"])]
        for number, rows in enumerate(shards, unit["first"]):
            mine = found[found["shard"] == number]
            for kind in (NEAR_DUPLICATE, DUPLICATE):
                rows["verdict"][mine["row"][mine["kind"] == kind]] = kind
            rows["stands"][mine["row"][mine["kind"] == STANDS_FOR_CLEAN]] = True
        path = folder / "survivors.parts"
        count = write_parts(path, shards, len(shards))
        codes = np.concatenate([rows["verdict"] for rows in shards])
        counts = np.bincount(codes, minlength=len(VERDICTS)).tolist()
        return Output(path, count, stats={"verdicts": dict(zip(VERDICTS, counts, strict=True))})


class PairsWorker(UnitWorker):
    """Writes the selected pairs of one record shard: both captions and the score, no images."""

    def setup(self, selection: dict[str, Any], longest: int) -> None:  # type: ignore[override]
        self.selection, self.longest = TopK(**selection), longest

    def process(self, unit: dict[str, Any], folder: Path) -> Output:
        with self.store.open(unit["survivors"]) as file:
            rows = decide(read_part(file, unit["part"], ROW), self.selection)
        kept = np.flatnonzero(rows["verdict"] == KEPT)  # rows, not ids: exact copies share one id
        records = read_columns(self.store.open(unit["records"]), ["sample_id", "caption"]).take(kept)
        captions = read_columns(self.store.open(unit["captions"]), ["long_caption"]).take(kept)
        scores = rows["score"][kept].astype(float).tolist()
        columns = [*(c.to_pylist() for c in (*records.columns, *captions.columns)), scores]
        pairs = [dict(zip(PAIR_SCHEMA.names, row, strict=True)) for row in zip(*columns, strict=True)]
        path = folder / "pairs.arrow"
        write_shard(path, pairs, PAIR_SCHEMA)
        return Output(path, len(pairs), stats={"records": unit["records"], **pair_stats(pairs, self.longest)})


def judge(captions: list[str], native: np.ndarray, generated: np.ndarray, params: SelectParams) -> np.ndarray:
    """uint8[n]: what the filters say of each row, KEPT where nothing is wrong with it."""
    words = np.array([len(caption.split()) for caption in captions], np.int64)
    reasons = {
        "low_generated_score": generated < params.min_generated_score,
        "low_native_score": native < params.min_native_score,
        "short_caption": words < params.min_caption_words,
        "no_score": np.isnan(native) | np.isnan(generated),
    }
    verdicts = np.full(len(captions), KEPT, np.uint8)
    for reason, failing in reasons.items():  # of several reasons the last one is told
        verdicts[failing] = VERDICTS.index(reason)
    return verdicts


def decide(rows: np.ndarray, selection: TopK) -> np.ndarray:
    """ROWs with their last verdict: those that nothing dropped are kept or below the K-th score."""
    passing = np.flatnonzero(rows["verdict"] == KEPT)
    decided = rows.copy()
    kept = selection.keep(np.ascontiguousarray(rows["id"][passing]), rows["score"][passing])
    decided["verdict"][passing[~kept]] = BELOW
    return decided


def pair_stats(pairs: Sequence[dict[str, Any]], longest: int) -> dict[str, Any]:
    """What the gate looks at in every shard of pairs; long captions have `longest` words at most."""
    if not pairs:
        return {"mean_score": 0.0}
    scores = [pair["score"] for pair in pairs]
    short, long = (np.array([len(pair[name].split()) for pair in pairs]) for name in ("short", "long"))
    return {
        "mean_score": float(np.mean(scores)),
        "min_score": min(scores),
        "max_score": max(scores),
        "distinct_ids": len({pair["sample_id"] for pair in pairs}),
        "min_short_words": int(short.min()),
        "long_captions_outside": float(((long < 1) | (long > longest)).mean()),
    }


def run(ctx: StageContext) -> StageResult:
    """Select exactly `keep` pairs; stops when fewer pass the filters or when the gate fails."""
    # nothing here computes on a GPU: actors ask for none
    cpus = replace(ctx.params.resources, gpus_per_actor=0)
    ctx = replace(ctx, params=replace(ctx.params, resources=cpus))
    made, outcome = _finished(ctx) or _make(ctx)
    _remove_steps(ctx)
    with overhead("great_expectations"):
        gate = check_pairs(ctx.store, made, ctx.section, ctx.folder)
    report = _report(ctx, outcome, gate)
    gate.require("select")
    return StageResult(made, report)


def _pair_unit(ctx: StageContext, scores: Commit) -> str:
    return unit_id(scores.sha256, ctx.fingerprint)


def _step(ctx: StageContext, step: str) -> StageContext:
    """The context whose units are those of a step within the stage."""
    return replace(ctx, name=f"{ctx.name}/{step}")


def _finished(ctx: StageContext) -> tuple[list[Commit], dict[str, Any]] | None:
    """The pairs and the outcome, where all of it is there."""
    made = commits(ctx.store, ctx.name, ctx.fingerprint)
    wanted = {_pair_unit(ctx, scores) for scores in ctx.inputs["score"].commits}
    outcome = commits(ctx.store, f"{ctx.name}/outcome", ctx.fingerprint)
    if not outcome or not wanted <= made.keys():
        return None
    (done,) = outcome.values()
    return [made[unit] for unit in sorted(wanted)], json.loads(ctx.store.get_bytes(done.key))


def _make(ctx: StageContext) -> tuple[list[Commit], dict[str, Any]]:
    params: SelectParams = ctx.section
    plan = Plan.of(ctx.inputs["score"].commits)
    with connect(ctx.params.resources):
        survivors = _survivors(ctx, plan)
        _require_enough(ctx, survivors)
        counted = [{"key": c.key, "parts": len(g)} for c, g in zip(survivors, plan.groups, strict=True)]
        add = partial(add_up, units=counted, resources=ctx.params.resources, desc=f"{ctx.name}/count")
        search = TopKSearch(params.keep, params.seed)
        while search.found is None:
            arguments = {"store": ctx.store.root_uri, "prefix": list(search.prefix), "seed": params.seed}
            search.add(add(count_digits, arguments))
        selection = asdict(search.found)
        tally = add(count_verdicts, {"store": ctx.store.root_uri, "selection": selection})
        outcome = {
            "selection": selection,
            "tally": tally.tolist(),
            "examples": _examples(ctx.store, plan, survivors, search.found),
        }
        _keep_outcome(ctx, outcome)
        units, longest = _pair_units(ctx, plan, survivors), params.gate_max_long_caption_words
        made = run_units(ctx, PairsWorker, units, selection=selection, longest=longest)
    return made, outcome


def _survivors(ctx: StageContext, plan: Plan) -> list[Commit]:
    """For each group a file with the rows of its shards and what filters and duplicates say of them."""
    params: SelectParams = ctx.section
    near = params.drop_near_duplicates
    deals = bands(near) * plan.deals

    def units(step: str, count: int) -> list[dict[str, Any]]:
        return [{"unit": unit_id(f"{step}/{n}", ctx.fingerprint)} for n in range(count)]

    def in_order(made: list[Commit], planned: list[dict[str, Any]]) -> list[Commit]:
        by_unit = {commit.unit: commit for commit in made}
        return [by_unit[unit["unit"]] for unit in planned]

    groups = units("filter", len(plan.groups))
    for unit, first, group in zip(groups, plan.first_shards, plan.groups, strict=True):
        unit["first"] = first
        unit["shards"] = [{"scores": c.key, "records": c.stats["records"]} for c in group]
    made = run_units(
        _step(ctx, "filter"), FilterWorker, groups, params=params, deals=plan.deals, rows=plan.rows
    )
    filtered = [c.key for c in in_order(made, groups)]
    dealt = [unit | {"deal": number} for number, unit in enumerate(units("duplicates", deals))]
    found = run_units(
        _step(ctx, "duplicates"),
        DuplicatesWorker,
        dealt,
        filtered=filtered,
        first_shards=plan.first_shards,
        near=near,
    )
    together = units("survivors", len(plan.groups))
    for number, (unit, judged) in enumerate(zip(together, groups, strict=True)):
        unit |= {"group": number, "filtered": filtered[number], "first": judged["first"]}
        unit["shards"] = len(judged["shards"])
    keys = sorted(c.key for c in found)
    made = run_units(_step(ctx, "survivors"), SurvivorsWorker, together, found=keys, deals=deals)
    return in_order(made, together)


def _require_enough(ctx: StageContext, survivors: Sequence[Commit]) -> None:
    """StageError where fewer rows are left than are to be kept, with the reasons."""
    verdicts = Counter[str]()
    for commit in survivors:
        verdicts.update(commit.stats["verdicts"])
    available = verdicts.pop(VERDICTS[KEPT])
    if available < ctx.section.keep:
        _remove_steps(ctx)
        raise StageError(
            f"select: {available} pairs pass the filters, select.keep asks for {ctx.section.keep} "
            f"(dropped: {', '.join(f'{k} {v}' for k, v in verdicts.most_common() if v)})"
        )


def count_digits(unit: dict[str, Any], store: str, prefix: list[int], seed: int) -> np.ndarray:
    """`digit_counts` of the rows of a group that nothing dropped."""
    rows = _survivor_rows(open_store(store), unit)
    rows = rows[rows["verdict"] == KEPT]
    return digit_counts(prefix, seed, np.ascontiguousarray(rows["id"]), rows["score"])


def count_verdicts(unit: dict[str, Any], store: str, selection: dict[str, Any]) -> np.ndarray:
    """The tally of a group's rows."""
    return Tally.of(decide(_survivor_rows(open_store(store), unit), TopK(**selection))).to_array()


def _survivor_rows(store: Store, unit: dict[str, Any]) -> np.ndarray:
    with store.open(unit["key"]) as file:
        return read_parts(file, 0, unit["parts"], ROW)


def _pair_units(ctx: StageContext, plan: Plan, survivors: Sequence[Commit]) -> list[dict[str, Any]]:
    return [
        {
            "unit": _pair_unit(ctx, scores),
            "records": scores.stats["records"],
            "captions": scores.stats["captions"],
            "survivors": rows.key,
            "part": part,
        }
        for group, rows in zip(plan.groups, survivors, strict=True)
        for part, scores in enumerate(group)
    ]


def _keep_outcome(ctx: StageContext, outcome: dict[str, Any]) -> None:
    """Recorded like a unit: with it and the pairs nothing has to be counted again."""
    with tempfile.TemporaryDirectory(prefix="ddt-outcome-") as folder:
        path = Path(folder) / "outcome.json"
        path.write_text(json.dumps(outcome))
        unit = unit_id("outcome", ctx.fingerprint)
        write_unit(ctx.store, f"{ctx.name}/outcome", ctx.fingerprint, unit, path, 1)


def _remove_steps(ctx: StageContext) -> None:
    """What workers handed to each other: many times as much as the pairs."""
    for step in STEPS:
        name = f"{ctx.name}/{step}"
        for prefix in (unit_prefix(name, ctx.fingerprint), shard_prefix(name, ctx.fingerprint)):
            for key in ctx.store.list(prefix):
                ctx.store.delete(key)


def check_pairs(store: Store, made: Sequence[Commit], params: SelectParams, folder: Path) -> GateResult:
    """The gate on the curated data: the selection as a whole, every shard by its statistics, and rows: a
    seeded sample of them and those with the lowest score.
    """
    total = sum(c.rows for c in made)
    mean = sum(c.rows * c.stats["mean_score"] for c in made) / max(1, total)
    selection = pd.DataFrame({"pairs": [total], "mean_score": [mean]})
    shards = pd.DataFrame([{"rows": c.rows, **c.stats} for c in made if c.rows])
    shards["repeated_ids"] = shards["rows"] - shards["distinct_ids"]

    def between(column: str, low: float | None, high: float | None = None) -> Expectation:
        limits = {k: v for k, v in (("min_value", low), ("max_value", high)) if v is not None}
        return Expectation("ExpectColumnValuesToBeBetween", {"column": column, **limits})

    selection_expectations = [
        between("pairs", params.keep, params.keep),
        between("mean_score", params.gate_min_mean_score),
    ]
    longest = params.gate_max_long_caption_words
    shard_expectations = [
        between("min_score", -1.0),
        between("max_score", None, 1.0),
        between("repeated_ids", 0, 0),
        between("min_short_words", params.min_caption_words),
        between("long_captions_outside", None, GATE_OUTSIDE),
    ]
    row_expectations = [
        Expectation("ExpectColumnValuesToBeUnique", {"column": "sample_id"}),
        Expectation("ExpectColumnValuesToNotBeNull", {"column": "short"}),
        Expectation("ExpectColumnValuesToNotBeNull", {"column": "long"}),
        between("score", -1.0, 1.0),
        between("short_words", params.min_caption_words),
        between("long_words", 1, longest),
    ]
    tables = {
        "selection": (selection, selection_expectations),
        "shards": (shards, shard_expectations),
        "rows": (_gate_rows(store, made, params.seed), row_expectations),
    }
    return validate("select", tables, folder)


def _gate_rows(store: Store, made: Sequence[Commit], seed: int) -> pd.DataFrame:
    """A seeded sample of rows, and of the shards that reach lowest the rows with the lowest score."""
    filled = [c for c in made if c.rows]
    order = np.random.default_rng(seed).permutation(len(filled))[:GATE_SAMPLE_SHARDS]
    rows = _pairs(store, [filled[i] for i in sorted(order)])
    if len(rows) > GATE_SAMPLE_ROWS:
        rows = rows.sample(GATE_SAMPLE_ROWS, random_state=seed)
    lowest = sorted(filled, key=lambda c: (c.stats["min_score"], c.unit))[:GATE_THRESHOLD_SHARDS]
    rows = pd.concat([rows, _pairs(store, lowest).nsmallest(GATE_SAMPLE_ROWS, "score")])
    rows = rows[~rows.index.duplicated()]
    rows["short_words"] = rows["short"].str.split().str.len()
    rows["long_words"] = rows["long"].str.split().str.len()
    return rows


def _pairs(store: Store, shards: Sequence[Commit]) -> pd.DataFrame:
    """All rows of some shards, named by shard and place."""
    tables = {c.unit: read_shard(store.fetch(c.key)).to_pandas() for c in shards}
    return pd.concat(tables)


def _report(ctx: StageContext, outcome: dict[str, Any], gate: GateResult) -> Report:
    report = Report("select")
    tally, selection = Tally.from_array(np.array(outcome["tally"])), TopK(**outcome["selection"])
    report.metrics = {f"select/{name}": count for name, count in tally.by_verdict().items()}
    report.metrics["select/gate_expectations"] = gate.checked
    report.metrics["select/threshold"] = selection.threshold
    report.metrics["select/ties_at_threshold"] = selection.num_ties
    report.metrics |= planted_selection(tally)
    report.pages["Data Docs of the gate"] = ctx.relative(gate.page)
    path = ctx.folder / "scores.png"
    score_counts({"kept": tally.kept_scores, "dropped": tally.dropped_scores}, SCORE_EDGES).save(path)
    report.pictures["CLIP score of the native caption, kept and dropped"] = ctx.relative(path)
    for name, rows in outcome["examples"].items():
        if rows["rows"]:
            path = ctx.folder / f"{name}.png"
            record_grid(_pictures(ctx.store, rows)).save(path)
            report.pictures[f"{name.title()} pairs"] = ctx.relative(path)
    return report


def _examples(
    store: Store, plan: Plan, survivors: Sequence[Commit], selection: TopK
) -> dict[str, dict[str, Any]]:
    """Of the first shard that has rows: which of them to show, kept ones and others, with a note on each."""
    found = (n for n, commit in enumerate(survivors) if commit.rows)
    group = next(found)
    part = next(n for n, scores in enumerate(plan.groups[group]) if scores.rows)
    with store.open(survivors[group].key) as file:
        rows = decide(read_part(file, part, ROW), selection)
    kept, others = (np.flatnonzero((rows["verdict"] == KEPT) == is_kept) for is_kept in (True, False))
    notes = {
        "kept": [f"{score:.2f}" for score in rows["native"][kept[:EXAMPLES]]],
        "dropped": [VERDICTS[code] for code in rows["verdict"][others[:EXAMPLES]]],
    }
    records = plan.groups[group][part].stats["records"]
    return {
        name: {"records": records, "rows": which[:EXAMPLES].tolist(), "notes": notes[name]}
        for name, which in (("kept", kept), ("dropped", others))
    }


def _pictures(store: Store, examples: dict[str, Any]) -> list[dict[str, Any]]:
    table = read_columns(store.open(examples["records"]), ["image", "caption"], examples["rows"])
    return [row | {"note": note} for row, note in zip(table.to_pylist(), examples["notes"], strict=True)]


def _bytes_rows(column: pa.ChunkedArray, width: int) -> np.ndarray:
    """A binary column of equal lengths as uint8[n, width]; n is 0 where a shard held nothing usable."""
    return np.frombuffer(b"".join(column.to_pylist()), np.uint8).reshape(len(column), width)
