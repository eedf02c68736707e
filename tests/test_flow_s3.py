"""The smoke run with `paths.store` on S3 and nothing else set: all that follows it is there, and a fresh
clone goes on from the store alone.

The clone is a git repository with DVC whose params.yaml has the smoke profile's values, so that the run is
recorded as well: DVC keeps what is of params.yaml alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
import yaml

from ddt.manifest import Manifest
from ddt.params import overlay
from ddt.yaml_file import read_yaml
from pipelines.engine.graph import STAGES
from tests.processes import HANGS_AFTER_S
from tests.secret_search import find

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.slow]
ROOT = Path(__file__).resolve().parent.parent
COPIED = (
    "ddt",
    "pipelines",
    "flows",
    "profiles",
    "params.yaml",
    "dvc.yaml",
    ".dvc",
    ".gitignore",
    ".dvcignore",
)
KEY = "fake/Secret+Access/Key"
GIT = {f"GIT_{who}_{what}": "ann" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


class Clone:
    """The repository in a folder of its own, with `paths.store` on S3 and a database shared with others."""

    def __init__(self, folder: Path, name: str, store: str) -> None:
        self.folder, self.root, self.log = folder, folder / name, folder / f"{name}.log"
        keys = (f"paths.store={store}", "paths.workspace=data/workspace")
        self.keys = [*keys, f"tracking.uri=sqlite:///{folder}/mlflow.db"]
        self.environment = os.environ | GIT | {"XDG_CACHE_HOME": str(folder / f"{name}-cache")}
        self.environment |= {"AWS_SECRET_ACCESS_KEY": KEY, "PYTHONPATH": str(self.root)}
        self.environment.pop("OMP_NUM_THREADS", None)

    def call(self, *command: str) -> str:
        """What a command prints in the clone; it must succeed."""
        done = subprocess.run(
            command, cwd=self.root, env=self.environment, text=True, timeout=4 * HANGS_AFTER_S,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        with self.log.open("a") as log:
            log.write(done.stdout)
        assert done.returncode == 0, done.stdout[-4000:]
        return done.stdout

    def flow(self, *command: str) -> str:
        return self.call(sys.executable, "flows/full_pipeline.py", *command)

    def ddt(self, *command: str) -> str:
        keys = [word for key in self.keys for word in ("--set", key)]
        return self.call(sys.executable, "-m", "pipelines", *command, *keys)

    def dvc(self, *command: str) -> str:
        return self.call(sys.executable, "-m", "dvc", *command)

    def digests(self) -> dict[str, str]:
        manifests = (self.root / "data" / "workspace" / "manifests").glob("*.json")
        return {path.stem: Manifest.load(path).digest for path in manifests}


@pytest.fixture(scope="module")
def store(s3_endpoint: str) -> str:
    return "s3://test-bucket/team"


@pytest.fixture(scope="module")
def made(store: str, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    clone = Clone(tmp_path_factory.mktemp("s3"), "made", store)
    clone.root.mkdir()
    for name in COPIED:
        source, target = ROOT / name, clone.root / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "cache", "tmp"))
        else:
            shutil.copy(source, target)
    smoke = overlay(read_yaml(ROOT / "params.yaml"), "smoke", [], ROOT)
    (clone.root / "params.yaml").write_text(yaml.safe_dump(smoke))
    clone.call("git", "init", "--quiet")
    clone.flow("run", "--set", " ".join(clone.keys))
    clone.call("git", "add", "--all")
    clone.call("git", "commit", "--quiet", "--message", "a run")
    return clone


def test_all_of_it_is_below_the_store(made: Clone, tmp_path: Path) -> None:
    """Left here are manifests, reports, Metaflow's and MLflow's lists of runs, and nowhere the key to S3."""
    bucket = boto3.resource("s3", region_name="us-east-1").Bucket("test-bucket")
    keys = {each.key for each in bucket.objects.filter(Prefix="team/")}
    for stage in STAGES:
        assert any(key.startswith(f"team/shards/{stage}/") for key in keys) or stage in ("promote", "score")
        assert any(key.startswith(f"team/manifests/{stage}/") for key in keys)
        assert any(f"/steps/{stage}/" in key and key.endswith(".html") for key in keys), f"no card of {stage}"
    assert any(key.startswith("team/mlartifacts/") and key.endswith("MLmodel") for key in keys)
    assert any(key.startswith("team/metaflow/FullPipeline/data/") for key in keys)
    here = made.root / ".metaflow" / "FullPipeline"
    assert here.is_dir() and not (here / "data").exists()
    assert not (made.folder / "mlartifacts").exists() and not (made.root / "data" / "store").exists()
    assert "url = s3://test-bucket/team/dvc" in (made.root / ".dvc" / "config").read_text()
    for key in sorted(keys):
        path = tmp_path / "s3" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bucket.Object(key).get()["Body"].read())
    for folder in (made.folder, tmp_path):
        assert find(folder, {"key": KEY, "store": "test-bucket/team"})["key"] == []
    assert find(tmp_path, {"store": "test-bucket/team"})["store"], "the objects were not read"


def test_commands_that_are_not_told_the_store_find_the_run(made: Clone, tmp_path: Path) -> None:
    made.flow("card", "get", "end", str(tmp_path / "end.html"))
    assert find(tmp_path, {"in its summary": "What went in and what came out"})["in its summary"]


def test_a_fresh_clone_goes_on(made: Clone) -> None:
    """`ddt restore` of what was tuned; what was made before is done, and evaluating it gives the same."""
    clone = Clone(made.folder, "fresh", "s3://test-bucket/team")
    subprocess.run(["git", "clone", "--quiet", made.root, clone.root], check=True)
    assert not (clone.root / "data").exists()
    tuned = made.digests()["finetune"]
    clone.ddt("restore", tuned[:16])
    assert "finetune: nothing to do, all is there" in clone.ddt("finetune")
    assert f"version {made.digests()['evaluate'][:16]}" in clone.ddt("evaluate")
    wanted = {stage: digest for stage, digest in made.digests().items() if stage != "promote"}
    assert clone.digests() == wanted
    clone.ddt("restore", "models:/ddt-llama@candidate")
    changed = clone.dvc("status", "evaluate")
    assert "changed deps" not in changed  # without `dvc pull` the outs are here, and not in DVC's cache
