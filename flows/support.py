"""What the flow's steps share: reading the settings, running a stage, opening and closing the run."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml
from metaflow import current
from metaflow.exception import METAFLOW_EXIT_DISALLOW_RETRY, MetaflowException, MetaflowInternalError

from ddt.clean import one_line as shortened
from ddt.config import build, merge
from ddt.manifest import Manifest
from ddt.params import Params, load_params, overlay
from ddt.sections.run import TRAININGS, Resources
from ddt.store import open_store
from ddt.yaml_file import read_yaml
from flows.cards import LiveCard, show_failure, show_report
from flows.datastore import config_files, split_options
from flows.interrupts import listen_in_step, told_flow
from flows.remote import overlays, parse_remote, plain
from pipelines.commands.continuation import continued, find_champion, keep_tokenizer, what_is_new
from pipelines.commands.preflight import check_own_data
from pipelines.engine.cluster import begin_shared, local_cpus, require_cluster
from pipelines.engine.failures import is_mistake
from pipelines.engine.graph import INPUTS, STAGES, beside, longest_chain
from pipelines.engine.language_checks import check_language_model
from pipelines.engine.runner import check_models, require_places, run_stage
from pipelines.engine.stopping import last_words
from pipelines.engine.training import group_sizes
from pipelines.reports.cost import total
from pipelines.reports.report import Report
from pipelines.reports.workspace import show
from pipelines.services import lock, tracking
from pipelines.services.dvc_record import pipeline_folder, record, why_not_recorded
from pipelines.services.notify import require_address
from pipelines.services.passwords import put_away, shown
from pipelines.services.surroundings import why_unwritable
from pipelines.train_tokenizer import TokenizerJob, check_codebook

ROOT = Path(__file__).resolve().parent.parent


class StepFailed(MetaflowException):
    """What is told in one line: Metaflow prints it without a traceback, and retries the step."""

    headline = "Step failed"


class Stopped(StepFailed):
    """The step was told to end: it is not retried now, but when the run is resumed."""

    headline = "Step ended"


class Mistake(StepFailed):
    """A user's mistake or bad data: it would only come again, so the step is not retried."""


@contextmanager
def exit_codes(flow: str = "full_pipeline") -> Iterator[None]:
    """Around Metaflow's command line: a step that a mistake ended exits with the code that it never retries.

    So does one that was told to end; a flow that is told lets its steps do so first, see interrupts.py.
    Metaflow itself exits with 1 for every exception, from inside its handler: it is the context of the exit.
    """
    if "step" in sys.argv:
        listen_in_step(METAFLOW_EXIT_DISALLOW_RETRY)
    listening = told_flow(flow) if {"run", "resume"} & set(sys.argv) else nullcontext()
    try:
        with listening:
            yield
    except SystemExit as ended:
        reason = ended.__context__
        if isinstance(reason, Mistake | Stopped):
            sys.exit(METAFLOW_EXIT_DISALLOW_RETRY)
        if isinstance(reason, MetaflowInternalError) and "terminal step" in str(reason):
            # All that Metaflow says of a run that such a step ended, and that it calls an internal error.
            told = "a step could not go on, see its message; then resume, or run again with other parameters"
            print(f"{flow}: {told}", file=sys.stderr)
        raise


def check_command_line(arguments: Sequence[str], flow: str = "full_pipeline") -> list[str]:
    """The arguments as Metaflow may keep them: without the password of `tracking.uri`.

    Refuses wrong parameters before Metaflow starts anything: one line, exit code 2.
    """
    words = split_options(arguments)
    options, files = dict(zip(words, words[1:], strict=False)), config_files(words, ROOT)
    if "run" not in arguments and "remote" not in files:
        return list(arguments)
    try:
        if words.count("--set") > 1:  # Metaflow would take the last and drop the others
            raise ValueError("--set is given twice; expected one, with all keys: --set 'key=value key=value'")
        overrides = options.get("--set", "").split()
        if "remote" in files:
            return _without_password_of(_check_remote(files, options.get("--profile"), overrides), arguments)
        params = load_params(files["conf"], options.get("--profile"), overrides)
        check_language_model(params)  # hours before it is needed
        check_own_data(params)
        require_address(params.notify)
        _check_trainings(params)
        tracking.require_place(put_away(params.tracking.uri))  # the run's steps inherit the password
        for stage in STAGES:
            check_models(stage, params)
        workspace, _ = require_places(params)
        lock.require_free(workspace)
        _require_runs_folder()
        require_cluster()
    except (ValueError, OSError) as error:
        print(shortened(shown(f"{flow}: {error}")), file=sys.stderr)
        sys.exit(2)
    left_out = why_not_recorded(ROOT, params)
    if left_out is not None:
        print(f"{flow}: the run will not be recorded in DVC: {left_out}", file=sys.stderr)
    return _without_password_of(params, arguments)


def _without_password_of(params: Params, arguments: Sequence[str]) -> list[str]:
    uri = params.tracking.uri
    return [argument.replace(uri, put_away(uri)) for argument in arguments]


def _check_remote(files: Mapping[str, Path], profile: str | None, overrides: list[str]) -> Params:
    """The same for steps that run elsewhere: what lies around this machine says nothing of them."""
    conf, remote = read_yaml(files["conf"]), read_yaml(files["remote"])
    parse_remote(remote, conf)
    params = build(Params, lay_over(conf, profile, overrides, remote))
    _check_trainings(params)
    return params


def _check_trainings(params: Params) -> None:
    check_codebook(params.train_tokenizer)
    group_sizes(TokenizerJob, "train_tokenizer", params.train_tokenizer.fit, params.resources)


def _require_runs_folder() -> None:
    """ValueError where Metaflow can't keep its runs."""
    folder = os.environ.get("METAFLOW_DATASTORE_SYSROOT_LOCAL") or str(ROOT)
    reason = why_unwritable(Path(folder))
    if reason is not None:
        raise ValueError(
            f"Metaflow keeps its runs in {folder}, which can't be written to ({reason}); "
            "METAFLOW_DATASTORE_SYSROOT_LOCAL names another folder"
        )


def read_file(text: str) -> dict[str, Any]:
    """The parameter file as Metaflow keeps it: without the password of `tracking.uri`."""
    return _without_password(yaml.safe_load(text))


def _without_password(settings: dict[str, Any]) -> dict[str, Any]:
    tracking = settings.get("tracking")
    if isinstance(tracking, dict) and isinstance(tracking.get("uri"), str):
        return {**settings, "tracking": {**tracking, "uri": put_away(tracking["uri"])}}
    return settings


@contextmanager
def one_line() -> Iterator[None]:
    """A user's mistake, or a failure of the system, ends the step in one line."""
    try:
        yield
    except (ValueError, OSError) as error:
        kind = Mistake if is_mistake(error) else StepFailed
        raise kind(shortened(shown(str(error)))) from None
    except KeyboardInterrupt as told:
        raise Stopped(shortened(last_words(told, current.step_name))) from None


def read_settings(
    conf: Mapping[str, Any], profile: str, overrides: str, remote: Mapping[str, Any]
) -> dict[str, Any]:
    """The run's merged settings as plain types, checked; profiles are looked up in profiles/."""
    with one_line():
        settings = lay_over(plain(conf), profile or None, overrides.split(), plain(remote))
        build(Params, settings)
    return _without_password(settings)  # a profile may have one


def lay_over(
    conf: Mapping[str, Any], profile: str | None, overrides: list[str], remote: Mapping[str, Any]
) -> dict[str, Any]:
    """params.yaml, its profile, a remote file's places and resources, single overrides; unchecked."""
    places = merge(overlay(conf, profile, [], ROOT), overlays(remote))
    return overlay(places, None, overrides, ROOT)


def start_run(settings: dict[str, Any], profile: str) -> str:
    """Open the parent MLflow run; its id."""
    params = build(Params, settings)
    tags = {"metaflow_run": _this_run(), "profile": profile or "default"}
    with one_line():
        lock.take(Path(params.paths.workspace), _this_run(), os.getppid())
        begin_shared(params.resources, os.getppid())  # Ray starts while MLflow does
        return tracking.start_parent(params.tracking, _this_run(), tags, os.getppid())


def _this_run() -> str:
    return f"{current.flow_name}/{current.run_id}"


def news(settings: dict[str, Any]) -> list[str]:
    """What the last run has not seen or not finished, by name; told either way."""
    with one_line():
        params = build(Params, settings)
        found = what_is_new(params)
    place = f"the manifests in {params.paths.workspace}"
    names = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
    print(shortened(f"New since {place}: {names}" if found else f"Nothing new since {place}: nothing to do"))
    return found


def continue_champion(settings: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The settings of a run that goes on from the champion, and the key of its tokenizer's manifest."""
    with one_line():
        champion = find_champion(build(Params, settings))
    print(f"Goes on from {champion.version.name} version {champion.version.number}")
    return continued(settings, champion), champion.tokenizer


def keep_champions_tokenizer(flow: Any) -> None:
    """In the place of training one; its report becomes an artifact and the step's card."""
    with one_line():
        report = keep_tokenizer(build(Params, flow.settings), flow.tokenizer)
    flow.reports = {**flow.reports, report.stage: asdict(report)}
    show_report(report, Path(flow.settings["paths"]["workspace"]))


def run_step(flow: Any, stage: str) -> None:
    """Run the step's stage with the flow's settings; its report becomes an artifact and the step's card.

    What it has to say in words is printed too.
    """
    # Every step of this run shares the Ray cluster of the process that runs the flow, and it ends with it.
    os.environ["DDT_RAY_OWNER"] = str(os.getppid())
    with one_line():
        params = build(Params, flow.settings)
        if stage in beside("train_tokenizer"):
            params = replace(params, resources=beside_training(params.resources))
        lock.take(Path(params.paths.workspace), _this_run(), os.getppid())  # a resumed run has no start
        inputs = {name: flow.reports[name]["manifest"] for name in INPUTS[stage]}
        report = _run_with_card(stage, params, flow.mlflow_run, inputs)
    for note in report.notes:
        print(note)
    flow.reports = {**flow.reports, stage: asdict(report)}
    show_report(report, Path(flow.settings["paths"]["workspace"]))


def _run_with_card(stage: str, params: Params, parent_run: str, inputs: dict[str, str]) -> Report:
    """Run the stage; the step's card tells how far it is, and why it failed where it did."""
    live = LiveCard(stage, getattr(params, stage).fit.steps) if stage in TRAININGS else None
    try:
        report = run_stage(stage, params, parent_run, inputs, live)
    except Exception as error:
        show_failure(stage, error)
        raise
    current.card.clear()
    return report


def beside_training(resources: Resources) -> Resources:
    """What is left of this machine's cores while the tokenizer trains, if that does not take all of them."""
    workers = resources.of_stage("train_tokenizer").train_workers
    taken = (resources.tokenizer_cpus_per_worker or 0) * workers
    left = local_cpus(resources) - taken
    return replace(resources, cpus=left) if taken and left >= 1 else resources


def finish_run(flow: Any) -> dict[str, Any]:
    """Close the run: workspace, DVC, MLflow; returns the summary that the last card shows."""
    params = build(Params, flow.settings)
    reports = {name: Report(**report) for name, report in flow.reports.items()}
    store = open_store(params.paths.store)
    for report in reports.values():  # a resumed run's first stages may have been another's there
        show(Path(params.paths.workspace), Manifest.kept(store, report.manifest), report)
    seconds = time.time() - flow.started
    work = longest_chain({name: r.work_seconds for name, r in reports.items() if not r.skipped})
    workspace = Path(params.paths.workspace)
    spent = total([r.metrics for r in reports.values() if not r.skipped])
    left_out = record(ROOT, params)
    if left_out is not None:
        print(f"Not recorded in DVC: {left_out}; the manifests are with the MLflow run")
    manifests = sorted((workspace / "manifests").glob("*.json"))
    recorded = [] if left_out else [pipeline_folder(ROOT, params) / "dvc.lock"]
    summary = {
        "run": _this_run(),
        "seconds": seconds,
        "work_seconds": work,
        "overhead_seconds": seconds - work,
        "cost": spent,
        "currency": params.resources.prices.currency,
        "dvc": f"not recorded: {left_out}" if left_out else f"recorded in {recorded[0].relative_to(ROOT)}",
        "mlflow_run": flow.mlflow_run,
        "tracking": shown(params.tracking.uri),
        "workspace": str(workspace.resolve()),
        "store": params.paths.store,
        "reports": flow.reports,
    }
    times = {"run/seconds": seconds, "run/work_seconds": work, "run/overhead_seconds": seconds - work}
    tracking.finish_parent(params.tracking, flow.mlflow_run, times | spent, [*manifests, *recorded])
    lock.give_back(workspace, _this_run())
    return summary
