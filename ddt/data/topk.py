"""Exactly the K rows with the highest score, of any number of rows, in bounded memory.

Nothing is sorted and no row is kept. A row's key is the bits of its float32 score, turned so that they order
as the numbers do, then a keyed hash of its id, then the id. The K-th largest key is found digit by digit of
16 bits: a pass over the rows counts them by the next digit, those alone that agree with the K-th in the
digits before. Counts of parts add up (512 KB), so they are made wherever the rows are. Two passes find the
K-th score; where only some of the rows equal to it belong to the K, one or two more find which. The selection
does not depend on the order of rows, of parts or of workers. NaN is below every number and never selected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

ID_BYTES, HASH_BYTES, DIGIT_BYTES = 32, 8, 2
BINS = 1 << 8 * DIGIT_BYTES
SCORE_DIGITS = 2
DIGITS = SCORE_DIGITS + (HASH_BYTES + ID_BYTES) // DIGIT_BYTES

Count = Callable[[Sequence[int]], np.ndarray]  # digits that are known -> int64[BINS] of the next


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
    cut_hash and cut_id (hex): no selected tie is beyond them in the order of (hash, id).
    """

    threshold: float
    num_ties: int
    num_ties_kept: int
    seed: int
    cut_hash: int
    cut_id: str

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
            kept[tie] = sample_ids[tie].tobytes().hex() <= self.cut_id
        return kept


class TopKSearch:
    """The search for the K-th largest key: `prefix` has its digits found so far, `found` the outcome.

    While `found` is None: count every part by `digit_counts(search.prefix, ...)`, and `add` the sum.
    """

    def __init__(self, k: int, seed: int) -> None:
        if k < 1:
            raise ValueError(f"top-k: k is {k}, expected at least 1")
        self.k, self.seed = k, seed
        self.prefix: list[int] = []
        self.needed = k  # of the rows that agree with the K-th in the digits of `prefix`
        self.num_ties = self.num_ties_kept = 0
        self.found: TopK | None = None

    def add(self, counts: np.ndarray) -> None:
        """The next digit, from int64[BINS] of all parts. Raises ValueError where fewer than k rows have a
        score, or where an id that occurs twice makes k ambiguous.
        """
        rows = int(counts.sum())
        if not self.prefix and self.k > rows - counts[0]:  # no number's bits begin with that digit
            raise ValueError(f"top-k: k is {self.k}, but only {rows - counts[0]} of {rows} rows have a score")
        place, above = _bin_of(counts, self.needed)
        self.prefix.append(place)
        self.needed -= above
        if len(self.prefix) == SCORE_DIGITS:
            self.num_ties, self.num_ties_kept = int(counts[place]), self.needed
        if len(self.prefix) >= SCORE_DIGITS and counts[place] == self.needed:
            self.found = self._outcome()
        elif len(self.prefix) == DIGITS:
            raise ValueError(
                f"top-k: id {self._cut()[HASH_BYTES:].hex()} occurs twice; drop duplicates first"
            )

    def _outcome(self) -> TopK:
        cut = self._cut()
        threshold = _from_ordered_bits(self.prefix[0] << 16 | self.prefix[1])
        hash_cut, id_cut = int.from_bytes(cut[:HASH_BYTES]), cut[HASH_BYTES:].hex()
        return TopK(threshold, self.num_ties, self.num_ties_kept, self.seed, hash_cut, id_cut)

    def _cut(self) -> bytes:
        """Hash and id of the last tie, as far as their digits are known; beyond, the largest."""
        known = BINS - 1 - np.array(self.prefix[SCORE_DIGITS:], dtype=np.int64)
        return known.astype(">u2").tobytes().ljust(HASH_BYTES + ID_BYTES, b"\xff")


def digit_counts(prefix: Sequence[int], seed: int, sample_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """int64[BINS]: how many rows whose key begins with `prefix` have each value of the next digit."""
    sample_ids, scores = _checked(sample_ids, scores)
    ordered = ordered_bits(scores)
    if not prefix:
        digits = ordered >> 16
    elif len(prefix) < SCORE_DIGITS:
        digits = ordered[ordered >> 16 == prefix[0]] & 0xFFFF
    else:
        ties = sample_ids[ordered == (prefix[0] << 16 | prefix[1])]
        known = len(prefix) - SCORE_DIGITS
        rest_nD = _tie_digits(ties, seed, known + 1)
        digits = rest_nD[(rest_nD[:, :known] == prefix[SCORE_DIGITS:]).all(1), known]
    return np.bincount(digits, minlength=BINS)


def select_top_k(count: Count, k: int, seed: int) -> TopK:
    """Selects exactly k rows with the highest scores, wherever they are and in whatever order.

    count: for a prefix the sum of `digit_counts(prefix, seed, ...)` over all rows. It is called once for each
    digit: twice, and once or twice more where ties are cut. Raises ValueError as `TopKSearch.add` does.
    """
    search = TopKSearch(k, seed)
    while search.found is None:
        search.add(count(search.prefix))
    return search.found


def _checked(sample_ids: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if sample_ids.shape != (len(scores), ID_BYTES) or sample_ids.dtype != np.uint8 or scores.ndim != 1:
        found = f"{sample_ids.dtype}{list(sample_ids.shape)} and {scores.dtype}{list(scores.shape)}"
        raise ValueError(f"top-k: want sample_ids uint8[n, {ID_BYTES}] and scores float32[n], got {found}")
    return sample_ids, scores


def _bin_of(counts: np.ndarray, k: int) -> tuple[int, int]:
    """The bin that holds the k-th largest, and how many lie in the bins above it."""
    from_top = np.cumsum(counts[::-1])
    place = int(np.searchsorted(from_top, k))
    return len(counts) - 1 - place, int(from_top[place] - counts[::-1][place])


def _tie_digits(sample_ids: np.ndarray, seed: int, count: int) -> np.ndarray:
    """uint16[n, D]: at least the first `count` digits of (hash, id), inverted: the lowest is the largest."""
    key = tie_hash(sample_ids, seed).astype(">u8").view(np.uint8).reshape(-1, HASH_BYTES)
    if count * DIGIT_BYTES > HASH_BYTES:
        key = np.concatenate([key, sample_ids], axis=1)
    return np.uint16(BINS - 1) - key.view(">u2")
