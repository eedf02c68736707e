"""Who waits for whom, and what each may use meanwhile."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ddt.sections.run import StageResources
from flows.support import beside_training
from pipelines.engine.fit import _cpus_per_worker
from pipelines.engine.graph import INPUTS, STAGES, beside, longest_chain
from tests.pipelines.ray_support import RESOURCES


def test_stages_come_after_what_they_read():
    for place, stage in enumerate(STAGES):
        assert all(STAGES.index(name) < place for name in INPUTS[stage])


def test_curation_runs_beside_the_tokenizers_training():
    assert beside("train_tokenizer") == ("recaption", "score", "select")
    assert beside("score") == ("train_tokenizer",)
    assert beside("pretrain") == beside("ingest") == ()


def test_the_longer_of_two_branches_counts():
    seconds = dict.fromkeys(STAGES, 1.0)
    assert longest_chain(seconds) == 9.0  # all but the tokenizer's training, which runs beside three stages
    assert longest_chain(seconds | {"train_tokenizer": 10.0}) == 16.0
    assert longest_chain({"ingest": 2.0, "recaption": 3.0}) == 5.0


@pytest.mark.parametrize(
    ("workers", "cpus", "expected"), [(1, 2.0, 2.0), (2, 5.0, 2.0), (2, 1.0, 0.5), (4, 4.0, 1.0)]
)
def test_workers_share_the_cores_even_where_they_are_more(workers, cpus, expected):
    resources = replace(RESOURCES, train_workers=workers)
    assert _cpus_per_worker(resources, cpus) == expected
    assert _cpus_per_worker(replace(resources, train_cpus_per_worker=3), cpus) == 3.0


def test_only_the_tokenizer_has_cores_of_its_own():
    resources = replace(RESOURCES, train_cpus_per_worker=4, tokenizer_cpus_per_worker=1)
    assert resources.of_stage("train_tokenizer").train_cpus_per_worker == 1
    accelerated = replace(resources, gpus_per_actor=1.0)
    assert accelerated.of_stage("ingest").gpus_per_actor == 0  # it has no model
    assert accelerated.of_stage("recaption").gpus_per_actor == 1
    assert resources.of_stage("pretrain") == resources
    stages = {"score": StageResources(gpus_per_actor=0.25, max_actors=8), "ingest": StageResources(2.0)}
    own = replace(accelerated, stages=stages, cpus_per_actor=4)
    found = {stage: own.of_stage(stage) for stage in ("ingest", "score", "evaluate", "pretrain")}
    assert [(r.cpus_per_actor, r.gpus_per_actor, r.max_actors) for r in found.values()] == [
        (2.0, 0, None), (4, 0.25, 8), (4, 1.0, None), (4, 1.0, None),
    ]  # fmt: skip
    assert (found["score"].actors_on(64), found["evaluate"].actors_on(64)) == (8, 16)
    with pytest.raises(ValueError, match=r"stages.pretrain: expected one of ingest, "):
        replace(resources, stages={"pretrain": StageResources()})
    unset = replace(resources, tokenizer_cpus_per_worker=None)
    assert unset.of_stage("train_tokenizer").train_cpus_per_worker == 4


def test_a_stage_may_have_workers_of_its_own():
    many = replace(RESOURCES, train_workers=12, min_train_workers=8, tensor_parallel=4)
    resources = replace(many, tokenizer_workers=3, finetune_workers=8)
    assert resources.of_stage("pretrain") == resources
    tuning, tokenizer = resources.of_stage("finetune"), resources.of_stage("train_tokenizer")
    assert (tuning.train_workers, tuning.min_train_workers, tuning.tensor_parallel) == (8, 8, 4)
    assert (tokenizer.train_workers, tokenizer.min_train_workers, tokenizer.tensor_parallel) == (3, 3, 1)
    assert many.of_stage("finetune") == many
    assert replace(resources, min_train_workers=None).of_stage("finetune").min_train_workers is None


@pytest.mark.parametrize(("cpus", "taken", "left"), [(2, 1, 1), (4, 1, 3), (1, 1, 1), (2, None, 2)])
def test_curation_gets_the_cores_that_training_leaves(cpus, taken, left):
    resources = replace(RESOURCES, cpus=cpus, train_workers=1, tokenizer_cpus_per_worker=taken)
    assert beside_training(resources).cpus == left
