"""A run that was recorded and pushed to S3, and pulled into a fresh clone, which goes on, by DVC itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
import yaml

from ddt.config import to_dict
from ddt.manifest import Manifest
from ddt.params import Params
from pipelines.engine.graph import STAGES
from pipelines.promote import DECISION
from pipelines.reports.workspace import manifest_path, metrics_path, restore
from pipelines.services import registry
from pipelines.services.dvc_record import pipeline_folder, record
from tests.pipelines.lineages import ROOT, Lineages
from tests.pipelines.promotion import PSNR

GIT = {f"GIT_{who}_{what}": "ann" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
FRESH = "Data and pipelines are up to date."


def call(folder: Path, *command: str) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # dvc.yaml says `python`
    done = subprocess.run(
        command, cwd=folder, env=os.environ | GIT | {"PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
    return done.stdout


def dvc(folder: Path, *command: str) -> str:
    return call(folder, sys.executable, "-m", "dvc", *command)


def recorded(project: Path, params: Params, made: Lineages, workspace: str) -> Params:
    """A run in the project's `workspace`, as the flow's last step leaves and records it."""
    ours = replace(params, paths=replace(params.paths, workspace=workspace))
    for manifest in made.make(Path(workspace).parent.name).values():
        restore(project / workspace, made.store, manifest)
    assert record(project, ours) is None
    return ours


def test_what_is_pushed_is_pulled_in_a_fresh_clone(tmp_path: Path, s3_endpoint: str) -> None:
    """The run of params.yaml, and one under a profile; nothing is stale then, and what comes next is made."""
    pytest.importorskip("dvc_s3")
    project, store = tmp_path / "project", f"s3://test-bucket/{tmp_path.name}"
    made = Lineages(tmp_path, f"sqlite:///{tmp_path}/mlflow.db", "team", store)
    params = replace(made.params, paths=replace(made.params.paths, workspace="data/workspace"))
    project.mkdir()
    for name in ("ddt", "pipelines", "profiles", ".dvc"):
        shutil.copytree(
            ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__", "cache", "tmp")
        )
    for name in ("dvc.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, project / name)
    (project / "params.yaml").write_text(yaml.safe_dump(to_dict(params)))
    call(project, "git", "init", "--quiet")
    runs = [recorded(project, params, made, f"data/{name}workspace") for name in ("", "smoke/")]
    assert [pipeline_folder(project, run).name for run in runs] == ["project", "workspace"]
    dvc(project, "push")
    call(project, "git", "add", "--all")
    call(project, "git", "commit", "--quiet", "--message", "two runs")
    objects = boto3.client("s3", region_name="us-east-1").list_objects_v2(
        Bucket="test-bucket", Prefix=f"{tmp_path.name}/dvc/"
    )
    assert objects["KeyCount"] >= 2 * len(STAGES)

    clone = tmp_path / "clone"
    call(tmp_path, "git", "clone", "--quiet", str(project), str(clone))
    assert not (clone / "data").exists()
    dvc(clone, "pull")
    for run in runs:
        for stage in STAGES:
            here, there = (place / run.paths.workspace for place in (clone, project))
            assert Manifest.load(manifest_path(here, stage)) == Manifest.load(manifest_path(there, stage))
            assert metrics_path(here, stage).read_text() == metrics_path(there, stage).read_text()
    assert dvc(clone, "status").strip() == FRESH
    smoke = pipeline_folder(clone, runs[1]) / "params.yaml"
    smoke.write_text(smoke.read_text().replace("questions:", "questions: 7 #"))
    said = dvc(clone, "status")
    assert "evaluate" in said and "promote" not in said and "finetune" not in said

    stricter = replace(params, promote=replace(params.promote, min_metric={PSNR: 22.5}))
    (clone / "params.yaml").write_text(yaml.safe_dump(to_dict(stricter)))
    said = dvc(clone, "repro", "promote")
    skipped = [line.split("'")[1] for line in said.splitlines() if line.endswith("didn't change, skipping")]
    assert sorted(skipped) == sorted(STAGES[: STAGES.index("promote")])
    workspaces = [place / params.paths.workspace for place in (clone, project)]
    now, before = (Manifest.load(manifest_path(workspace, "promote")) for workspace in workspaces)
    assert now.digest != before.digest and now.inputs == before.inputs
    version = registry.find_version(params.tracking, "team", "1")
    assert version is not None and "22.5" in version.tags[DECISION]
    assert "promote" not in dvc(clone, "status")
