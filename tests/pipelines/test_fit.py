"""Training on Ray Train: a killed worker resumes to the same weights, failures end in one clear line."""

from __future__ import annotations

import dataclasses

import pytest

from pipelines.cluster import connect
from pipelines.fit import TrainingError, TrainingInputError, train
from tests.pipelines.ray_support import RESOURCES

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def ray_cluster():
    with connect(RESOURCES):
        yield


def run(folder, kill_at=0, error="", **options):
    (folder / "job").mkdir()
    job_args = {"folder": str(folder / "job"), "kill_at": kill_at, "error": error}
    resources = dataclasses.replace(RESOURCES, **options)
    job = "tests.pipelines.ray_support:train_job"
    return train(job, job_args, resources, folder / "ray", "job", steps=12)


def test_a_killed_worker_goes_on_from_the_last_checkpoint(ray_cluster, tmp_path_factory, capfd):
    whole = run(tmp_path_factory.mktemp("whole"))
    assert whole.restarts == 0 and whole.result["resumed_from"] == 0
    assert whole.result["threads"] == 2  # one worker has the machine's cores
    assert [entry["step"] for entry in whole.history] == [2, 4, 6, 8, 10, 12]
    assert whole.history[-1]["train/loss"] == whole.result["loss"]
    assert "job: 12/12 steps" in capfd.readouterr().err
    killed = run(tmp_path_factory.mktemp("killed"), kill_at=6)
    assert killed.restarts == 1 and killed.result["resumed_from"] == 4
    assert killed.result["weight"] == whole.result["weight"]
    assert [entry["step"] for entry in killed.history] == [2, 4, 6, 8, 10, 12]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_users_mistake_is_one_line_and_not_retried(ray_cluster, tmp_path, workers):
    with pytest.raises(TrainingInputError, match=r"^job: too bad$"):
        run(tmp_path, error="user", train_workers=workers)


def test_our_own_failure_names_its_kind(ray_cluster, tmp_path):
    with pytest.raises(TrainingError, match=r"^job: ZeroDivisionError: too bad$"):
        run(tmp_path, error="ours")


def test_no_restart_left_is_said(ray_cluster, tmp_path):
    with pytest.raises(TrainingError, match="^job: "):
        run(tmp_path, kill_at=2, max_failures=0)
