"""The watchdog against a clock that the test moves."""

from __future__ import annotations

from pipelines.engine.watchdog import Watchdog


def test_it_tells_once_a_limit_and_not_after_progress(caplog):
    now = [0.0]
    watchdog = Watchdog("pretrain", 10, lambda: now[0])
    for now[0] in (5.0, 9.9, 10.0, 11.0, 19.9, 20.0):
        watchdog.look(lambda: "at work: a.tar")
    told = "pretrain: no progress for {} s (resources.stalled_after_s = 10); at work: a.tar"
    assert caplog.messages == [told.format(10), told.format(20)]
    watchdog.beat()
    for now[0] in (29.0, 30.0):
        watchdog.look(lambda: "")
    assert caplog.messages[2:] == ["pretrain: no progress for 10 s (resources.stalled_after_s = 10)"]


def test_without_a_limit_it_never_does(caplog):
    now = [0.0]
    watchdog = Watchdog("pretrain", None, lambda: now[0])
    now[0] = 1e9
    watchdog.look(lambda: "")
    with watchdog.watching(lambda: ""):
        pass
    assert caplog.messages == []
