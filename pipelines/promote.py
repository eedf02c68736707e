"""Stage `promote`: registers tokenizer and model and moves the champion alias, or says why not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from ddt.eval.benchmark import Score
from ddt.manifest import Commit, unit_id, write_unit
from ddt.sections.quality import PromoteParams
from pipelines.engine.runner import StageContext, StageError, StageResult
from pipelines.engine.units import digest_of
from pipelines.reports.overhead import overhead
from pipelines.reports.report import SCORES, Report
from pipelines.services import registry
from pipelines.services.logged_model import Model
from pipelines.services.models import model_key

MODULES = ("pipelines.promote",)
ALWAYS_RUNS = True  # the registry may have changed since
PROMOTED, REFUSED, WITHHELD = "promoted", "refused", "withheld"
DECISION = "decision"  # tag of a version: the last decision on it, as JSON
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

    def record(self) -> dict[str, Any]:
        """The row by its header, and the floor where there is one."""
        floor = {} if self.score is None or self.score.floor is None else {"floor": self.score.floor}
        return dict(zip(CHECK_HEADER, self.row(), strict=True)) | floor

    def reason(self) -> str:
        """Why it failed, in one clause, for tags and notes."""
        metric, rule, limit, value, interval, _ = self.row()
        if self.score is None or self.limit is None:
            return f"{metric}: {rule} {limit}".rstrip() + f", it is {value}"
        bound = self.score.low if self.score.higher_is_better else self.score.high
        short = f"{abs(bound - self.limit):.2g} short"
        return f"{metric}: {rule}, {limit}: it is {value} ({interval}), {short}"


CHECK_HEADER = ["metric", "rule", "limit", "value", "95 % interval", "passed"]


@dataclass(frozen=True)
class Decision:
    """What the gate said of a version, on what grounds, who asked and when; kept with the version.

    `verdict` is promoted, refused, or withheld: it passed, and was taken from the alias before. `champion` is
    the version it was compared with, `inputs` the digests of what was decided on, `made_from` where their
    manifests are in the store.
    """

    model: str
    version: str
    digest: str
    verdict: str
    reasons: tuple[str, ...]
    champion: str | None
    inputs: dict[str, str]
    made_from: dict[str, str]
    fingerprint: str
    checks: tuple[dict[str, Any], ...]
    who: str
    when: str

    def note(self) -> str:
        """The decision in a line."""
        before = f"the champion was version {self.champion}" if self.champion else "there was no champion"
        said = "; ".join(self.reasons) or "every check passed"
        return f"{self.model} version {self.version} {self.verdict}: {said} ({before})."

    def table(self) -> list[list[str]]:
        """The checks as people read them, under their header."""
        return [CHECK_HEADER, *[[str(check[name]) for name in CHECK_HEADER] for check in self.checks]]


def run(ctx: StageContext) -> StageResult:
    """Register the candidate and decide; the verdict is the stage's output, whichever it is.

    A decision that was made stands: the same asked again moves nothing. A version that was the champion and
    is no more does not become it again here: somebody moved the alias, and `rollback` is the way back.
    """
    where = ctx.params.tracking
    scores = evaluated(ctx)
    with overhead("mlflow"):
        candidate = _register(ctx, scores)
        registry.finish_move(where, where.model_name)
        champion = registry.read_champion(where, where.model_name)
    decision = standing(ctx, candidate, champion)
    if decision is None:
        decision = decide(ctx, scores, candidate, champion)
        with overhead("mlflow"):
            _carry_out(ctx, decision, candidate, champion)
    report = Report("promote")
    promoted = decision.verdict == PROMOTED
    report.metrics = {"promote/promoted": float(promoted), "promote/checks": len(decision.checks)}
    report.notes = [decision.note()]
    report.tables["Checks"] = decision.table()
    return StageResult([_commit(ctx, decision)], report)


def dry_run(ctx: StageContext) -> Decision:
    """What `run` would decide now; writes and moves nothing."""
    where, scores = ctx.params.tracking, evaluated(ctx)
    model = _model(ctx, "model", "finetune")
    new = registry.Version(where.model_name, "(new)", None, {"digest": model.manifest.digest})
    candidate = registry.find_registered(where, where.model_name, model) or new
    champion = registry.read_champion(where, where.model_name)
    return standing(ctx, candidate, champion) or decide(ctx, scores, candidate, champion)


def evaluated(ctx: StageContext) -> dict[str, Score]:
    """The evaluation's scores. Raises StageError where the thresholds don't fit them."""
    measured = ctx.inputs["evaluate"].extra
    if SCORES not in measured:
        raise StageError("promote: evaluate's manifest is an earlier version's, without scores; run it again")
    scores = {name: Score(**score) for name, score in measured[SCORES].items()}
    refuse_unfit(ctx.section, scores)
    return scores


def standing(ctx: StageContext, candidate: registry.Version, champion: registry.Champion) -> Decision | None:
    """The decision that was made on this version by this gate and evaluation, unless things have changed.

    Changed is the champion it was compared with, or the alias was not moved as it said.
    """
    if DECISION not in candidate.tags:
        return None
    try:
        made = json.loads(candidate.tags[DECISION])
        decision = Decision(**made | {"reasons": tuple(made["reasons"]), "checks": tuple(made["checks"])})
    except (ValueError, TypeError, KeyError):  # edited by hand
        return None
    now = champion.version.number if champion.version else None
    if decision.fingerprint != ctx.fingerprint:
        return None
    if now == candidate.number:
        return decision if decision.verdict == PROMOTED else None
    moved = decision.verdict != PROMOTED or champion.was(candidate)
    return decision if moved and decision.champion == now else None


def decide(
    ctx: StageContext, scores: Mapping[str, Score], candidate: registry.Version, champion: registry.Champion
) -> Decision:
    """The checks' verdict on the candidate."""
    now = champion.version
    made = checks_of(ctx.section, scores, champion_scores(candidate, now))
    reasons = [check.reason() for check in made if not check.passed]
    verdict = REFUSED if reasons else PROMOTED
    if not reasons and champion.was(candidate) and (now is None or now.number != candidate.number):
        verdict = WITHHELD
        reasons = [f"it was the champion before; `ddt rollback {candidate.number}` makes it that again"]
    return Decision(
        model=candidate.name,
        version=candidate.number,
        digest=candidate.tags["digest"],
        verdict=verdict,
        reasons=tuple(reasons),
        champion=now.number if now else None,
        inputs={stage: manifest.digest for stage, manifest in sorted(ctx.inputs.items())},
        made_from=dict(sorted(ctx.made_from.items())),
        fingerprint=ctx.fingerprint,
        checks=tuple(check.record() for check in made),
        who=registry.who(),
        when=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _carry_out(
    ctx: StageContext, decision: Decision, candidate: registry.Version, champion: registry.Champion
) -> None:
    """Move the alias where the version was promoted, then keep the decision with it, as tags and a file.

    Raises StageError where somebody else moved the alias meanwhile.
    """
    where = ctx.params.tracking
    now = champion.version.number if champion.version else None
    if decision.verdict == PROMOTED and now != candidate.number:
        try:
            registry.move_champion(where, champion, candidate, decision.note())
        except registry.MovedMeanwhile as error:
            raise StageError(f"promote: {candidate.name}: {error}") from None
    record = asdict(decision)
    reasons = "; ".join(decision.reasons) or "every check passed"
    tags = {"verdict": decision.verdict, "verdict_reasons": reasons, DECISION: json.dumps(record)}
    registry.tag_version(where, candidate, tags)
    file = f"decisions/version-{candidate.number}-{decision.when.replace(':', '')}.json"
    registry.keep_record(where, candidate, record, file)


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


def checks_of(
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
    candidate: registry.Version, champion: registry.Version | None
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


def _tagged(version: registry.Version, name: str, text: str) -> Score:
    try:
        value, low, high = (float(number) for number in json.loads(text))
    except (TypeError, ValueError):
        raise StageError(
            f"promote: {version.name} version {version.number} has the tag {name} = {text!r}, "
            "expected [value, low, high]"
        ) from None
    return Score(value, low, high, 0)


def _register(ctx: StageContext, scores: Mapping[str, Score]) -> registry.Version:
    """The candidate's version, with its tokenizer's name and what was measured of it."""
    where = ctx.params.tracking
    tokenizer = registry.register(
        where, where.tokenizer_name, _model(ctx, "tokenizer", "train_tokenizer"), {}
    )
    # What a later candidate is compared with; a version registered before may have been evaluated again.
    measured = {f"{METRIC_TAG}{n}": json.dumps([s.value, s.low, s.high]) for n, s in scores.items()}
    tags = measured | {registry.TOKENIZER: json.dumps({"name": tokenizer.name, "version": tokenizer.number})}
    candidate = registry.register(where, where.model_name, _model(ctx, "model", "finetune"), tags)
    registry.tag_version(where, candidate, tags)
    return candidate


def _model(ctx: StageContext, kind: str, stage: str) -> Model:
    manifest = ctx.inputs[stage]
    return Model(kind, stage, manifest, ctx.store.root_uri, model_key(manifest))


def _commit(ctx: StageContext, decision: Decision) -> Commit:
    path = ctx.folder / "verdict.json"
    record = {name: getattr(decision, name) for name in ("model", "digest", "verdict", "checks")}
    try:
        path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    except OSError as error:
        raise StageError(f"promote: {path} can't be written ({error.strerror})") from None
    unit = unit_id(digest_of(record), ctx.fingerprint)
    stats = {"verdict": decision.verdict}
    return write_unit(ctx.store, ctx.name, ctx.fingerprint, unit, path, 1, stats=stats)
