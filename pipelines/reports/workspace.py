"""The workspace: a view of the last run for people and DVC. What a run reads comes from the store.

manifests/<stage>.json, metrics/<stage>.json, reports/<stage>.json, and below reports/<stage>/ the pictures
and pages that reports name, those of runs with other parameters or data beside them.
"""

from __future__ import annotations

import json
from pathlib import Path

from ddt.manifest import MANIFESTS, Manifest
from ddt.store import NotFound, Store
from pipelines.reports.report import Report

REPORTS = "reports/"  # where a store keeps them, each under the key of its manifest


def manifest_path(workspace: Path, stage: str) -> Path:
    """Where a stage's manifest lies in the workspace; DVC tracks this file."""
    return workspace / "manifests" / f"{stage}.json"


def report_path(workspace: Path, stage: str) -> Path:
    """Where a stage's report lies in the workspace."""
    return workspace / "reports" / f"{stage}.json"


def metrics_path(workspace: Path, stage: str) -> Path:
    """Where a stage's metrics lie in the workspace, as `dvc metrics` reads them."""
    return workspace / "metrics" / f"{stage}.json"


def stage_folder(workspace: Path, stage: str, fingerprint: str) -> Path:
    """Where the pictures and pages of a stage's run lie in the workspace."""
    return workspace / "reports" / stage / fingerprint[:16]


def show(workspace: Path, manifest: Manifest, report: Report) -> None:
    """Put what a stage made in the workspace."""
    report.save(report_path(workspace, manifest.stage))
    metrics = metrics_path(workspace, manifest.stage)
    metrics.parent.mkdir(parents=True, exist_ok=True)
    metrics.write_text(json.dumps(report.metrics, indent=1, sort_keys=True) + "\n")
    manifest.save(manifest_path(workspace, manifest.stage))  # last: a stage with a manifest is finished


def report_key(manifest_key: str) -> str:
    """Where the store keeps the report beside a manifest: how it went the last time that it was made."""
    return REPORTS + manifest_key.removeprefix(MANIFESTS)


def restore(workspace: Path, store: Store, manifest: Manifest) -> Report:
    """Put a manifest that the store keeps in the workspace, with its report and metrics; returns the report.

    Pictures and pages are with the stage's run in MLflow: the report names those that lie in the workspace.
    An earlier release kept no report; then it is empty.
    """
    key = report_key(manifest.key)
    try:
        report = Report.parse(store.uri(key), store.get_bytes(key).decode())
    except NotFound:
        report = Report(manifest.stage, manifest.fingerprint, manifest.digest, manifest.key)
    for files in (report.pictures, report.pages):
        for title in [title for title, path in files.items() if not (workspace / path).is_file()]:
            del files[title]
    show(workspace, manifest, report)
    return report
