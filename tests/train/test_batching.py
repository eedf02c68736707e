"""Splitting batches of any make, seeds, and the cursor over skipped batches."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from ddt.train.batching import derive_seed, rows, split
from ddt.train.spikes import BatchCursor, SpikeDetector


@dataclass(frozen=True)
class Row:
    codes_BT: torch.Tensor
    mask_BT: torch.Tensor
    name: str


def test_split_cuts_every_tensor_and_keeps_the_rest():
    batch = Row(torch.arange(10).reshape(5, 2), torch.ones(5, 2), "a")
    pieces = split(batch, 2)
    assert [rows(piece) for piece in pieces] == [2, 2, 1]
    assert torch.equal(torch.cat([piece.codes_BT for piece in pieces]), batch.codes_BT)
    assert pieces[0].name == "a" and isinstance(pieces[0], Row)


def test_split_shares_tensors_of_another_length():
    pieces = split({"x": torch.zeros(4, 3), "weights": torch.ones(3), "scale": torch.tensor(2.0)}, 2)
    assert len(pieces) == 2 and pieces[1]["weights"].shape == (3,) and pieces[1]["scale"] == 2.0


def test_a_batch_without_tensors_is_refused():
    with pytest.raises(ValueError, match="no tensor"):
        split({"text": "a"}, 2)


def test_seeds_differ_by_every_part():
    seeds = {derive_seed(*parts) for parts in [(1, 2), (2, 1), (12,), (1, 2, 0), (0, 12)]}
    assert len(seeds) == 5 and all(0 <= seed < 2**63 for seed in seeds)


def test_cursor_leaves_out_what_was_skipped():
    cursor = BatchCursor()
    cursor.skip(3, 4)
    cursor.skip(6, 6)
    assert [cursor.batch_of(step) for step in range(6)] == [0, 1, 2, 5, 7, 8]
    cursor.skip(5, 7)
    assert cursor.skipped == [(3, 7)] and cursor.batch_of(3) == 8


def test_detector_waits_for_a_full_window_and_ignores_the_spike():
    detector = SpikeDetector(2.0, window=3)
    assert [detector.sees(loss) for loss in (9.0, 1.0, 1.0, 2.5, 1.2, 2.0)] == [
        False,
        False,
        False,
        True,
        False,
        False,
    ]
    assert not any(SpikeDetector(None, 3).sees(loss) for loss in (1.0, 1.0, 1.0, 99.0))
