"""Stage `promote`: registers tokenizer and model and moves the champion alias, or says why not."""

from __future__ import annotations

import json
from dataclasses import dataclass

from ddt.manifest import Commit, Manifest, unit_id, write_unit
from ddt.params import PromoteParams
from pipelines import tracking
from pipelines.models import model_key
from pipelines.overhead import overhead
from pipelines.report import Report
from pipelines.runner import StageContext, StageError, StageResult, report_path
from pipelines.units import digest_of

MODULES = ("pipelines.promote",)
ALWAYS_RUNS = True  # the registry may have changed since
METRIC_TAG = "metric."


@dataclass(frozen=True)
class Check:
    """One metric against its threshold, or against the champion."""

    metric: str
    rule: str
    value: float | None
    limit: float
    passed: bool

    def row(self) -> list[str]:
        value = "missing" if self.value is None else f"{self.value:.4f}"
        return [self.metric, self.rule, value, f"{self.limit:.4f}", "yes" if self.passed else "NO"]


def run(ctx: StageContext) -> StageResult:
    """Register the candidate and decide; the verdict is the stage's output, whichever it is."""
    params: PromoteParams = ctx.section
    metrics = Report.load(report_path(ctx.workspace, "evaluate")).metrics
    with overhead("mlflow"):
        candidate, champion = _register(ctx, metrics)
    checks = decide(params, metrics, champion_metrics(candidate, champion))
    promoted = all(check.passed for check in checks)
    reasons = [f"{c.metric} {c.rule} {c.limit:.4f}: {c.row()[2]}" for c in checks if not c.passed]
    verdict = "promoted" if promoted else "refused"
    with overhead("mlflow"):
        tags = {"verdict": verdict, "verdict_reasons": "; ".join(reasons) or "every check passed"}
        if promoted:
            tracking.set_champion(ctx.params.tracking, candidate, tags)
        else:
            tracking.tag_version(ctx.params.tracking, candidate, tags)
    report = Report("promote")
    report.metrics = {"promote/promoted": float(promoted), "promote/checks": len(checks)}
    before = f"the champion was version {champion.number}" if champion else "there was no champion"
    report.notes = [
        f"{candidate.name} version {candidate.number} {verdict}: "
        + ("every check passed" if promoted else "; ".join(reasons))
        + f" ({before})."
    ]
    report.tables["Checks"] = [["metric", "rule", "value", "limit", "passed"], *[c.row() for c in checks]]
    return StageResult([_commit(ctx, candidate, verdict, checks)], report)


def decide(
    params: PromoteParams, metrics: dict[str, float], champion: dict[str, float] | None
) -> list[Check]:
    """Every threshold, and every allowed drop against the champion where there is one.

    A metric the evaluation does not have fails its check.
    """
    checks = []
    for metric, limit in sorted(params.min_metric.items()):
        value = metrics.get(metric)
        checks.append(Check(metric, "at least", value, limit, value is not None and value >= limit))
    for metric, drop in sorted(params.max_drop.items()):
        if champion is not None and metric in champion:
            limit, value = champion[metric] - drop, metrics.get(metric)
            rule = "not below the champion by more than allowed, at least"
            checks.append(Check(metric, rule, value, limit, value is not None and value >= limit))
    return checks


def champion_metrics(
    candidate: tracking.Version, champion: tracking.Version | None
) -> dict[str, float] | None:
    """The champion's metrics, as tagged when it was registered; None where it is the candidate itself."""
    if champion is None or champion.number == candidate.number:
        return None
    return {
        name.removeprefix(METRIC_TAG): float(value)
        for name, value in champion.tags.items()
        if name.startswith(METRIC_TAG)
    }


def _register(
    ctx: StageContext, metrics: dict[str, float]
) -> tuple[tracking.Version, tracking.Version | None]:
    where = ctx.params.tracking
    champion = tracking.version_by_alias(where, where.model_name, tracking.CHAMPION)
    for name, stage in ((where.tokenizer_name, "train_tokenizer"), (where.model_name, "finetune")):
        manifest: Manifest = ctx.inputs[stage]
        source = f"{ctx.store.root_uri}/{model_key(manifest)}"
        tags = {"stage": stage, "manifest": manifest.digest, "fingerprint": manifest.fingerprint}
        if stage == "finetune":
            wanted = {*ctx.section.min_metric, *ctx.section.max_drop}
            tags |= {f"{METRIC_TAG}{m}": repr(v) for m, v in metrics.items() if m in wanted}
        version = tracking.register(where, name, source, manifest.digest, None, tags)
    return version, champion


def _commit(ctx: StageContext, candidate: tracking.Version, verdict: str, checks: list[Check]) -> Commit:
    path = ctx.folder / "verdict.json"
    record = {
        "model": candidate.name,
        "digest": candidate.tags["digest"],
        "verdict": verdict,
        "checks": [check.row() for check in checks],
    }
    try:
        path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    except OSError as error:
        raise StageError(f"promote: {path} can't be written ({error.strerror})") from None
    unit = unit_id(digest_of(record), ctx.fingerprint)
    return write_unit(ctx.store, ctx.name, ctx.fingerprint, unit, path, 1, stats={"verdict": verdict})
