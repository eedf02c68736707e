"""Which failures of workers end a training: the same again, not what a new group is spared."""

from __future__ import annotations

from pipelines.engine.collector import Collector

TORCH, OURS = {"kind": "RuntimeError"}, {"kind": "ValueError"}


def group(collector: Collector, *steps: int, workers: int = 2) -> None:
    """A new group of workers that logs these steps."""
    for rank in range(workers):
        assert not collector.start(rank, workers, 1.0)
    for step in steps:
        collector.add(step, {})


def test_the_same_step_again_ends_the_run():
    collector = Collector()
    for again in (False, True):
        group(collector, 10, 20)
        assert [collector.fail(TORCH, may_pass=True) for _ in range(2)] == [again, again]
    assert collector.outcome() == (TORCH, None) and collector.start(0, 2, 1.0)


def test_another_step_or_a_group_that_got_past_it_does_not():
    collector = Collector()
    for steps in ((10, 20), (10,), (10, 20), (20, 30), (20, 30, 40)):
        group(collector, *steps)
        assert not collector.fail(TORCH, may_pass=True)
    group(collector)  # what began and logged nothing, twice, with a good group between
    assert not collector.fail(TORCH, may_pass=True)
    group(collector, 50)
    group(collector)
    assert not collector.fail(TORCH, may_pass=True)
    assert collector.outcome()[0] == TORCH  # where Ray gives up now, this is why
    group(collector)
    assert collector.outcome()[0] is None and collector.groups == [2] * 9


def test_what_workers_report_after_their_group_s_end_does_not_count():
    collector = Collector()
    for _ in range(3):
        group(collector, 10)
        collector.end_group()
        assert not collector.fail(TORCH, may_pass=True)
    assert collector.outcome() == (None, None)


def test_an_error_of_the_job_ends_the_run_at_once():
    collector = Collector()
    group(collector, 10)
    assert not collector.fail(TORCH, may_pass=True) and collector.fail(OURS, may_pass=False)
    assert collector.outcome()[0] == OURS


def test_a_result_is_no_failure_whatever_came_before():
    collector = Collector()
    group(collector, 10)
    collector.fail(TORCH, may_pass=True)
    group(collector, 10, 20)
    collector.finish("{}")
    assert collector.outcome() == (None, "{}")
    assert collector.start(0, 2, 1.0)  # a worker was lost after that: there is nothing left to do
