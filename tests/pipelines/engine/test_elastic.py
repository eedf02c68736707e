"""Training groups of several sizes: which one is started, and a run that loses a node and gets another."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import pytest
from ray.train import ScalingConfig

from ddt.params import load_params
from ddt.store import mark_complete, open_store
from pipelines.engine import elastic
from pipelines.engine.elastic import LargestThatFits
from pipelines.engine.runner import StageContext
from pipelines.engine.training import Job, group_sizes, run_job, run_training
from pipelines.pretrain import PretrainJob
from pipelines.services.models import publish_model
from pipelines.train_tokenizer import TokenizerJob
from tests.pipelines.engine.two_nodes import grow_from_no_node, lose_and_add_a_node
from tests.pipelines.ray_support import END, GROWN_AT, LOST_AT, RESOURCES, elastic_job
from tests.processes import run_processes
from tests.train.test_fit import SPIKES, Data, Net, loss_fn

FIT = load_params("params.yaml").pretrain.fit


def resources(**options):
    return dataclasses.replace(RESOURCES, **options)


def test_images_are_cut_into_equal_slices_and_rows_into_any():
    fit = dataclasses.replace(FIT, global_batch=12)
    some = resources(train_workers=6, min_train_workers=2)
    assert group_sizes(TokenizerJob, "train_tokenizer", fit, some) == [2, 3, 4, 6]
    assert group_sizes(PretrainJob, "pretrain", fit, some) == [2, 3, 4, 5, 6]
    split = dataclasses.replace(some, tensor_parallel=2)
    assert group_sizes(PretrainJob, "pretrain", fit, split) == [2, 4, 6]
    assert group_sizes(PretrainJob, "pretrain", fit, resources(train_workers=6)) == [6]
    message = "train_tokenizer: global_batch = 12: expected a multiple of its 5 workers"
    with pytest.raises(ValueError, match=message):
        group_sizes(TokenizerJob, "train_tokenizer", fit, resources(train_workers=5, min_train_workers=2))


class Never(Job):
    """A job that must not run."""

    def run(self) -> None:  # type: ignore[override]
        raise AssertionError("trained again")


def test_nothing_is_trained_again_once_the_model_is_published(tmp_path):
    """A worker lost after that starts a group again, whose checkpoints are gone."""
    (tmp_path / "model").mkdir()
    mark_complete(tmp_path / "model")
    store, fingerprint = open_store(tmp_path / "store"), "f" * 64
    identity = {"stage": "pretrain", "store_uri": store.root_uri, "resources": RESOURCES}
    job = f"{__name__}:Never"
    with pytest.raises(AssertionError, match="trained again"):
        run_job(job, identity | {"fingerprint": fingerprint}, {}, [], lambda: False)
    publish_model(store, "pretrain", fingerprint, tmp_path / "model", 1, {})
    assert run_job(job, identity | {"fingerprint": fingerprint}, {}, [], lambda: False) == {}


def test_loss_spikes_are_told_in_the_report(tmp_path, monkeypatch):
    store, fingerprint = open_store(tmp_path / "store"), "e" * 64
    job = Job("pretrain", fingerprint, store.root_uri, RESOURCES, [])
    job.fit(Net(), loss_fn, Data({17: 40.0}), SPIKES)
    job.publish(lambda folder: folder.mkdir(), SPIKES.steps, {"held_out/visual_ce": 1.5})
    params = load_params("params.yaml")
    ctx = StageContext("pretrain", params, params.pretrain, store, tmp_path, fingerprint, {})
    _, report = run_training(ctx, Never)
    assert report.metrics == {"held_out/visual_ce": 1.5}
    (note,) = report.notes
    assert note.startswith("Loss spike: 1") and note.endswith(
        "at step 17; training went back to step 8 and left out batches 16 to 17."
    )


@pytest.fixture
def policy(monkeypatch):
    """A policy for 2, 4 or 6 workers of 2 CPUs, and what is free: a list of CPUs, one a node."""
    scaling = ScalingConfig(
        num_workers=(2, 6), resources_per_worker={"CPU": 2}, elastic_resize_monitor_interval_s=10
    )
    policy = LargestThatFits(scaling, [2, 4, 6], grace_s=30.0, collector=None)
    world = SimpleNamespace(policy=policy, free=[], now=100.0)

    def free_by_node() -> dict[str, dict[str, float]]:
        return {f"node{number}": {"CPU": float(cpus)} for number, cpus in enumerate(world.free)}

    monkeypatch.setattr(elastic, "available_resources_per_node", free_by_node)
    monkeypatch.setattr(policy, "_maybe_send_resource_request", lambda: None)
    monkeypatch.setattr(elastic, "LOOK_S", 0.0)
    monkeypatch.setattr(elastic.time, "monotonic", lambda: world.now)
    return world


def started(world) -> int:
    """Workers that the policy starts now, 0: none yet."""
    return getattr(world.policy.make_decision_for_non_running_worker_group(), "num_workers", 0)


def test_the_full_group_starts_at_once(policy):
    policy.free = [4, 8]
    assert started(policy) == 6


def test_a_smaller_one_starts_after_the_grace_time_and_has_a_size_that_shares(policy):
    policy.free = [7, 5]  # three and two workers
    assert started(policy) == 0
    policy.now += 29
    assert started(policy) == 0
    policy.now += 1
    assert started(policy) == 4
    assert started(policy) == 0  # the next group waits anew
    policy.free = [12]
    assert started(policy) == 6


def test_where_not_even_the_least_fits_ray_waits_for_that(policy):
    policy.free = [3, 1, 1]
    assert started(policy) == 0
    policy.now += 30
    assert started(policy) == 2


def running(*nodes: str) -> SimpleNamespace:
    """A group with workers on these nodes."""
    workers = [SimpleNamespace(metadata=SimpleNamespace(node_id=node)) for node in nodes]
    return SimpleNamespace(num_workers=len(nodes), workers=workers, start_time=100.0)


def test_places_of_a_failed_group_count_where_their_node_lives(policy):
    policy.free = [0, 2]  # node2 is gone
    group = running("node0", "node0", "node1", "node2", "node2", "node2")
    policy.policy.make_decision_for_running_worker_group(group, None)
    assert started(policy) == 0
    policy.now += 30
    assert started(policy) == 4  # three and one


def test_a_running_group_grows_where_there_is_room_and_never_shrinks(policy, monkeypatch):
    monkeypatch.setattr(
        "ray.train.v2._internal.execution.scaling_policy.elastic.time_monotonic", lambda: policy.now
    )
    group = running("node0", "node0", "node0", "node1")

    def resized() -> int:
        return getattr(policy.policy.make_decision_for_running_worker_group(group, None), "num_workers", 0)

    policy.free = [0, 4]
    assert resized() == 0  # looked at every 10 s
    policy.now += 10
    assert resized() == 6
    for free in ([0, 0], [0, 3], [1, 1]):
        policy.free, policy.now = free, policy.now + 10
        assert resized() == 0


@pytest.mark.ray
def test_a_lost_node_s_training_goes_on_with_the_rest_and_grows_again(tmp_path):
    for name in ("alone", "run"):
        (tmp_path / name).mkdir()
    [done] = run_processes(
        lose_and_add_a_node, 1, str(tmp_path / "run")
    )  # a process has one cluster for life
    assert done["restarts"] == 2 and done["consumed_samples"] == END * 8
    assert done["logged"] == list(range(2, END + 1, 2))
    assert done["said"].splitlines() == [f"job: goes on with {size} of 2 workers" for size in (1, 2)]

    whole = elastic_job(str(tmp_path / "alone"), lost_node=None, hooks=[])  # here, in one go
    assert done["weight"] == pytest.approx(whole["weight"], abs=1e-9)
    assert done["loss"] == pytest.approx(whole["loss"], rel=1e-6)  # it is logged in float32
    ours, alone = seen_rows(tmp_path / "run"), seen_rows(tmp_path / "alone")
    for step in range(END):
        workers = 1 if LOST_AT <= step < GROWN_AT else 2
        assert ours[step, workers] == alone[step, 1], step


def seen_rows(folder) -> dict[tuple[int, int], set[int]]:
    """Rows of each step that was taken by so many workers."""
    seen: dict[tuple[int, int], set[int]] = {}
    for line in (folder / "seen").read_text().splitlines():
        entry = json.loads(line)
        seen.setdefault((entry["step"], entry["world"]), set()).update(entry["rows"])
    return seen


@pytest.mark.slow
@pytest.mark.ray
def test_units_wait_for_the_first_node_of_their_kind(tmp_path):
    [found] = run_processes(grow_from_no_node, 1, str(tmp_path))
    assert found == {"asked": "PENDING_CREATION", "squares": [0, 1, 4, 9, 16, 25]}
