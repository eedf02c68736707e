"""Checkpoints in a folder: complete or absent, the right ones pruned, branches left by a rewind ignored."""

from __future__ import annotations

import pytest
import torch

from ddt.store import StoreError
from ddt.train.checkpoint import Checkpoints, Position


def save(checkpoints: Checkpoints, step: int, rewinds: int = 0, keep: int = 2, **options) -> None:
    groups = {"model": {"w": torch.full((3,), float(step))}}
    checkpoints.save(Position(rewinds, step), groups, {"step": step}, keep, **options)


def steps(checkpoints: Checkpoints) -> list[tuple[int, int]]:
    return [(p.rewinds, p.step) for p in checkpoints.positions()]


def test_round_trip_and_pruning(tmp_path):
    checkpoints = Checkpoints(tmp_path, "runs/a")
    assert checkpoints.latest() is None
    for step in (10, 20, 30):
        save(checkpoints, step)
    assert steps(checkpoints) == [(0, 20), (0, 30)]
    groups, state = checkpoints.load(Position(0, 30))
    assert groups["model"]["w"].tolist() == [30.0] * 3 and state == {"step": 30}


def test_only_safetensors_and_json_are_written(tmp_path):
    save(Checkpoints(tmp_path), 1)
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {"model.safetensors", "state.json", "_COMPLETE"}


def test_incomplete_checkpoint_is_not_seen(tmp_path):
    checkpoints = Checkpoints(tmp_path, "c")
    save(checkpoints, 10)
    save(checkpoints, 20)
    (tmp_path / "c" / Position(0, 20).name / "_COMPLETE").unlink()
    assert checkpoints.latest() == Position(0, 10)
    with pytest.raises(StoreError):
        checkpoints.load(Position(0, 20))
    save(checkpoints, 20)  # written again over what the killed writer left
    assert checkpoints.latest() == Position(0, 20)


def test_a_checkpoint_old_enough_to_rewind_to_is_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in range(0, 100, 10):
        save(checkpoints, step, keep=1, rewind_steps=25)
        assert checkpoints.before(step - 25).step <= max(step - 25, 0)
    assert steps(checkpoints) == [(0, 60), (0, 70), (0, 80), (0, 90)]


def test_the_abandoned_branch_does_not_count(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (10, 20, 30):
        save(checkpoints, step, keep=3)
    # A rewind that is killed before it prunes:
    pruned, checkpoints._prune = checkpoints._prune, lambda *_: None
    save(checkpoints, 10, rewinds=1)
    assert checkpoints.latest() == Position(1, 10) and steps(checkpoints) == [(1, 10)]
    checkpoints._prune = pruned
    save(checkpoints, 20, rewinds=1)
    assert steps(checkpoints) == [(1, 10), (1, 20)]
    assert not any("step-000000030-000" in key for key in checkpoints.store.list(""))


def test_nothing_to_go_back_to_is_said(tmp_path):
    with pytest.raises(ValueError, match="no complete checkpoint"):
        Checkpoints(tmp_path).before(5)
