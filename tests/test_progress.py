"""Progress where stderr is no terminal: a line now and then, and always the last one."""

from __future__ import annotations

from ddt import progress
from ddt.progress import Progress


def test_lines_are_few_and_the_last_one_is_there(capsys):
    bar = Progress("ingest", total=1000, unit="unit")
    for done in range(1, 1001):
        bar.update(done)
    bar.close()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("ingest: 1000/1000 units")


def test_time_left_is_estimated_from_what_was_done_here(capsys, monkeypatch):
    monkeypatch.setattr(progress.time, "monotonic", iter([0.0, 10.0]).__next__)
    Progress("train", total=100, done=50).update(60, "loss 0.5")
    assert capsys.readouterr().err == "train: 60/100 steps  1.0/s  40 s left  loss 0.5\n"


def test_disabled_is_silent(capsys):
    Progress("train", total=1, enabled=False).update(1)
    assert capsys.readouterr().err == ""
