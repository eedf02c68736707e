"""Stage `select`: filters, duplicates, then exactly K pairs with the highest score, checked by a gate.

The driver holds counts and names of shards, no rows. Workers judge the rows of some record shards and deal
those that pass the filters out by what they look like (`filter`); find duplicates in each deal
(`duplicates`); bring together what was found of the rows of a group of shards (`survivors`); count them,
digit by digit, until the K-th score is known; and write each shard's pairs. What they hand to each other is
removed once the pairs are there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ddt.data.takedown import Takedown
from ddt.data.topk import select_top_k
from ddt.data.verdicts import KEPT, VERDICTS, Tally
from ddt.manifest import Commit, Manifest, commits, shard_prefix, units_prefix
from ddt.sections.curation import SelectParams
from pipelines.engine.cluster import connect
from pipelines.engine.runner import FAILED_GATE, StageContext, StageError, StageResult
from pipelines.engine.selection.captions import CaptionFilters
from pipelines.engine.selection.counts import count_digits, count_verdicts
from pipelines.engine.selection.duplicates import DuplicatesWorker, SurvivorsWorker
from pipelines.engine.selection.examples import examples
from pipelines.engine.selection.filter import FilterWorker
from pipelines.engine.selection.outcome import Outcome, by_source
from pipelines.engine.selection.pairs import PairsWorker
from pipelines.engine.selection.plan import Plan
from pipelines.engine.sums import add_up
from pipelines.engine.units import UnitWorker, run_units
from pipelines.reports.drift import distribution_distance
from pipelines.reports.overhead import overhead
from pipelines.reports.report import Report
from pipelines.reports.selection import selection_metrics, selection_pictures, source_table
from pipelines.reports.workspace import manifest_path
from pipelines.services.expectations import GateResult
from pipelines.services.pairs_gate import check_pairs

MODULES = (
    "ddt.data.topk",
    "ddt.data.boilerplate",
    "ddt.data.dedup",
    "ddt.data.descriptor",
    "ddt.data.order",
    "ddt.data.parts",
    "ddt.data.takedown",
    "ddt.data.verdicts",
    "pipelines.engine.selection",
    "pipelines.services.pairs_gate",
    "pipelines.select",
)
BEFORE = "before"  # in the manifest of a version that failed: the key of what it was compared with
STEPS = ("filter", "duplicates", "survivors")  # whose files are removed


def models(section: SelectParams) -> dict[str, str]:
    """Digest of the takedown list: another list gives another selection."""
    takedown = _takedown(section)
    return {} if takedown is None else {"takedown": takedown.digest}


def _takedown(section: SelectParams) -> Takedown | None:
    return None if section.takedown is None else Takedown.read(section.takedown, "select.takedown")


def run(ctx: StageContext) -> StageResult:
    """Select exactly `keep` pairs; stops when fewer pass the filters or when the gate fails."""
    CaptionFilters(ctx.section)  # what is wrong with them is better known before the work
    # steps have names of their own, and nothing in any of them computes on a GPU
    cpus = ctx.params.resources.of_stage(ctx.name)
    ctx = replace(ctx, params=replace(ctx.params, resources=cpus))
    plan = Plan.of(ctx.inputs["score"].commits, ctx.section.drop_near_duplicates, ctx.fingerprint)
    made, outcome = _finished(ctx, plan) or _make(ctx, plan)
    _remove_steps(ctx)
    before = _before(ctx)
    drift = (
        None
        if before is None
        else distribution_distance(*(o.tally.kept_scores for o in (outcome, before[1])))
    )
    with overhead("great_expectations"):
        gate = check_pairs(ctx.store, made, ctx.section, ctx.folder, drift)
    report = _report(ctx, outcome, gate)
    if drift is not None:
        report.metrics["select/score_drift"] = drift
    extra = {BEFORE: before[0]} if before is not None and gate.failed else {}
    return StageResult(made, report, extra, gate)


def _before(ctx: StageContext) -> tuple[str, Outcome] | None:
    """The version before, by its key, that passed its gate: of the workspace, or what that followed on."""
    path = manifest_path(ctx.workspace, ctx.name)
    try:
        manifest = Manifest.load(path) if path.is_file() else None
        while manifest is not None and manifest.extra.get(FAILED_GATE):
            key = manifest.extra.get(BEFORE)
            manifest = None if key is None else Manifest.kept(ctx.store, key)
        if manifest is None or manifest.fingerprint == ctx.fingerprint:
            return None
        outcome = Outcome.load(replace(ctx, fingerprint=manifest.fingerprint))
    except (ValueError, KeyError, TypeError):  # edited, removed from the store, or of an earlier release
        return None
    return None if outcome is None else (manifest.key, outcome)


def _finished(ctx: StageContext, plan: Plan) -> tuple[list[Commit], Outcome] | None:
    """The pairs and the outcome, where all of it is there."""
    made, wanted = commits(ctx.store, ctx.name, ctx.fingerprint), plan.pair_unit_ids()
    outcome = Outcome.load(ctx)
    if outcome is None or not made.keys() >= set(wanted):
        return None
    return [made[unit] for unit in wanted], outcome


def _make(ctx: StageContext, plan: Plan) -> tuple[list[Commit], Outcome]:
    params: SelectParams = ctx.section
    near, longest = params.drop_near_duplicates, params.gate_max_long_caption_words
    deals = {"rows": plan.rows, "band_deals": plan.band_deals, "deals": plan.deals}
    first_shards = [group.first for group in plan.groups]
    rules = {"params": params, "takedown": _takedown(params)}
    with connect(ctx.params.resources):
        filtered = _step(ctx, "filter", FilterWorker, plan.filter_units(), **rules, **deals)
        told = {"filtered": [c.key for c in filtered], "first_shards": first_shards, "near": near}
        found = _step(ctx, "duplicates", DuplicatesWorker, plan.duplicate_units(), **told)
        told = {"found": [c.key for c in found], "deals": plan.deals}
        survivors = _step(ctx, "survivors", SurvivorsWorker, plan.survivor_units(filtered), **told)
        _require_enough(ctx, survivors)
        outcome = _outcome(ctx, plan, survivors)
        outcome.save(ctx)
        pairs = plan.pair_units(survivors)
        return run_units(ctx, PairsWorker, pairs, selection=outcome.selection, longest=longest), outcome


def _step(
    ctx: StageContext, step: str, worker: type[UnitWorker], units: list[dict[str, Any]], **arguments: Any
) -> list[Commit]:
    """The commits of a step within the stage, in the order of its units."""
    made = run_units(replace(ctx, name=f"{ctx.name}/{step}"), worker, units, **arguments)
    by_unit = {commit.unit: commit for commit in made}
    return [by_unit[unit["unit"]] for unit in units]


def _require_enough(ctx: StageContext, survivors: Sequence[Commit]) -> None:
    """StageError where fewer rows are left than are to be kept, with the reasons."""
    verdicts = Counter[str]()
    for commit in survivors:
        for counts in commit.stats["verdicts"]:
            verdicts.update(dict(zip(VERDICTS, counts, strict=True)))
    available = verdicts.pop(VERDICTS[KEPT])
    if available < ctx.section.keep:
        _remove_steps(ctx)
        raise StageError(
            f"select: {available} pairs pass the filters, select.keep asks for {ctx.section.keep} "
            f"(dropped: {', '.join(f'{k} {v}' for k, v in verdicts.most_common() if v)})"
        )


def _outcome(ctx: StageContext, plan: Plan, survivors: Sequence[Commit]) -> Outcome:
    """Finds the K-th score, and counts what is above and below it."""
    keep, seed, place = ctx.section.keep, ctx.section.seed, {"store": ctx.store.root_uri}
    units, resources = plan.count_units(survivors), ctx.params.resources
    add: Callable[..., np.ndarray] = partial(
        add_up, units=units, resources=resources, desc=f"{ctx.name}/count"
    )
    selection = select_top_k(
        lambda prefix: add(count_digits, {**place, "prefix": list(prefix), "seed": seed}), keep, seed
    )
    tally = Tally.from_array(add(count_verdicts, {**place, "selection": selection}))
    ingested = ctx.inputs["ingest"].commits if "ingest" in ctx.inputs else ()
    folders = {c.key: c.stats["folder"] for c in ingested}
    shown = examples(ctx.store, plan, survivors, selection)
    return Outcome(selection, tally, shown, by_source(plan, survivors, folders))


def _remove_steps(ctx: StageContext) -> None:
    """What workers handed to each other: many times as much as the pairs."""
    for step in STEPS:
        name = f"{ctx.name}/{step}"
        for prefix in (units_prefix(name, ctx.fingerprint), shard_prefix(name, ctx.fingerprint)):
            for key in ctx.store.list(prefix):
                ctx.store.delete(key)


def _report(ctx: StageContext, outcome: Outcome, gate: GateResult) -> Report:
    report = Report("select")
    report.metrics = selection_metrics(outcome.selection, outcome.tally)
    report.metrics["select/gate_expectations"] = gate.checked
    report.tables["By source, before the cut at K"] = source_table(outcome.sources)
    report.pages["Data Docs of the gate"] = ctx.relative(gate.page)
    ranked = outcome.selection.threshold if ctx.section.rank_by == "native" else None
    pictures = selection_pictures(ctx.store, outcome.tally, ranked, outcome.examples, ctx.folder)
    report.pictures = {title: ctx.relative(path) for title, path in pictures.items()}
    return report
