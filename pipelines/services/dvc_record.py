"""Records a finished run in the DVC workspace: dvc.lock then says which versions go together."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from ddt.params import Params
from pipelines.reports.workspace import manifest_path


def record(root: Path, params: Params) -> bool:
    """`dvc commit` where `root` is a DVC workspace whose stages are this run's; True if it was recorded.

    A run under a profile keeps its files elsewhere than dvc.yaml says; its manifests go to MLflow instead.
    """
    pipeline = root / "dvc.yaml"
    if not (root / ".dvc").is_dir() or not pipeline.is_file():
        return False
    stages = yaml.safe_load(pipeline.read_text())["stages"]
    paths = {str(manifest_path(Path(params.paths.workspace), stage)) for stage in stages}
    outs = {
        str(out) if isinstance(out, str) else next(iter(out)) for s in stages.values() for out in s["outs"]
    }
    if paths != outs:
        return False
    command = [sys.executable, "-m", "dvc", "commit", "--force", "--quiet"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"dvc commit failed: {' '.join(done.stderr.split())[-300:]}")
    return True
