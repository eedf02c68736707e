"""The workspace: a view of the last run for people and DVC. What a run reads comes from the store.

manifests/<stage>.json, metrics/<stage>.json, reports/<stage>.json, and below reports/<stage>/ the pictures
and pages that reports name, those of runs with other parameters or data beside them.
"""

from __future__ import annotations

import json
from pathlib import Path

from ddt.manifest import Manifest
from pipelines.reports.report import Report


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
