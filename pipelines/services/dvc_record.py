"""Records a finished run in the DVC workspace: dvc.lock then says which versions go together.

dvc.yaml is the pipeline of params.yaml and its workspace. A run in another workspace, as profiles have, gets
the same stages below `records/`, named after the workspace, with its parameters and a dvc.lock of its own.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import yaml

from ddt.config import to_dict
from ddt.params import Params, load_params

REMOTE = "store"  # DVC's name for the place below `paths.store`
RECORDS = "records"  # folder with a pipeline for each workspace that is not dvc.yaml's


def why_not_recorded(root: Path, params: Params) -> str | None:
    """None where a run with `params` is recorded in the DVC workspace at `root`; else the reason for people.

    dvc.yaml and params.yaml are of one workspace. DVC would write down params.yaml's values for whatever lies
    there, so a run with others is recorded in a workspace of its own alone.
    """
    pipeline = root / "dvc.yaml"
    if not (root / ".dvc").is_dir() or not pipeline.is_file():
        return f"{root} is no DVC workspace"
    if importlib.util.find_spec("dvc") is None:
        return "dvc is not installed"
    if not (_without_git(root) or any((folder / ".git").exists() for folder in (root, *root.parents))):
        return f"{root} is in no git repository, which DVC needs (git init)"
    if pipeline_folder(root, params) == root:
        recorded = load_params(root / "params.yaml")
        other = [name for name in _stages(root) if getattr(params, name) != getattr(recorded, name)]
        told = f"params.yaml has other settings of {', '.join(other)}; give the run its own paths.workspace"
        return told if other else None
    if not (root / params.paths.workspace).resolve().is_relative_to(root.resolve()):
        return f"paths.workspace = {params.paths.workspace} is outside of {root}"
    return None


def pipeline_folder(root: Path, params: Params) -> Path:
    """Where dvc.yaml and dvc.lock of a run's workspace are: `root`, or a folder that is named after it."""
    workspace = (root / params.paths.workspace).resolve()
    if workspace == (root / _own_workspace(root)).resolve():
        return root
    return root / RECORDS / os.path.relpath(workspace, root.resolve())


def _stages(root: Path) -> dict[str, Any]:
    stages: dict[str, Any] = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    return stages


def _own_workspace(root: Path) -> str:
    """The workspace of dvc.yaml: where its first manifest is."""
    [manifest] = next(iter(_stages(root).values()))["outs"]
    return Path(manifest).parents[1].as_posix()


def _write_pipeline(root: Path, params: Params) -> None:
    """The same stages for another workspace, with all parameters of the run beside them."""
    folder, stages = pipeline_folder(root, params), {}
    file = (folder / "params.yaml").relative_to(root).as_posix()
    here = folder.relative_to(root / RECORDS).as_posix()
    for name, stage in _stages(root).items():
        moved = _moved(stage, f"{_own_workspace(root)}/", f"{here}/")
        stages[name] = moved | {
            "cmd": f"{stage['cmd']} --params {shlex.quote(file)}",
            "wdir": os.path.relpath(root, folder),
            "params": [{file: stage["params"]}],
        }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(to_dict(params), sort_keys=False, allow_unicode=True))
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))


def _moved(value: Any, before: str, after: str) -> Any:
    """`value` with every path that begins with `before` beginning with `after`."""
    if isinstance(value, dict):
        return {_moved(name, before, after): _moved(item, before, after) for name, item in value.items()}
    if isinstance(value, list):
        return [_moved(item, before, after) for item in value]
    if isinstance(value, str) and value.startswith(before):
        return after + value.removeprefix(before)
    return value


def _without_git(root: Path) -> bool:
    """Whether the workspace was made by `dvc init --no-scm`."""
    return _settings(root).getboolean("core", "no_scm", fallback=False)


def _settings(root: Path) -> ConfigParser:
    settings = ConfigParser(strict=False, interpolation=None)
    settings.read([root / ".dvc" / "config", root / ".dvc" / "config.local"])
    return settings


def record(root: Path, params: Params) -> str | None:
    """`dvc commit` of what lies in the run's workspace; None where it was recorded, else why not.

    Where the store is on S3 and DVC has no remote yet, it gets one below the store. A run is not lost with
    its record: DVC's own failure is told as well.
    """
    reason = why_not_recorded(root, params)
    if reason is not None:
        return reason
    store = params.paths.store
    if store.startswith("s3://") and not _settings(root).has_option("core", "remote"):
        reason = _dvc(root, "remote", "add", "--default", REMOTE, f"{store.rstrip('/')}/dvc")
    folder = pipeline_folder(root, params)
    if folder != root:
        _write_pipeline(root, params)
    return reason or _dvc(root, "commit", "--force", str((folder / "dvc.yaml").relative_to(root)))


def _dvc(root: Path, *command: str) -> str | None:
    """None where DVC did it, else what it says."""
    words = [sys.executable, "-m", "dvc", *command, "--quiet"]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
    told = " ".join(done.stderr.split())[-200:]
    return f"dvc {command[0]} failed: {told}" if done.returncode else None
