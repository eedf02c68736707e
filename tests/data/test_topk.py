"""select_top_k against numpy's sort: exactly k rows in any order and partition, with ties and NaN."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddt.data import topk
from ddt.data.topk import digit_counts, ordered_bits, select_top_k, tie_hash


def make_ids(n, start=0):
    digests = b"".join(hashlib.sha256(str(i).encode()).digest() for i in range(start, start + n))
    return np.frombuffer(digests, np.uint8).reshape(n, 32)


def selected(ids, scores, cuts, k, seed):
    """The selection from rows that are counted in parts, cut at these places."""
    edges = [0, *sorted(cuts), len(scores)]
    parts = [slice(a, b) for a, b in zip(edges, edges[1:], strict=False)]

    def count(prefix):
        return sum(digit_counts(prefix, seed, ids[part], scores[part]) for part in parts)

    return select_top_k(count, k, seed)


def kept_ids(selection, ids, scores):
    return {i.tobytes() for i in ids[selection.keep(ids, scores)]}


floats = st.floats(width=32, allow_nan=True, allow_infinity=True)
few_values = st.sampled_from([0.0, -0.0, 0.5, -1.0, float("inf"), float("-inf"), float("nan"), 1e-45])


@settings(max_examples=150)
@given(st.data())
def test_against_sort(data):
    values = data.draw(st.lists(st.one_of(few_values, floats), min_size=1, max_size=60))
    scores = np.array(values, dtype=np.float32)
    n, valid = len(scores), int((~np.isnan(scores)).sum())
    ids = make_ids(n)
    if valid == 0:
        with pytest.raises(ValueError, match="only 0 of"):
            selected(ids, scores, [], 1, 0)
        return
    k = data.draw(st.integers(1, valid))
    cuts = data.draw(st.lists(st.integers(0, n), max_size=5))
    selection = selected(ids, scores, cuts, k, seed=3)
    mask = selection.keep(ids, scores)
    want = np.sort(scores[~np.isnan(scores)])[::-1]
    assert mask.sum() == k
    assert np.array_equal(np.sort(scores[mask])[::-1], want[:k])
    assert selection.threshold == want[k - 1] and selection.num_ties == (want == want[k - 1]).sum()
    order = np.array(data.draw(st.permutations(range(n))))
    other_cuts = data.draw(st.lists(st.integers(0, n), max_size=3))
    other = selected(ids[order], scores[order], other_cuts, k, 3)
    assert other == selection and kept_ids(other, ids, scores) == kept_ids(
        selection, ids[order], scores[order]
    )


@settings(max_examples=200)
@given(floats, floats)
def test_bits_order_as_numbers(a, b):
    ordered = ordered_bits(np.array([a, b], dtype=np.float32))
    if np.isnan(a) or np.isnan(b):
        assert (ordered[0] == 0) == np.isnan(a) and (ordered[1] == 0) == np.isnan(b)
    else:
        assert (ordered[0] < ordered[1]) == (a < b) and (ordered[0] == ordered[1]) == (a == b)


def test_many_ties_are_cut_by_the_seed_not_by_the_place():
    """All scores equal: the k lowest hashes are kept."""
    ids, scores = make_ids(5000), np.full(5000, 0.25, dtype=np.float32)
    selections = [selected(ids, scores, [100, 4000], 1234, seed) for seed in (1, 2)]
    masks = [s.keep(ids, scores) for s in selections]
    assert [int(m.sum()) for m in masks] == [1234, 1234]
    lowest = np.argsort(tie_hash(ids, 1))[:1234]
    assert set(np.flatnonzero(masks[0])) == set(lowest)
    overlap = (masks[0] & masks[1]).sum()
    assert 200 < overlap < 420, "another seed is an independent choice: 1234^2 / 5000 = 305 in common"
    thirds = np.add.reduceat(masks[0], [0, 1667, 3333])
    assert thirds.min() > 350, "no part of the data is preferred"


def test_equal_hashes_fall_back_to_the_id(monkeypatch):
    monkeypatch.setattr(topk, "tie_hash", lambda ids, seed: np.zeros(len(ids), dtype=np.uint64))
    ids, scores = make_ids(50), np.zeros(50, dtype=np.float32)
    selection = selected(ids, scores, [], 20, 0)
    assert kept_ids(selection, ids, scores) == set(sorted(i.tobytes() for i in ids)[:20])


def test_large_sample_against_sort():
    generator = np.random.default_rng(0)
    scores = generator.normal(0.3, 0.05, 200_000).astype(np.float16).astype(np.float32)  # many ties
    ids = generator.integers(0, 256, (200_000, 32), dtype=np.uint8)
    selection = selected(ids, scores, range(0, 200_000, 17_000), 50_001, 0)
    assert selection.num_ties > selection.num_ties_kept > 0
    assert selection.keep(ids, scores).sum() == 50_001
    assert selection.threshold == np.sort(scores)[::-1][50_000]


@pytest.mark.parametrize(("k", "words"), [(0, "at least 1"), (4, "only 3 of 4 rows have a score")])
def test_k_out_of_range(k, words):
    scores = np.array([1, 2, np.nan, 3], dtype=np.float32)
    with pytest.raises(ValueError, match=f"k is {k}.*{words}"):
        selected(make_ids(4), scores, [], k, 0)


def test_unfit_input_and_doubled_ids():
    ids, scores = make_ids(4), np.zeros(4, dtype=np.float32)
    with pytest.raises(ValueError, match=r"want sample_ids uint8\[n, 32\]"):
        digit_counts([], 0, ids[:3], scores)
    doubled = np.repeat(ids[:1], 4, axis=0)
    with pytest.raises(ValueError, match="occurs twice"):
        selected(doubled, scores, [], 2, 0)
    assert selected(doubled, scores, [], 4, 0).keep(doubled, scores).all()
