"""Where Metaflow keeps a run: below `paths.store` where that is on S3, unless it is told otherwise itself."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.datastore import follow_store

ROOT = Path(__file__).resolve().parent.parent
NAMES = (
    "METAFLOW_DEFAULT_DATASTORE", "METAFLOW_DATASTORE_SYSROOT_S3", "METAFLOW_S3_ENDPOINT_URL",
    "METAFLOW_S3_WORKER_COUNT", "METAFLOW_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3",
)  # fmt: skip
Place = Callable[..., str | None]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Where Metaflow would keep what a command line asks for; None: in its folder."""
    monkeypatch.setenv("METAFLOW_DATASTORE_SYSROOT_LOCAL", str(tmp_path))
    monkeypatch.setenv("METAFLOW_HOME", str(tmp_path / "home"))

    def place(*arguments: str, **environment: str) -> str | None:
        with pytest.MonkeyPatch.context() as inner:
            for name in NAMES:
                inner.setenv(name, "")  # so that what is set is undone
                inner.delenv(name)
            for name, value in environment.items():
                inner.setenv(name, value)
            follow_store(arguments, ROOT)
            found = {name: os.environ.get(name) for name in NAMES}
        if found["METAFLOW_DEFAULT_DATASTORE"] is None:
            assert found["METAFLOW_DATASTORE_SYSROOT_S3"] is None
            return None
        assert found["METAFLOW_DEFAULT_DATASTORE"] == "s3" and found["METAFLOW_S3_WORKER_COUNT"] == "1"
        assert found["METAFLOW_S3_ENDPOINT_URL"] == environment.get("AWS_ENDPOINT_URL")
        return found["METAFLOW_DATASTORE_SYSROOT_S3"]

    return place


def test_a_run_says_it_and_what_follows_remembers(place: Place) -> None:
    assert place("resume") is None and place("run") is None
    assert place("run", "--set", "select.keep=9 paths.store=s3://team/ddt/") == "s3://team/ddt/metaflow"
    for command in (["resume"], ["card", "view", "end"], ["logs", "7/end"]):
        assert place(*command, AWS_ENDPOINT_URL="http://here") == "s3://team/ddt/metaflow"
    assert place("run", "--profile=paper") == "s3://ddt-llama/paper/metaflow"
    assert place("resume") == "s3://ddt-llama/paper/metaflow"
    assert place("run", "--profile", "smoke") is None
    assert place("resume") is None


def test_a_remote_file_says_it_for_every_command(place: Place) -> None:
    remote = ("--config", "remote", str(ROOT / "infra" / "kubernetes.yaml"))
    for command in (["run", "--profile", "h200"], ["resume"], ["argo-workflows", "create"]):
        assert place(*remote, *command) == "s3://ddt-llama/store/metaflow"
    assert place(*remote, "run", "--set", "paths.store=s3://mine") == "s3://mine/metaflow"


def test_what_metaflow_is_told_stands(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_s3 = ("run", "--set", "paths.store=s3://team/ddt")
    monkeypatch.setenv("METAFLOW_DEFAULT_DATASTORE", "local")
    follow_store(on_s3, ROOT)
    assert os.environ["METAFLOW_DEFAULT_DATASTORE"] == "local"
    assert "METAFLOW_DATASTORE_SYSROOT_S3" not in os.environ
    monkeypatch.delenv("METAFLOW_DEFAULT_DATASTORE")
    step = ("--datastore", "s3", "--datastore-root", "s3://pod/metaflow", "step", "ingest", "--run-id", "7")
    assert place(*step) is None
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.json").write_text(json.dumps({"METAFLOW_DATASTORE_SYSROOT_S3": "s3://team"}))
    assert place(*on_s3) is None


def test_what_is_wrong_is_told_by_others(place: Place) -> None:
    for wrong in ("--profile=none", "--set=paths.store", "--set=paths=[]", "--config conf /no/file"):
        assert place("run", *wrong.split()) is None
