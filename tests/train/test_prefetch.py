"""Batches made ahead in a thread: what is given, dropped and raised; `fit` with it against `fit` without."""

from __future__ import annotations

import dataclasses
import math
import threading

import pytest

from ddt.train.batching import pinned
from ddt.train.checkpoint import Checkpoints
from ddt.train.feed import Feed
from ddt.train.fit import NonFiniteLoss, fit
from ddt.train.prefetch import Prefetch
from tests.processes import HANGS_AFTER_S
from tests.train.test_fit import CONFIG, RESUMED, SPIKES, Data, Net, assert_same, plain_loss, run


@pytest.fixture
def prefetch():
    """Of squares, but for 13; `begun` says which it was asked to make."""
    begun: list[int] = []

    def make(index: int) -> int:
        begun.append(index)
        if index == 13:
            raise KeyError("unlucky")
        return index**2

    made = Prefetch(make)
    made.begun = begun
    yield made
    made.close()
    assert not threads()


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_each_is_made_once_and_ahead(prefetch):
    assert [prefetch.get(i, i + 1 if i < 4 else None) for i in range(5)] == [0, 1, 4, 9, 16]
    assert prefetch.begun == [0, 1, 2, 3, 4]


def test_the_next_is_made_while_this_one_is_used():
    is_begun, may_end = threading.Event(), threading.Event()

    def make(index: int) -> int:
        if index == 1:
            is_begun.set()
            assert may_end.wait(HANGS_AFTER_S)
        return index

    prefetch = Prefetch(make)
    assert prefetch.get(0, 1) == 0  # does not wait for 1
    assert is_begun.wait(HANGS_AFTER_S)
    may_end.set()
    assert prefetch.get(1, None) == 1
    prefetch.close()


def test_what_is_not_wanted_is_dropped(prefetch):
    assert [prefetch.get(5, 6), prefetch.get(2, 3), prefetch.get(3, None)] == [25, 4, 9]


def test_an_error_comes_when_its_batch_is_asked_for(prefetch):
    assert prefetch.get(12, 13) == 144
    with pytest.raises(KeyError, match="unlucky"):
        prefetch.get(13, 14)
    assert prefetch.get(12, 13) == 144
    assert prefetch.get(14, None) == 196  # 13 was not asked for


@pytest.fixture
def ahead(monkeypatch):
    """`fit` as on an accelerator; no thread may be left of it."""
    monkeypatch.setattr("ddt.train.feed.prefetches", lambda device: True)
    yield
    assert not threads()


def both_ways(request, folder, config, make_data):
    """Model, result and batches asked for, of a run without and of one with a thread."""
    runs = []
    for name in ("inline", "ahead"):
        if name == "ahead":
            request.getfixturevalue("ahead")
        data = make_data()
        runs.append((*run(config, checkpoints=Checkpoints(folder / name), data=data), data.asked))
    return runs


@pytest.mark.parametrize("config", [CONFIG, dataclasses.replace(CONFIG, micro_batch=3)])
def test_fit_asks_for_the_same_batches(request, tmp_path, config):
    inline, ahead = both_ways(request, tmp_path, config, Data)
    assert_same(inline[0], ahead[0])
    assert inline[2] == ahead[2] == list(range(config.steps))


def test_fit_rewinds_to_the_same_weights(request, tmp_path):
    inline, ahead = both_ways(request, tmp_path, SPIKES, lambda: Data({17: 40.0}))
    assert_same(inline[0], ahead[0])
    assert inline[1].events == ahead[1].events and len(ahead[1].events) == 1
    before, after = inline[2][:18], inline[2][18:]
    # 18 was to come after the spike in 17; it is dropped, begun or not.
    assert ahead[2] in ([*before, 18, *after], [*before, *after])


def test_fit_resumes_to_the_same_weights(tmp_path, ahead):
    def stop(step, metrics):
        if step == 8:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run(RESUMED, checkpoints=Checkpoints(tmp_path), hooks=[stop])
    assert not threads()
    resumed_model, resumed = run(RESUMED, checkpoints=Checkpoints(tmp_path))
    assert resumed.resumed_from == 6
    assert_same(run(RESUMED)[0], resumed_model)


def test_errors_end_fit_as_they_do_without(ahead):
    class Broken(Data):
        def batch(self, step, rank=0, world=1):
            if step == 3:
                raise FileNotFoundError("shard 3")
            return super().batch(step, rank, world)

    seen = []
    with pytest.raises(FileNotFoundError, match="shard 3"):
        run(
            dataclasses.replace(CONFIG, log_every=1), data=Broken(), hooks=[lambda step, _: seen.append(step)]
        )
    assert seen == [1, 2, 3]  # the steps on batches 0 to 2
    assert not threads()
    with pytest.raises(NonFiniteLoss, match="step 5"):
        run(CONFIG, data=Data({5: math.nan}))


@pytest.mark.gpu
def test_fit_on_cuda_takes_pinned_batches_and_learns_the_same(monkeypatch):
    class Pinned(Feed):
        def _make(self, index):
            batch = super()._make(index)
            assert batch["x"].is_pinned() and pinned({"x": batch["x"].cuda()})["x"].is_cuda
            return batch

    monkeypatch.setattr("ddt.train.fit.Feed", Pinned)
    models = []
    for is_ahead in (True, False):
        monkeypatch.setattr("ddt.train.feed.prefetches", lambda device, is_ahead=is_ahead: is_ahead)
        models.append(Net().cuda())
        models[-1].dropout.p = 0.0
        fit(models[-1], plain_loss, Data(), CONFIG, progress=False)
        assert not threads()
    assert_same(*models)
