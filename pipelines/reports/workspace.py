"""Where the files of a stage lie in the workspace, which shows the last run to people and to DVC."""

from __future__ import annotations

from pathlib import Path


def manifest_path(workspace: Path, stage: str) -> Path:
    """Where a stage's manifest lies in the workspace; DVC tracks this file."""
    return workspace / "manifests" / f"{stage}.json"


def report_path(workspace: Path, stage: str) -> Path:
    """Where a stage's report lies in the workspace."""
    return workspace / "reports" / f"{stage}.json"


def metrics_path(workspace: Path, stage: str) -> Path:
    """Where a stage's metrics lie in the workspace, as `dvc metrics` reads them."""
    return workspace / "metrics" / f"{stage}.json"
