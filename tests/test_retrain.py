"""The flow that goes on with new data: where there are none it says so and ends; where there are some, they
alone are curated, and the champion is trained on.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ddt.manifest import Manifest
from ddt.params import load_params
from ddt.scenes.crawl import write_shard
from pipelines.commands.ends import find_end
from pipelines.commands.traced import follow
from pipelines.services import registry
from tests.pipelines.commands.test_continuation import add_shard, params_in, save_all
from tests.processes import HANGS_AFTER_S

pytest.importorskip("metaflow")
ROOT = Path(__file__).resolve().parent.parent
BY_SHARD = ("ingest", "recaption", "score")  # a unit of theirs is made from one source shard
MEASURED = ("reconstruct/psnr", "geneval/overall", "vqa/accuracy")
ROWS, SIDE_PX = 200, 32


class Flows:
    """Both flows in a folder of their own: shards, store, workspace, MLflow, Metaflow's runs."""

    def __init__(self, folder: Path, *keys: str) -> None:
        self.folder = folder
        self.keys = [
            f"paths.store={folder}/store",
            f"paths.workspace={folder}/workspace",
            f"tracking.uri=sqlite:///{folder}/mlflow.db",
            f"ingest.source={folder}/crawl",
            *keys,
        ]

    def run(self, flow: str, *options: str) -> str:
        """What a run prints; it must succeed."""
        done = subprocess.run(
            [sys.executable, f"flows/{flow}.py", "run", *options, "--set", " ".join(self.keys)],
            cwd=ROOT,
            env=os.environ | {"METAFLOW_DATASTORE_SYSROOT_LOCAL": str(self.folder / "metaflow")},
            capture_output=True,
            text=True,
            timeout=4 * HANGS_AFTER_S,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        return done.stdout

    def made(self) -> dict[str, Manifest]:
        """The workspace's manifests."""
        return {
            path.stem: Manifest.load(path) for path in (self.folder / "workspace/manifests").glob("*.json")
        }

    def written(self, stage: str) -> dict[str, int]:
        """A stage's commits in the store, with the time of their writing."""
        units = (self.folder / "store" / "units" / stage).rglob("*.json")
        return {str(path): path.stat().st_mtime_ns for path in units}


def test_nothing_new_ends_at_once(tmp_path: Path) -> None:
    (tmp_path / "crawl").mkdir()
    add_shard(tmp_path, 0)
    database = f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"
    save_all(params_in(tmp_path, database))
    said = Flows(tmp_path).run("retrain")
    assert f"Nothing new since the manifests in {tmp_path}/workspace: nothing to do" in said
    assert "/start/" in said and "/end/" in said and "/ingest/" not in said
    assert not (tmp_path / "mlflow.db").exists()  # no run was begun


@pytest.mark.e2e
@pytest.mark.ray
@pytest.mark.slow
def test_new_shards_lead_to_a_next_version(tmp_path: Path) -> None:
    """A whole run, nothing new, a new shard, and nothing new again."""
    # Models of so few steps are worth what chance gives them: here no drop is too much. Two benchmarks need
    # the ground truth of scenes, which shards from a folder are not taken for.
    gate = [f"promote.max_drop.{name}=null" for name in MEASURED]
    gate += [f"promote.min_metric.{name}=null" for name in MEASURED[1:]]
    flows = Flows(tmp_path, f"ingest.holdout={tmp_path}/holdout.tar", *gate)
    where = load_params(ROOT / "params.yaml", "smoke", flows.keys)
    (tmp_path / "crawl").mkdir()
    for index in range(2):
        write_shard(tmp_path / "crawl" / f"{index:05d}.tar", index, ROWS, 17, SIDE_PX, {})
    write_shard(tmp_path / "holdout.tar", 7, ROWS, 17, SIDE_PX, {})
    flows.run("full_pipeline", "--profile", "smoke")
    first, written = flows.made(), {stage: flows.written(stage) for stage in BY_SHARD}
    assert champion(where) == "1"
    nothing_new(flows)

    write_shard(tmp_path / "crawl" / "00002.tar", 2, ROWS, 17, SIDE_PX, {})
    said = flows.run("retrain", "--profile", "smoke")
    assert f"New since the manifests in {tmp_path}/workspace: 00002.tar\n" in said
    assert "Goes on from ddt-llama version 1\n" in said
    second = flows.made()
    for stage in BY_SHARD:
        now = flows.written(stage)
        assert written[stage].items() < now.items() and len(now) == len(written[stage]) + 1, stage
    assert second["train_tokenizer"] == first["train_tokenizer"]
    for stage in ("select", "tokenize_images", "pretrain", "finetune", "evaluate"):
        assert second[stage].digest != first[stage].digest, stage
    assert second["select"].rows == first["select"].rows == where.select.keep

    version = registry.find_version(where.tracking, "ddt-llama", "2")
    assert version is not None and version.tags["verdict"] == "promoted" and champion(where) == "2"
    assert version.tags["digest"] == second["finetune"].digest
    trace = follow(find_end("models:/ddt-llama/2", where), where)
    [pretrain] = [run for run in trace.runs.values() if run.stage == "pretrain"]
    before = registry.find_version(where.tracking, "ddt-llama", "1")
    assert before is not None and pretrain.params["init"] == f"store:{before.tags['key']}"
    nothing_new(flows)
    assert flows.made() == second


def champion(where) -> str:
    found = registry.find_version(where.tracking, "ddt-llama", registry.CHAMPION)
    assert found is not None
    return found.number


def nothing_new(flows: Flows) -> None:
    began = time.monotonic()
    assert ": nothing to do\n" in flows.run("retrain", "--profile", "smoke")
    assert time.monotonic() - began < HANGS_AFTER_S
