"""The flow that goes on with new data, where there are none: it says so and ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipelines.commands.test_continuation import add_shard, params_in, save_all
from tests.processes import HANGS_AFTER_S

pytest.importorskip("metaflow")
ROOT = Path(__file__).resolve().parent.parent


def test_nothing_new_ends_at_once(tmp_path: Path) -> None:
    (tmp_path / "crawl").mkdir()
    add_shard(tmp_path, 0)
    database = f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"
    save_all(params_in(tmp_path, database))
    keys = (f"paths.store={tmp_path}/store", f"paths.workspace={tmp_path}/workspace")
    overrides = " ".join([*keys, f"ingest.source={tmp_path}/crawl", database])
    done = subprocess.run(
        [sys.executable, "flows/retrain.py", "run", "--set", overrides],
        cwd=ROOT,
        env=os.environ | {"METAFLOW_DATASTORE_SYSROOT_LOCAL": str(tmp_path / "metaflow")},
        capture_output=True,
        text=True,
        timeout=HANGS_AFTER_S,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"Nothing new since the manifests in {tmp_path}/workspace: nothing to do" in done.stdout
    assert "/start/" in done.stdout and "/end/" in done.stdout and "/ingest/" not in done.stdout
    assert not (tmp_path / "mlflow.db").exists()  # no run was begun
