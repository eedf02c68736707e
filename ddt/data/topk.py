"""Exactly the K rows with the highest score, of any number of rows, in bounded memory.

Nothing is sorted and no score is kept. The bits of a float32, turned so that they order as the numbers do,
are counted in two passes of 65536 bins: by their upper half, then, within the bin that holds the K-th score,
by their lower half. That gives the K-th score itself and how many of the rows equal to it belong to the K.
Which of those is decided by a hash of the id, found with the same kind of passes, so that the selection does
not depend on the order of rows, of parts or of workers. NaN is below every number and never selected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

ID_BYTES = 32
BINS = 1 << 16
# Ties no more than this are collected at once (10 MB); more are first narrowed to one bin of their hashes.
MAX_COLLECTED_TIES = 1 << 16

Part = Callable[[], tuple[np.ndarray, np.ndarray]]  # -> (sample_ids uint8[n, 32], scores float32[n])


def ordered_bits(scores: np.ndarray) -> np.ndarray:
    """uint32 for each float32, in the order of the numbers; equal for -0.0 and 0.0; 0 for NaN."""
    scores = np.asarray(scores, dtype=np.float32) + np.float32(0)  # -0.0 + 0.0 = 0.0
    bits = scores.view(np.uint32)
    ordered = np.where(bits >> 31 == 1, ~bits, bits | np.uint32(0x80000000))
    ordered[np.isnan(scores)] = 0  # below -inf, whose ordered bits are 0x007fffff
    return ordered


def _from_ordered_bits(bits: int) -> float:
    raw = bits & 0x7FFFFFFF if bits >> 31 else ~bits & 0xFFFFFFFF
    return float(np.uint32(raw).view(np.float32))


def tie_hash(sample_ids: np.ndarray, seed: int) -> np.ndarray:
    """uint64 for each id of 32 bytes, another for each seed (splitmix64's mixer over the id's four words)."""
    words = np.ascontiguousarray(sample_ids, dtype=np.uint8).view("<u8")
    with np.errstate(over="ignore"):
        state = np.full(len(words), (seed * 0x9E3779B97F4A7C15 + 1) & 0xFFFFFFFFFFFFFFFF, dtype=np.uint64)
        for column in range(words.shape[1]):
            state = state ^ words[:, column]
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state ^= state >> np.uint64(31)
    return state


@dataclass(frozen=True)
class TopK:
    """Which rows are selected: above the threshold all, at the threshold those whose hash is low enough.

    threshold: the K-th highest score. num_ties: rows that have it; num_ties_kept: those of them selected.
    cut_hash and cut_id: the last selected tie, in the order of (hash, id).
    """

    threshold: float
    num_ties: int
    num_ties_kept: int
    seed: int
    cut_hash: int
    cut_id: bytes

    def keep(self, sample_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """bool[n]: the selected rows of sample_ids uint8[n, 32], scores float32[n]."""
        sample_ids, scores = _checked(sample_ids, scores)
        ordered = ordered_bits(scores)
        threshold = ordered_bits(np.array([self.threshold], dtype=np.float32))[0]
        kept = ordered > threshold
        ties = np.flatnonzero(ordered == threshold)
        if self.num_ties_kept == self.num_ties:
            kept[ties] = True
            return kept
        hashes = tie_hash(sample_ids[ties], self.seed)
        kept[ties[hashes < self.cut_hash]] = True
        for tie in ties[hashes == self.cut_hash]:
            kept[tie] = sample_ids[tie].tobytes() <= self.cut_id
        return kept


def select_top_k(parts: Sequence[Part], k: int, seed: int) -> TopK:
    """Selects exactly k rows with the highest scores, whatever the order of parts and of rows in them.

    parts: each returns (sample_ids uint8[n, 32], scores float32[n]) and is called two to four times. Raises
    ValueError where fewer than k rows have a score, or where an id that occurs twice makes k ambiguous.
    """
    if k < 1:
        raise ValueError(f"top-k: k is {k}, expected at least 1")
    high = np.zeros(BINS, dtype=np.int64)
    rows = missing = 0
    for _, ordered in _ordered(parts):
        high += np.bincount(ordered >> 16, minlength=BINS)
        rows, missing = rows + len(ordered), missing + int((ordered == 0).sum())
    if k > rows - missing:
        raise ValueError(f"top-k: k is {k}, but only {rows - missing} of {rows} rows have a score")
    high_bin, above = _bin_of(high, k)
    low = np.zeros(BINS, dtype=np.int64)
    for _, ordered in _ordered(parts):
        low += np.bincount(ordered[ordered >> 16 == high_bin] & 0xFFFF, minlength=BINS)
    low_bin, above_low = _bin_of(low, k - above)
    bits = high_bin << 16 | low_bin
    num_ties, needed = int(low[low_bin]), k - above - above_low
    cut = (0, b"") if needed == num_ties else _cut_ties(parts, bits, num_ties, needed, seed)
    return TopK(_from_ordered_bits(bits), num_ties, needed, seed, *cut)


def _checked(sample_ids: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if sample_ids.shape != (len(scores), ID_BYTES) or sample_ids.dtype != np.uint8 or scores.ndim != 1:
        found = f"{sample_ids.dtype}{list(sample_ids.shape)} and {scores.dtype}{list(scores.shape)}"
        raise ValueError(f"top-k: want sample_ids uint8[n, {ID_BYTES}] and scores float32[n], got {found}")
    return sample_ids, scores


def _ordered(parts: Sequence[Part]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for part in parts:
        sample_ids, scores = _checked(*part())
        yield sample_ids, ordered_bits(scores)


def _bin_of(counts: np.ndarray, k: int) -> tuple[int, int]:
    """The bin that holds the k-th largest, and how many lie in the bins above it."""
    from_top = np.cumsum(counts[::-1])
    place = int(np.searchsorted(from_top, k))
    return len(counts) - 1 - place, int(from_top[place] - counts[::-1][place])


def _cut_ties(parts: Sequence[Part], bits: int, num_ties: int, needed: int, seed: int) -> tuple[int, bytes]:
    """The needed-th tie in the order of (hash, id)."""

    def ties() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for sample_ids, ordered in _ordered(parts):
            chosen = sample_ids[ordered == bits]
            yield chosen, tie_hash(chosen, seed)

    before, within = 0, None
    if num_ties > MAX_COLLECTED_TIES:
        counts = np.zeros(BINS, dtype=np.int64)
        for _, hashes in ties():
            counts += np.bincount((hashes >> np.uint64(48)).astype(np.int64), minlength=BINS)
        low_bin = int(np.searchsorted(np.cumsum(counts), needed))
        before, within = int(counts[:low_bin].sum()), np.uint64(low_bin)
    found: list[tuple[int, bytes]] = []
    for sample_ids, hashes in ties():
        here = np.arange(len(hashes)) if within is None else np.flatnonzero(hashes >> np.uint64(48) == within)
        found += [(int(hashes[i]), sample_ids[i].tobytes()) for i in here]
    found.sort()
    place = needed - before - 1
    if place + 1 < len(found) and found[place] == found[place + 1]:
        raise ValueError(f"top-k: id {found[place][1].hex()} occurs twice; drop duplicates first")
    return found[place]
