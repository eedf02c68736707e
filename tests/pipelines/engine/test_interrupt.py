"""A training that is told to end has a checkpoint made first, whoever is told: its driver or a worker."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path

import pytest

from ddt.train.checkpoint import Checkpoints
from pipelines.engine.cluster import connect
from pipelines.engine.fit import train
from pipelines.engine.stopping import Terminated, exit_code, last_words, terminated_by_sigterm
from tests.pipelines.ray_support import RESOURCES, told_job


@pytest.fixture
def handlers():
    """Of a driver's process; those of the tests' own come back."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler), signal.getsignal(signal.SIGTERM)
    terminated_by_sigterm()
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # Ray's own did not stay
    signal.signal(signal.SIGINT, before[0])
    signal.signal(signal.SIGTERM, before[1])


@pytest.fixture(scope="module")
def ray_cluster():
    with connect(RESOURCES):
        yield


def run(folder: Path, on_metrics, tell: str = "", **options):
    """Trains until it is told to end by `on_metrics`, or a worker by itself."""
    (folder / "job").mkdir(exist_ok=True)
    resources = dataclasses.replace(RESOURCES, **options)
    job_args, sizes = {"folder": str(folder / "job"), "tell": tell}, [resources.train_workers]
    job = "tests.pipelines.ray_support:told_job"
    return train(job, job_args, resources, sizes, folder / "ray", "job", 12, on_metrics)


def once(number: int):
    """A hook that sends the signal to this process when the first metrics come."""
    left = [number]

    def tell(step: int, metrics: dict[str, float]) -> None:
        if left:
            os.kill(os.getpid(), left.pop())

    return tell


@pytest.mark.ray
@pytest.mark.parametrize(("number", "kind", "name"), [
    (signal.SIGINT, KeyboardInterrupt, "Ctrl-C"), (signal.SIGTERM, Terminated, "SIGTERM"),
])  # fmt: skip
def test_a_driver_that_is_told_loses_no_step(ray_cluster, handlers, tmp_path, capfd, number, kind, name):
    whole = told_job(str(tmp_path / "here"), "", hooks=[])
    with pytest.raises(kind) as told:
        run(tmp_path, once(number))
    step = Checkpoints(tmp_path / "job").latest().step
    assert str(told.value) == (
        f"job: ended by {name}; a checkpoint of step {step} is saved; the same command, or resume, goes on "
        "from the newest one"
    )
    assert f"job: {name}: a checkpoint is made, which may take 60 s" in capfd.readouterr().err
    resumed = run(tmp_path, None)
    assert resumed.result["resumed_from"] == step and resumed.result["weight"] == whole["weight"]


@pytest.mark.ray
def test_a_worker_that_is_told_is_followed_by_a_new_group(ray_cluster, handlers, tmp_path, caplog):
    """SIGTERM comes to the second of two workers; neither loses a step, and no restart is used up."""
    (tmp_path / "whole").mkdir()
    whole = run(tmp_path / "whole", None, train_workers=2)
    told = run(tmp_path, None, tell="worker", train_workers=2, max_failures=0)
    step = told.result["resumed_from"]
    assert step > 0 and f"a new group goes on from a checkpoint of step {step}" in caplog.text
    assert told.result["weight"] == whole.result["weight"] and told.restarts == 1


@pytest.mark.ray
def test_a_job_that_does_not_stop_is_ended_when_the_grace_is_over(ray_cluster, handlers, tmp_path):
    with pytest.raises(Terminated, match=r"no checkpoint within 0\.2 s \(resources\.grace_s\)"):
        run(tmp_path, once(signal.SIGTERM), tell="deaf", grace_s=0.2)


def test_what_a_command_says_and_exits_with():
    kept = "what was finished is kept, run the same command to go on"
    assert (exit_code(KeyboardInterrupt()), exit_code(Terminated())) == (130, 143)
    assert last_words(Terminated()) == f"ddt: ended by SIGTERM; {kept}"
    assert last_words(KeyboardInterrupt("job: ended")) == "job: ended"
