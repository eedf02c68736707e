"""When a run is left out of DVC, and why. DVC itself runs in the flow's test alone."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from ddt.params import load_params
from pipelines.services import dvc_record
from pipelines.services.dvc_record import pipeline_folder, record, why_not_recorded

ROOT = Path(__file__).resolve().parents[3]
PARAMS = load_params(ROOT / "params.yaml")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project as an archive: no .git above it (pytest's folders are in none)."""
    (tmp_path / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", tmp_path / ".dvc" / "config")
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_without_git(project: Path) -> None:
    told = f"{project} is in no git repository, which DVC needs (git init)"
    assert why_not_recorded(project, PARAMS) == record(project, PARAMS) == told
    (project / ".dvc" / "config.local").write_text(
        "[core]\n    no_scm = true\n['remote \"x\"']\n    url = %s\n"
    )
    assert why_not_recorded(project, PARAMS) is None  # made by dvc init --no-scm


def test_with_git_in_or_above_it(project: Path) -> None:
    (project / ".git").write_text("gitdir: elsewhere")  # as in a worktree
    assert why_not_recorded(project, PARAMS) is None
    (project / "part").mkdir()
    for name in (".dvc", "dvc.yaml", "params.yaml"):
        shutil.move(project / name, project / "part" / name)
    assert why_not_recorded(project / "part", PARAMS) is None
    assert why_not_recorded(project, PARAMS) == f"{project} is no DVC workspace"


def test_another_workspace_has_a_pipeline_of_its_own(project: Path) -> None:
    """The same stages on the same code; manifests, parameters and command are the workspace's."""
    (project / ".git").mkdir()
    smoke = load_params(ROOT / "params.yaml", "smoke", ["select.keep=77"])
    assert why_not_recorded(project, smoke) is None
    told = record(project, smoke)
    assert told is not None and told.startswith("dvc commit failed: ")  # nothing lies in the workspace
    folder = pipeline_folder(project, smoke)
    assert folder == project / "records" / "data" / "smoke" / "workspace"
    assert load_params(folder / "params.yaml") == smoke
    ours = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]
    theirs = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert list(ours) == list(theirs)
    file = "records/data/smoke/workspace/params.yaml"
    for name, stage in ours.items():
        assert (folder / stage.pop("wdir")).resolve() == project
        assert stage.pop("cmd") == f"{theirs[name].pop('cmd')} --params {file}"
        assert stage.pop("params") == [{file: theirs[name].pop("params")}]
        moved = json.dumps(theirs[name]).replace("data/workspace/", "data/smoke/workspace/")
        assert stage == json.loads(moved) and stage != theirs[name]


def test_a_workspace_outside_is_not_recorded(project: Path) -> None:
    (project / ".git").mkdir()
    for place in ("/elsewhere/workspace", "../workspace"):
        params = load_params(ROOT / "params.yaml", None, [f"paths.workspace={place}"])
        assert why_not_recorded(project, params) == f"paths.workspace = {place} is outside of {project}"


def test_settings_that_are_not_those_of_the_file(project: Path) -> None:
    """DVC would write down params.yaml's for what was made by others."""
    (project / ".git").mkdir()
    keys = ["select.keep=100", "evaluate.cases=7", "resources.cpus=1", "notify.when=[success]"]
    told = "params.yaml has other settings of select, evaluate; give the run its own paths.workspace"
    assert why_not_recorded(project, load_params(ROOT / "params.yaml", None, keys)) == told
    assert why_not_recorded(project, load_params(ROOT / "params.yaml", None, keys[2:])) is None


def test_without_dvc(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / ".git").mkdir()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert why_not_recorded(project, PARAMS) == "dvc is not installed"


def test_a_commit_that_fails_is_told_and_ends_no_run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / ".git").mkdir()
    answers = [
        SimpleNamespace(returncode=0, stderr=""),
        SimpleNamespace(returncode=255, stderr="ERROR:\n locked\n"),
    ]
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> SimpleNamespace:
        commands.append(command)
        return answers.pop(0)

    monkeypatch.setattr(dvc_record, "subprocess", SimpleNamespace(run=run))
    assert record(project, PARAMS) is None
    assert record(project, PARAMS) == "dvc commit failed: ERROR: locked"
    assert [command[1:6] for command in commands] == [["-m", "dvc", "commit", "--force", "dvc.yaml"]] * 2


def test_a_store_on_s3_is_where_dvcs_remote_is(project: Path) -> None:
    """By DVC itself, and only where there is no remote yet."""
    on_s3 = load_params(ROOT / "params.yaml", None, ["paths.store=s3://bucket/team/"])
    (project / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    told = record(project, on_s3)
    assert told is not None and told.startswith("dvc commit failed: ")  # nothing lies in the workspace
    config = (project / ".dvc" / "config").read_text()
    assert "remote = store" in config and "url = s3://bucket/team/dvc" in config
    other = load_params(ROOT / "params.yaml", None, ["paths.store=s3://bucket/other"])
    record(project, other)
    assert (project / ".dvc" / "config").read_text() == config
