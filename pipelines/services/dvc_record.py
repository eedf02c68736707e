"""Records a finished run in the DVC workspace: dvc.lock then says which versions go together."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import yaml

from ddt.data.refs import STORE_PREFIX
from ddt.params import Params, load_params
from pipelines.reports.workspace import manifest_path

REMOTE = "store"  # DVC's name for the place below `paths.store`


def why_not_recorded(root: Path, params: Params) -> str | None:
    """None where `root` is a DVC workspace whose stages are this run's; else the reason for people.

    A run under a profile keeps its files elsewhere than dvc.yaml says, and DVC would record a run with
    overrides as one of params.yaml's values. The manifests of both are with the MLflow run.
    """
    pipeline = root / "dvc.yaml"
    if not (root / ".dvc").is_dir() or not pipeline.is_file():
        return f"{root} is no DVC workspace"
    if importlib.util.find_spec("dvc") is None:
        return "dvc is not installed"
    if not (_without_git(root) or any((folder / ".git").exists() for folder in (root, *root.parents))):
        return f"{root} is in no git repository, which DVC needs (git init)"
    stages = yaml.safe_load(pipeline.read_text())["stages"]
    paths = {str(manifest_path(Path(params.paths.workspace), stage)) for stage in stages}
    outs = {
        str(out) if isinstance(out, str) else next(iter(out)) for s in stages.values() for out in s["outs"]
    }
    if paths != outs:
        return f"dvc.yaml is for another workspace than {params.paths.workspace}"
    if str(params.pretrain.init).startswith(STORE_PREFIX):
        return "the model goes on from another, which params.yaml does not say"
    recorded = load_params(root / "params.yaml")
    other = [stage for stage in stages if getattr(params, stage) != getattr(recorded, stage)]
    return f"params.yaml has other settings of {', '.join(other)}" if other else None


def _without_git(root: Path) -> bool:
    """Whether the workspace was made by `dvc init --no-scm`."""
    return _settings(root).getboolean("core", "no_scm", fallback=False)


def _settings(root: Path) -> ConfigParser:
    settings = ConfigParser(strict=False, interpolation=None)
    settings.read([root / ".dvc" / "config", root / ".dvc" / "config.local"])
    return settings


def record(root: Path, params: Params) -> str | None:
    """`dvc commit` of what lies in the workspace; None where it was recorded, else why not.

    Where the store is on S3 and DVC has no remote yet, it gets one below the store. A run is not lost with
    its record: DVC's own failure is told as well.
    """
    reason = why_not_recorded(root, params)
    if reason is not None:
        return reason
    store = params.paths.store
    if store.startswith("s3://") and not _settings(root).has_option("core", "remote"):
        reason = _dvc(root, "remote", "add", "--default", REMOTE, f"{store.rstrip('/')}/dvc")
    return reason or _dvc(root, "commit", "--force")


def _dvc(root: Path, *command: str) -> str | None:
    """None where DVC did it, else what it says."""
    words = [sys.executable, "-m", "dvc", *command, "--quiet"]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
    told = " ".join(done.stderr.split())[-200:]
    return f"dvc {command[0]} failed: {told}" if done.returncode else None
