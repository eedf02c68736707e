"""Runs one stage: inputs and fingerprint in, commits, manifest, report and an MLflow run out."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ddt.clean import one_line
from ddt.config import to_dict
from ddt.data.refs import STORE_PREFIX, check_reference, resolve
from ddt.manifest import Commit, Manifest, Quarantined, commits, fingerprint
from ddt.params import Params
from ddt.store import FolderStore, Store, StoreError, open_store
from ddt.weights import check_safetensors
from pipelines.engine.cluster import local_cpus, require_cluster
from pipelines.engine.graph import INPUTS, STAGES
from pipelines.engine.quarantine import release, stands, told
from pipelines.reports.cost import cost_of
from pipelines.reports.drift import drift_table
from pipelines.reports.overhead import overhead, overhead_seconds
from pipelines.reports.report import Report
from pipelines.reports.workspace import (
    manifest_path,
    report_key,
    report_path,
    restore,
    show,
    stage_folder,
)
from pipelines.services import tracking
from pipelines.services.stage_run import StageRun
from pipelines.services.surroundings import why_unwritable

if TYPE_CHECKING:
    from pipelines.services.expectations import GateResult

FAILED_GATE = "failed_gate"  # in a manifest: the expectations that this version did not meet
OnMetrics = Callable[[int, dict[str, float]], None]


class StageError(ValueError):
    """A stage cannot start or go on; the message is one line for the user."""

    def __init__(self, message: object) -> None:
        super().__init__(one_line(message))


@dataclass(frozen=True)
class StageContext:
    """All a stage's `run` gets: its own section, its inputs' manifests, the store, a place for pictures."""

    name: str
    params: Params
    section: Any
    store: Store
    workspace: Path
    fingerprint: str
    inputs: dict[str, Manifest]
    on_metrics: OnMetrics = lambda step, metrics: None  # what training tells, as it goes on

    @property
    def made_from(self) -> dict[str, str]:
        """stage -> key in the store of the manifest that this stage reads."""
        return {stage: manifest.key for stage, manifest in self.inputs.items()}

    @property
    def folder(self) -> Path:
        """Local folder for the stage's pictures and pages, inside the workspace."""
        path = stage_folder(self.workspace, self.name, self.fingerprint)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def relative(self, path: Path) -> str:
        """`path` as reports name it: relative to the workspace."""
        return path.resolve().relative_to(self.workspace.resolve()).as_posix()


@dataclass(frozen=True)
class StageResult:
    """What a stage's `run` returns: the commits and facts that make its manifest, its report, and what its
    gate said: a version that fails it is kept and shown, but no stage reads it.
    """

    commits: Sequence[Commit]
    report: Report
    extra: dict[str, Any] = field(default_factory=dict)
    gate: GateResult | None = None
    quarantined: Sequence[Quarantined] = ()


def run_stage(
    name: str,
    params: Params,
    parent_run: str | None = None,
    inputs: Mapping[str, str] | None = None,
    on_metrics: OnMetrics | None = None,
    retry_quarantined: bool = False,
) -> Report:
    """Run stage `name`, or find that nothing is missing; writes its manifest, report and MLflow run.

    inputs: stage -> key in the store of the manifest that it reads. None: those of the workspace.
    on_metrics: is told a training's metrics as it goes on, as MLflow is.
    retry_quarantined: units that failed before and were left out are tried again.
    Raises StageError when an input has not been made, and whatever the stage's own checks raise.
    """
    if name not in STAGES:
        raise StageError(f"unknown stage {name!r}; there are: {', '.join(STAGES)}")
    start, start_overhead = time.perf_counter(), overhead_seconds()
    ctx = stage_context(name, params, inputs)
    module = importlib.import_module(f"pipelines.{name}")
    if retry_quarantined:
        release(ctx.store, name, ctx.fingerprint)
    if is_finished(ctx) and not getattr(module, "ALWAYS_RUNS", False):
        report = _last_report(ctx)
        report.skipped = True
        return report
    require_cluster()  # what can't be done or logged is better known before the work
    if parent_run is None:
        tracking.require_experiment(params.tracking)
    read = {stage: (m.digest, ctx.store.uri(m.key)) for stage, m in ctx.inputs.items()}
    with overhead("mlflow"):
        run = StageRun(
            params.tracking, name, ctx.fingerprint, to_dict(ctx.section), read, ctx.workspace, parent_run
        )
    try:
        result = module.run(replace(ctx, on_metrics=_each(run.on_metrics, on_metrics)))
        return _finish(ctx, result, run, start, start_overhead)
    except BaseException as error:
        run.end(error)
        raise


def _each(*told: OnMetrics | None) -> OnMetrics:
    def tell(step: int, metrics: dict[str, float]) -> None:
        for listener in told:
            if listener is not None:
                listener(step, metrics)

    return tell


def _finish(
    ctx: StageContext, result: StageResult, run: StageRun, start: float, start_overhead: float
) -> Report:
    """Write the stage's MLflow run, report, metrics and manifest."""
    name, failed = ctx.name, () if result.gate is None else result.gate.failed
    manifest = Manifest(
        stage=name,
        fingerprint=ctx.fingerprint,
        inputs={stage: m.digest for stage, m in ctx.inputs.items()},
        commits=tuple(result.commits),
        extra=result.extra | ({FAILED_GATE: list(failed)} if failed else {}),
        made_from=ctx.made_from,
        quarantined=tuple(result.quarantined),
    )
    report = result.report
    if manifest.quarantined:
        report.metrics[f"{name}/quarantined"] = len(manifest.quarantined)
        report.notes += told(manifest.quarantined)
    report.fingerprint, report.digest = ctx.fingerprint, manifest.digest
    report.manifest = manifest.keep(ctx.store)
    for commit in manifest.commits:
        for reason, count in commit.rejects.items():
            report.rejects[reason] = report.rejects.get(reason, 0) + count
    report.work_seconds = time.perf_counter() - start - (overhead_seconds() - start_overhead)
    resources = ctx.params.resources
    report.metrics |= cost_of(name, resources, local_cpus(resources), report.work_seconds)
    before = _report_before(ctx)
    if before is not None and before.digest != report.digest:
        report.tables[f"Against version {before.digest[:16]}, the one before"] = drift_table(report, before)
    if not failed:
        with overhead("mlflow"):
            run.finish(report)
    report.seconds = time.perf_counter() - start
    ctx.store.put_bytes(report_key(manifest.key), report.to_json().encode())
    show(ctx.workspace, manifest, report)
    if result.gate is not None:
        result.gate.require(name)
    return report


def _report_before(ctx: StageContext) -> Report | None:
    path = report_path(ctx.workspace, ctx.name)
    try:
        return Report.load(path) if path.is_file() else None
    except ValueError:  # cut, edited, or of an earlier release
        return None


def stage_context(name: str, params: Params, keys: Mapping[str, str] | None = None) -> StageContext:
    """The context of a stage: inputs loaded, fingerprint computed. Raises StageError for a missing input.

    keys: as `inputs` of `run_stage`.
    """
    module = importlib.import_module(f"pipelines.{name}")
    check_models(name, params)
    workspace, store = require_places(params)
    inputs = {stage: load_input(workspace, store, stage, name, keys) for stage in INPUTS[name]}
    section = getattr(params, name)
    # Of inputs whose shards make one shard each, which its unit names, new ones repeat no work on the old.
    by_shard = getattr(module, "BY_SHARD", ())
    digests = {stage: manifest.digest for stage, manifest in inputs.items() if stage not in by_shard}
    return StageContext(
        name=name,
        params=params,
        section=section,
        store=store,
        workspace=workspace,
        fingerprint=fingerprint(to_dict(section), digests | _models(module, section), module.MODULES),
        inputs=inputs,
    )


def check_models(stage: str, params: Params) -> None:
    """ValueError where a checkpoint that the stage starts from is not there, or is not safetensors."""
    section = getattr(params, stage)
    for name in ("model", "init", "text_tokenizer"):
        reference = getattr(section, name, None)
        if isinstance(reference, str):
            check_reference(f"{stage}.{name}", reference)
            if name != "text_tokenizer" and not reference.startswith(STORE_PREFIX):
                check_safetensors(f"{stage}.{name} = {reference}", resolve(reference))


def require_places(params: Params) -> tuple[Path, Store]:
    """Workspace and store, both seen to take files. Raises StageError naming the one that does not."""
    workspace = writable_folder(params.paths.workspace, "paths.workspace")
    try:
        store = open_store(params.paths.store)
    except StoreError as error:
        raise StageError(f"paths.store: {error}") from None
    if isinstance(store, FolderStore):
        writable_folder(store.root_uri, "paths.store")
    return workspace, store


def writable_folder(path: str, key: str) -> Path:
    """`path` as a folder that can be written to, made if need be. Raises StageError naming `key`."""
    folder = Path(path)
    reason = why_unwritable(folder)
    if reason is not None:
        raise StageError(f"{key} = {path}: can't be written to ({reason})")
    return folder


def load_input(
    workspace: Path, store: Store, stage: str, reader: str, keys: Mapping[str, str] | None = None
) -> Manifest:
    """The manifest of an input stage. Raises StageError that says how to make it."""
    if keys is not None:
        try:
            return _passed(Manifest.kept(store, keys[stage]), reader)
        except StoreError as error:
            raise StageError(f"{reader} needs what this run's {stage} made: {error}") from None
    path = manifest_path(workspace, stage)
    if not path.is_file():
        raise StageError(
            f"{reader} needs {path}, which is not there: run `python -m pipelines {stage}` first"
        )
    manifest = _passed(Manifest.load(path), reader)
    manifest.keep(store)  # it may have come with DVC from another store
    return manifest


def _passed(manifest: Manifest, reader: str) -> Manifest:
    """The manifest. Raises StageError for a version that failed its gate."""
    failed = manifest.extra.get(FAILED_GATE)
    if failed:
        raise StageError(
            f"{reader}: {manifest.stage} version {manifest.digest[:16]} failed its gate, and is not to be "
            f"used: {'; '.join(failed)}"
        )
    return manifest


def _models(module: ModuleType, section: Any) -> dict[str, str]:
    return module.models(section) if hasattr(module, "models") else {}


def _last_report(ctx: StageContext) -> Report:
    """The workspace's; the store's where a manifest came alone, as DVC brings it to a fresh clone."""
    path = report_path(ctx.workspace, ctx.name)
    if path.is_file():
        return Report.load(path)
    return restore(ctx.workspace, ctx.store, Manifest.load(manifest_path(ctx.workspace, ctx.name)))


def is_finished(ctx: StageContext) -> bool:
    """Whether the manifest there is this very computation's and nothing of it was lost.

    What a stage reads beside its inputs it judges itself (`is_current`).
    """
    manifest_file, report_file = manifest_path(ctx.workspace, ctx.name), report_path(ctx.workspace, ctx.name)
    if not manifest_file.is_file():
        return False
    try:
        manifest = Manifest.load(manifest_file)
        if report_file.is_file() and Report.load(report_file).digest != manifest.digest:
            return False
    except ValueError:  # cut or edited: the units tell what is done
        return False
    if manifest.fingerprint != ctx.fingerprint:
        return False
    if manifest.made_from != ctx.made_from or manifest.extra.get(FAILED_GATE):
        return False
    made = commits(ctx.store, ctx.name, ctx.fingerprint)
    if any(commit.unit not in made for commit in manifest.commits):
        return False
    if not stands(ctx.store, manifest, ctx.params.resources):
        return False
    module = importlib.import_module(f"pipelines.{ctx.name}")
    return not hasattr(module, "is_current") or module.is_current(ctx, manifest)
