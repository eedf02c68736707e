"""Training on Ray Train: a killed worker resumes to the same weights, failures end in one clear line."""

from __future__ import annotations

import dataclasses

import pytest

from pipelines.engine.cluster import connect
from pipelines.engine.fit import TrainingError, TrainingInputError, _failure, train
from tests.pipelines.ray_support import RESOURCES, train_job

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def ray_cluster():
    with connect(RESOURCES):
        yield


def run(folder, kill_at=0, error="", on_metrics=None, **options):
    (folder / "job").mkdir()
    job_args = {"folder": str(folder / "job"), "kill_at": kill_at, "error": error}
    resources = dataclasses.replace(RESOURCES, **options)
    job, sizes = "tests.pipelines.ray_support:train_job", [resources.train_workers]
    return train(job, job_args, resources, sizes, folder / "ray", "job", 12, on_metrics)


def test_a_killed_worker_goes_on_from_the_last_checkpoint(ray_cluster, tmp_path, capfd):
    (tmp_path / "here").mkdir()
    whole = train_job(str(tmp_path / "here"), kill_at=0, error="", hooks=[])  # in this process, without Ray
    seen: list[int] = []
    killed = run(tmp_path, kill_at=6, on_metrics=lambda step, metrics: seen.append(step))
    assert killed.restarts == 1 and killed.result["resumed_from"] == 4
    assert killed.result["weight"] == whole["weight"] and killed.result["loss"] == whole["loss"]
    assert killed.result["threads"] == 2  # one worker has all the machine's cores
    assert killed.result["waiting"] == "2000"  # two threads that wait awake take each other's core
    assert [entry["step"] for entry in killed.history] == [2, 4, 6, 8, 10, 12]
    assert killed.history[-1]["train/loss"] == whole["loss"]
    assert seen[-4:] == [6, 8, 10, 12]
    assert "job: 12/12 steps" in capfd.readouterr().err


def test_a_users_mistake_is_one_line_and_not_retried(ray_cluster, tmp_path):
    with pytest.raises(TrainingInputError, match=r"^job: too bad$"):
        run(tmp_path, error="user", train_workers=2, max_failures=-1)


def test_an_error_of_torch_s_ends_the_run_when_it_comes_again(ray_cluster, tmp_path):
    with pytest.raises(TrainingError, match=r"^job: RuntimeError: too bad$"):
        run(tmp_path, error="torch", max_failures=-1)
    assert len((tmp_path / "job/began").read_text()) == 2


def test_our_own_failure_names_its_kind(caplog):
    failure = {"kind": "ZeroDivisionError", "reason": "too bad", "user": False, "trace": "in train_job"}
    error = _failure("job", failure)
    assert str(error) == "job: ZeroDivisionError: too bad" and not isinstance(error, ValueError)
    assert "in train_job" in caplog.text


def test_no_restart_left_is_said(ray_cluster, tmp_path):
    with pytest.raises(TrainingError, match="^job: "):
        run(tmp_path, kill_at=2, max_failures=0)
