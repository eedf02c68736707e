"""Duplicate images: equal bytes, and pictures that differ by a re-encoding, a small shift or some brightness.

Of pictures that are the same the best is kept: the highest score, then the lowest keyed hash of the id, then
the place by content (shard and row), never what came first. A row is dropped where a better one shows the
same picture, whether or not that one is kept itself: of a group its best always stays, and whatever is best
among those it was compared with.

Which rows to compare comes from locality-sensitive hashing: those that agree in one of BANDS bands of
projections on fixed directions, and stand next to each other in the order of one more projection. What a band
finds depends on its buckets alone, so rows are dealt out by bucket and each deal is judged by itself, with
bounded memory, in any order and on any number of machines. What any of the bands drops is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ddt.data.descriptor import (
    CELLS,
    CHROMA_SIDE,
    DESCRIPTOR_BYTES,
    LUMA_SIDE,
    MAX_BRIGHTNESS_SHIFT,
    distance,
)
from ddt.data.order import hashed

COARSE_BYTES = 3 * CELLS
BANDS = 16
WINDOW = 8  # neighbours compared within a bucket: bounds the work where thousands of pictures look alike
COARSE_RMS = 10  # pairs further apart than this at 8 x 8 are not looked at closely; 99 % of copies are nearer
ROWS_AT_ONCE, PAIRS_AT_ONCE = 4096, 256

KEEP, DUPLICATE, NEAR_DUPLICATE = 0, 1, 2
STANDS_FOR_CLEAN = 3  # said of a row that is kept in the stead of one marked clean

# What a row is judged by. `tie` decides between equal scores, shard and row between copies of one id.
RANKED = [("score", "<f4"), ("tie", "<u8"), ("shard", "<u4"), ("row", "<u4"), ("clean", "u1")]
# As dealt out for one band: rows with the same `key` are in one bucket, `last` orders them there.
EXACT_ENTRY = np.dtype([("key", "<u4"), ("last", "<f4"), *RANKED, ("sha256", "u1", 32)])
NEAR_ENTRY = np.dtype([*EXACT_ENTRY.descr, ("descriptor", "u1", DESCRIPTOR_BYTES)])
# What is told of a row, and the better one that it was dropped for (itself where it stays).
FOUND = np.dtype(
    [("shard", "<u4"), ("row", "<u4"), ("kind", "u1"), ("better_shard", "<u4"), ("better_row", "<u4")]
)


def entry_kind(near: bool) -> np.dtype:
    """The type of an entry: without descriptors where equal bytes alone are looked for."""
    return NEAR_ENTRY if near else EXACT_ENTRY


def bands(near: bool) -> int:
    """How many bands there are: copies of the same bytes meet in any one."""
    return BANDS if near else 1


def deal(entries: np.ndarray, rows: int, count: int, near: bool) -> Iterator[np.ndarray]:
    """Entries dealt out by bucket: for each band `count` arrays, entries of one bucket in one of them.

    entries: of `entry_kind`, their `key` and `last` are set here. rows: how many there are in all, wherever,
    which decides the width of the keys.
    """
    keys_nB, last = band_keys(entries["descriptor"], rows) if near else _content_keys(entries["sha256"])
    entries["last"] = last
    for band in range(keys_nB.shape[1]):
        entries["key"] = keys_nB[:, band]
        deals = hashed(band, "dedup/deal", entries["key"]) % np.uint64(count)
        order = np.argsort(deals, kind="stable")
        for part in np.split(order, np.searchsorted(deals[order], np.arange(1, count))):
            yield entries[part]


def find_in_deal(entries: np.ndarray, near: bool) -> np.ndarray:
    """What a deal tells of its rows, FOUND sorted by shard and row: those to drop and why, those that stay in
    the stead of a row marked clean. `entries` may be memory-mapped: beside it 400 bytes a row are held.
    """
    score = np.nan_to_num(entries["score"], nan=-np.inf)
    best_first = np.lexsort((entries["row"], entries["shard"], entries["tie"], -score))
    sha256 = np.ascontiguousarray(entries["sha256"][best_first]).view("S32").ravel()
    _, first, same = np.unique(sha256, return_index=True, return_inverse=True)
    kinds = np.full(len(entries), KEEP, np.uint8)  # by place from the best, as all below
    stands_for = first[same]
    kinds[stands_for != np.arange(len(entries))] = DUPLICATE
    if near:
        unlike = np.sort(first)
        keys, last = entries["key"][best_first[unlike]], entries["last"][best_first[unlike]]
        descriptors = _Chosen(entries["descriptor"], best_first[unlike])
        dropped, dropped_for = _near_duplicates(descriptors, keys, last)
        kinds[unlike[dropped]] = NEAR_DUPLICATE
        stands_for[unlike[dropped]] = unlike[dropped_for]
    clean = entries["clean"][best_first].astype(bool)
    stands = np.zeros(len(entries), bool)
    for place in np.flatnonzero(kinds)[::-1].tolist():  # the worst first: what it stood for goes on
        stands[stands_for[place]] |= clean[place] | stands[place]
    kinds[(kinds == KEEP) & stands] = STANDS_FOR_CLEAN
    told = np.flatnonzero(kinds)
    found = np.empty(len(told), FOUND)
    for name in ("shard", "row"):
        found[name] = entries[name][best_first[told]]
        found[f"better_{name}"] = entries[name][best_first[stands_for[told]]]
    found["kind"] = kinds[told]
    return found[np.lexsort((found["row"], found["shard"]))]


def find_duplicates(entries: np.ndarray, near: bool = True) -> np.ndarray:
    """uint8[n]: KEEP, DUPLICATE or NEAR_DUPLICATE for each of `entries`, which are all there are. Their `row`
    is set here.
    """
    entries["shard"], entries["row"] = 0, np.arange(len(entries))
    verdicts = np.full(len(entries), KEEP, np.uint8)
    for dealt in deal(entries, len(entries), 1, near):
        found = find_in_deal(dealt, near)
        for kind in (NEAR_DUPLICATE, DUPLICATE):
            verdicts[found["row"][found["kind"] == kind]] = kind
    return verdicts


class _Chosen:
    """Some rows of a memory-mapped array, in an order, of which only what is asked for is read."""

    def __init__(self, array: np.ndarray, rows: np.ndarray) -> None:
        self.array, self.rows = array, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        return self.array[self.rows[index]]


def _near_duplicates(
    descriptors: _Chosen, keys: np.ndarray, last: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of descriptors with the best row first: int64 rows that are dropped, and for each the best row that it
    was found close to.
    """
    coarse = np.empty((len(descriptors), COARSE_BYTES), np.uint8)
    for start in range(0, len(coarse), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        coarse[part] = _coarse(descriptors[part])
    totals = coarse.reshape(-1, 3, CELLS).sum(2, dtype=np.int32)
    dropped, dropped_for = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    rivals = np.arange(len(coarse))
    while (
        len(rivals) > 1
    ):  # a cluster larger than the window leaves one row for each window: again with those
        found = _band_pairs(keys[rivals], last[rivals], coarse[rivals], totals[rivals])
        pairs = rivals[_near_pairs(descriptors, rivals, found)]
        order = np.lexsort((pairs[:, 0], pairs[:, 1]))
        worse, place = np.unique(pairs[order, 1], return_index=True)
        dropped.append(worse)
        dropped_for.append(pairs[order[place], 0])
        rivals = np.setdiff1d(pairs, worse)
    return np.concatenate(dropped), np.concatenate(dropped_for)


def _near_pairs(descriptors: _Chosen, rivals: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Those of int64 pairs [m, 2] of rivals that show the same picture."""
    near = np.zeros(len(pairs), bool)
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        a, b = (descriptors[rivals[pairs[part, side]]] for side in (0, 1))
        near[part] = distance(a, b) <= 1
    return pairs[near]


def band_keys(descriptors: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """uint32 keys [n, BANDS], and float32[n] that orders rows in a bucket; a bucket holds about four
    unrelated ones of `rows`.
    """
    bits = min(32, max(4, int(np.ceil(np.log2(max(2, rows)))) - 2))
    directions, weights = _directions(BANDS * bits + 1), 2 ** np.arange(bits, dtype=np.uint32)
    keys_nB, last = np.empty((len(descriptors), BANDS), np.uint32), np.empty(len(descriptors), np.float32)
    for start in range(0, len(descriptors), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        values = _coarse(descriptors[part]).astype(np.float64) @ directions  # sums of integers: exact
        signs = values[:, :-1].reshape(-1, BANDS, bits) > 0
        keys_nB[part] = (signs * weights).sum(2, dtype=np.uint32)
        last[part] = values[:, -1]
    return keys_nB, last


def _content_keys(sha256: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `band_keys`, by equal bytes alone."""
    return np.ascontiguousarray(sha256[:, :4]).view("<u4"), np.zeros(len(sha256), np.float32)


def _coarse(descriptors: np.ndarray) -> np.ndarray:
    """uint8[n, COARSE_BYTES]: brightness and colours at 8 x 8."""
    n, cell = len(descriptors), LUMA_SIDE // CHROMA_SIDE
    luma = descriptors[:, : LUMA_SIDE**2].reshape(n, CHROMA_SIDE, cell, CHROMA_SIDE, cell)
    pooled = luma.sum((2, 4), dtype=np.uint16).reshape(n, CELLS) // cell**2
    return np.concatenate([pooled.astype(np.uint8), descriptors[:, LUMA_SIDE**2 :]], axis=1)


def _directions(count: int) -> np.ndarray:
    """float64[COARSE_BYTES, count] of -1 and 1, as many of each in each channel: brightness has no effect."""
    numbers = hashed(0, "dedup/directions", np.arange(count * COARSE_BYTES)).reshape(count, 3, CELLS)
    ranks = numbers.argsort(2).argsort(2)
    return np.where(ranks < CELLS // 2, -1.0, 1.0).reshape(count, COARSE_BYTES).T


def _band_pairs(key: np.ndarray, last: np.ndarray, coarse: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """int64[m, 2]: neighbours within each bucket of one band that are close at 8 x 8; totals int32[n, 3]."""
    order = np.lexsort((last, key))
    found = [np.empty((0, 2), dtype=np.int64)]
    for step in range(1, min(WINDOW, len(order) - 1) + 1):
        first, second = order[:-step], order[step:]
        same = key[first] == key[second]
        same &= (np.abs(totals[first] - totals[second]) <= (MAX_BRIGHTNESS_SHIFT + 2) * CELLS).all(1)
        pairs = np.sort(np.stack([first[same], second[same]], axis=1), axis=1)
        found.append(pairs[_near_coarsely(coarse, pairs)])
    return np.concatenate(found)


def _near_coarsely(coarse: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """bool[m]: the patterns at 8 x 8, brightness aside, differ by no more than COARSE_RMS."""
    near = np.zeros(len(pairs), dtype=bool)
    for start in range(0, len(pairs), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        d = coarse[pairs[part, 0]].astype(np.int32) - coarse[pairs[part, 1]]
        d = d.reshape(-1, 3, CELLS)
        pattern = (d * d).sum((1, 2)) - (d.sum(2) ** 2).sum(1) / CELLS
        near[part] = pattern <= COARSE_RMS**2 * COARSE_BYTES
    return near
