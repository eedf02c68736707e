"""Stage `promote`: registers tokenizer and model and moves the champion alias, or says why not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from ddt.eval.benchmark import Score
from ddt.manifest import Commit, Manifest, unit_id, write_unit
from ddt.sections.quality import PromoteParams
from pipelines.engine.runner import StageContext, StageError, StageResult
from pipelines.engine.units import digest_of
from pipelines.reports.overhead import overhead
from pipelines.reports.report import Report
from pipelines.reports.workspace import report_path
from pipelines.services import tracking
from pipelines.services.models import model_key

MODULES = ("pipelines.promote",)
ALWAYS_RUNS = True  # the registry may have changed since
METRIC_TAG = "metric."  # its value: [value, low, high] of a version when it was registered


@dataclass(frozen=True)
class Check:
    """One metric against its threshold or the champion, decided on the worse bound of its interval."""

    metric: str
    rule: str
    score: Score | None
    limit: float | None
    passed: bool

    def row(self) -> list[str]:
        """Metric, rule, limit, value, interval, decision."""
        value, interval = "missing", ""
        if self.score is not None:
            value = f"{self.score.value:.4f}"
            interval = f"{self.score.low:.4f} to {self.score.high:.4f}"
        limit = "" if self.limit is None else f"{self.limit:.4f}"
        return [self.metric, self.rule, limit, value, interval, "yes" if self.passed else "NO"]

    def reason(self) -> str:
        """Why it failed, in one clause, for tags and notes."""
        metric, rule, limit, value, interval, _ = self.row()
        if self.score is None or self.limit is None:
            return f"{metric}: {rule} {limit}".rstrip() + f", it is {value}"
        bound = self.score.low if self.score.higher_is_better else self.score.high
        short = f"{abs(bound - self.limit):.2g} short"
        return f"{metric}: {rule}, {limit}: it is {value} ({interval}), {short}"


CHECK_HEADER = ["metric", "rule", "limit", "value", "95 % interval", "passed"]


def run(ctx: StageContext) -> StageResult:
    """Register the candidate and decide; the verdict is the stage's output, whichever it is."""
    params: PromoteParams = ctx.section
    stored = Report.load(report_path(ctx.workspace, "evaluate")).scores
    scores = {name: Score(**score) for name, score in stored.items()}
    refuse_unfit(params, scores)
    with overhead("mlflow"):
        tokenizer, candidate, champion = _register(ctx, scores)
    checks = decide(params, scores, champion_scores(candidate, champion))
    promoted = all(check.passed for check in checks)
    reasons = [check.reason() for check in checks if not check.passed]
    verdict = "promoted" if promoted else "refused"
    with overhead("mlflow"):
        tags = {"verdict": verdict, "verdict_reasons": "; ".join(reasons) or "every check passed"}
        tracking.tag_version(ctx.params.tracking, candidate, tags)
        if promoted:  # the champion's tokenizer is its registered model's champion
            for version in (tokenizer, candidate):
                tracking.set_champion(ctx.params.tracking, version)
    report = Report("promote")
    report.metrics = {"promote/promoted": float(promoted), "promote/checks": len(checks)}
    before = f"the champion was version {champion.number}" if champion else "there was no champion"
    report.notes = [
        f"{candidate.name} version {candidate.number} {verdict}: "
        + ("every check passed" if promoted else "; ".join(reasons))
        + f" ({before})."
    ]
    report.tables["Checks"] = [CHECK_HEADER, *[check.row() for check in checks]]
    return StageResult([_commit(ctx, candidate, verdict, checks)], report)


def refuse_unfit(params: PromoteParams, scores: Mapping[str, Score]) -> None:
    """StageError for a threshold on the side where it can't be too far, or above a floor not measured."""
    for key, given, higher_is_better in (
        ("min_metric", params.min_metric, True),
        ("max_metric", params.max_metric, False),
    ):
        for metric in given:
            if metric in scores and scores[metric].higher_is_better != higher_is_better:
                better, right = ("higher", "min_metric") if not higher_is_better else ("lower", "max_metric")
                raise StageError(f"promote.{key}.{metric}: {better} is better there; expected it in {right}")
    for metric in params.min_above_floor:
        if metric in scores and scores[metric].floor is None:
            raise StageError(f"promote.min_above_floor.{metric}: it has no floor; expected it in min_metric")


def decide(
    params: PromoteParams, scores: Mapping[str, Score], champion: Mapping[str, Score] | None
) -> list[Check]:
    """Every threshold, and every allowed drop against the champion where there is one.

    What decides is the worse bound of the interval: the level that the evaluation makes certain. So a metric
    whose interval reaches down to its floor is refused. For the drop it is compared with the champion's same
    bound: a noisier evaluation passes no more easily, and the same model passes always. A metric the
    evaluation does not have fails its check.
    """
    checks = []
    for metric, margin in sorted(params.min_above_floor.items()):
        checks.append(_floor_check(metric, scores.get(metric), margin))
    for metric, limit in sorted(params.min_metric.items()):
        checks.append(_check(metric, "lower bound at least", scores.get(metric), limit))
    for metric, limit in sorted(params.max_metric.items()):
        checks.append(_check(metric, "upper bound at most", scores.get(metric), limit))
    for metric, drop in sorted(params.max_drop.items() if champion is not None else ()):
        checks.append(_drop_check(metric, scores.get(metric), (champion or {}).get(metric), drop))
    return checks


def _floor_check(metric: str, score: Score | None, margin: float) -> Check:
    """Strict: an interval that touches the floor does not tell the two apart."""
    if score is None or score.floor is None:
        return Check(metric, f"lower bound over {margin:g} above the floor", score, None, False)
    floor = f"the floor of {score.floor:.4f} ({score.floor_is})"
    if score.higher_is_better:
        limit, rule = score.floor + margin, f"lower bound over {margin:g} above {floor}"
        return Check(metric, rule, score, limit, score.low > limit)
    limit, rule = score.floor - margin, f"upper bound over {margin:g} below {floor}"
    return Check(metric, rule, score, limit, score.high < limit)


def _drop_check(metric: str, score: Score | None, before: Score | None, drop: float) -> Check:
    if before is None:
        return Check(metric, "the champion was not measured by it", score, None, score is not None)
    if score is None or score.higher_is_better:
        rule, limit = f"lower bound at least the champion's less {drop:g}", before.low - drop
    else:
        rule, limit = f"upper bound at most the champion's plus {drop:g}", before.high + drop
    return _check(metric, rule, score, limit)


def _check(metric: str, rule: str, score: Score | None, limit: float) -> Check:
    if score is None:
        return Check(metric, rule, None, limit, False)
    passed = score.low >= limit if score.higher_is_better else score.high <= limit
    return Check(metric, rule, score, limit, passed)


def champion_scores(
    candidate: tracking.Version, champion: tracking.Version | None
) -> dict[str, Score] | None:
    """The champion's scores, as tagged when it was registered; None where it is the candidate itself.

    Raises StageError where a tag holds something else.
    """
    if champion is None or champion.number == candidate.number:
        return None
    return {
        name.removeprefix(METRIC_TAG): _tagged(champion, name, text)
        for name, text in champion.tags.items()
        if name.startswith(METRIC_TAG)
    }


def _tagged(version: tracking.Version, name: str, text: str) -> Score:
    try:
        value, low, high = (float(number) for number in json.loads(text))
    except (TypeError, ValueError):
        raise StageError(
            f"promote: {version.name} version {version.number} has the tag {name} = {text!r}, "
            "expected [value, low, high]"
        ) from None
    return Score(value, low, high, 0)


def _register(
    ctx: StageContext, scores: Mapping[str, Score]
) -> tuple[tracking.Version, tracking.Version, tracking.Version | None]:
    """The tokenizer, the candidate, and the champion there was."""
    where = ctx.params.tracking
    champion = tracking.find_version(where, where.model_name, tracking.CHAMPION)
    # What a later candidate is compared with; a version registered before may have been evaluated again.
    measured = {f"{METRIC_TAG}{n}": json.dumps([s.value, s.low, s.high]) for n, s in scores.items()}
    tokenizer = _register_model(ctx, where.tokenizer_name, "train_tokenizer", {})
    candidate = _register_model(ctx, where.model_name, "finetune", measured)
    changed = {tag: text for tag, text in measured.items() if candidate.tags.get(tag) != text}
    tracking.tag_version(where, candidate, changed)
    return tokenizer, candidate, champion


def _register_model(ctx: StageContext, name: str, stage: str, measured: dict[str, str]) -> tracking.Version:
    manifest: Manifest = ctx.inputs[stage]
    source = f"{ctx.store.root_uri}/{model_key(manifest)}"
    tags = {"stage": stage, "manifest": manifest.digest, "fingerprint": manifest.fingerprint, **measured}
    return tracking.register(ctx.params.tracking, name, source, manifest.digest, None, tags)


def _commit(ctx: StageContext, candidate: tracking.Version, verdict: str, checks: list[Check]) -> Commit:
    path = ctx.folder / "verdict.json"
    record = {
        "model": candidate.name,
        "digest": candidate.tags["digest"],
        "verdict": verdict,
        "checks": [dict(zip(CHECK_HEADER, check.row(), strict=True)) for check in checks],
    }
    try:
        path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    except OSError as error:
        raise StageError(f"promote: {path} can't be written ({error.strerror})") from None
    unit = unit_id(digest_of(record), ctx.fingerprint)
    return write_unit(ctx.store, ctx.name, ctx.fingerprint, unit, path, 1, stats={"verdict": verdict})
