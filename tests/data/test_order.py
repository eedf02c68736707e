"""Draws and orders are functions of (seed, index)."""

from __future__ import annotations

import numpy as np
import pytest

from ddt.data.order import blended, shuffled, uniform


@pytest.mark.parametrize("size", [1, 2, 3, 10, 64, 1000])
def test_every_epoch_is_a_permutation_of_its_own(size):
    epochs = shuffled(7, "pairs", np.arange(3 * size), size).reshape(3, size)
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(size))
    if size >= 10:
        assert not np.array_equal(epochs[0], epochs[1])
        assert not np.array_equal(epochs[0], shuffled(8, "pairs", np.arange(size), size))
        assert not np.array_equal(epochs[0], shuffled(7, "texts", np.arange(size), size))


def test_an_order_has_no_visible_structure():
    order = shuffled(1, "pairs", np.arange(100_000), 100_000).astype(float)
    place = np.arange(100_000)
    assert abs(np.corrcoef(place, order)[0, 1]) < 0.02
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.02


def test_one_index_is_what_it_is_in_a_batch():
    numbers = np.array([5, 90_000_000_000, 17])
    together = shuffled(3, "pairs", numbers, 200_000_000)
    assert [int(shuffled(3, "pairs", n, 200_000_000)[0]) for n in numbers] == together.tolist()
    draws = uniform(3, "drop", numbers)
    assert [float(uniform(3, "drop", n)[0]) for n in numbers] == draws.tolist()


def test_draws_are_uniform_and_streams_independent():
    first, second = (uniform(11, stream, np.arange(100_000)) for stream in ("drop", "text"))
    assert first.min() >= 0 and first.max() < 1
    histogram = np.histogram(first, bins=20, range=(0, 1))[0]
    assert abs(histogram - 5000).max() < 350  # 5 standard deviations of a bin
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.015


def test_no_items_is_an_error():
    with pytest.raises(ValueError, match="can't order 0 items"):
        shuffled(0, "pairs", 0, 0)


@pytest.mark.parametrize(
    "weights", [(1.0,), (0.45, 0.05, 0.15, 0.35, 0.0), (0.0, 0.1, 0.9), (3.0, 1 / 3, 1e-3)]
)
def test_sources_take_turns_by_weight_and_count_their_own(weights):
    source, place = blended(weights, np.arange(20_000))
    for number, weight in enumerate(weights):
        own = place[source == number]
        assert own.tolist() == list(range(len(own)))  # in order and without a gap
        wanted = np.arange(1, 20_001) * weight / sum(weights)
        assert np.abs(np.cumsum(source == number) - wanted).max() <= len(weights)
    far = np.array([19_999, 7, 12_345])
    assert [part.tolist() for part in blended(weights, far)] == [source[far].tolist(), place[far].tolist()]


def test_sources_have_no_gap_far_out():
    source, place = blended((0.45, 0.05, 0.15, 0.35), np.arange(90_000_000_000, 90_000_010_000))
    for number in range(4):
        assert (np.diff(place[source == number]) == 1).all()
