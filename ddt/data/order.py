"""Randomness by index: the same draw or place for (seed, index), whoever asks, in whatever order.

Nothing here keeps state, so a resumed run and a run on more workers see the same samples and the same draws.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

_ROUNDS = 4  # of the Feistel network below: enough to look random, few enough to cost nothing
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray) -> np.ndarray:
    """splitmix64's finalizer: uint64 in, uint64 out, every output bit depends on every input bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def hashed(seed: int, stream: str, index: np.ndarray | int) -> np.ndarray:
    """uint64 for each index, independent between streams (a stream is named after what it decides)."""
    with np.errstate(over="ignore"):
        key = _mix(np.asarray([seed & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64) + _GOLDEN)
        key = _mix(key ^ np.uint64(zlib.crc32(stream.encode())))
        return _mix(key + np.asarray(index, dtype=np.uint64) * _GOLDEN)


def uniform(seed: int, stream: str, index: np.ndarray | int) -> np.ndarray:
    """float64 in [0, 1) for each index."""
    return (hashed(seed, stream, index) >> np.uint64(11)) * 2.0**-53


def shuffled(seed: int, stream: str, position: np.ndarray | int, size: int) -> np.ndarray:
    """The item at each position of an endless pass over `size` items, reshuffled every epoch.

    Positions n*size .. (n+1)*size - 1 hold a permutation of 0..size-1 that depends on (seed, stream, n) only.
    O(1) in memory: a Feistel network over the next power of four, walked until it lands inside, so that no
    worker has to hold (or agree on) a permutation of 200 M samples.
    """
    if size < 1:
        raise ValueError(f"can't order {size} items: expected at least one")
    position = np.atleast_1d(np.asarray(position, dtype=np.uint64))
    epoch, item = position // np.uint64(size), position % np.uint64(size)
    half_bits = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    keys = [hashed(seed, f"{stream}/{r}", epoch) for r in range(_ROUNDS)]
    outside = np.ones(item.shape, dtype=bool)
    while outside.any():
        left, right = item >> half_bits, item & mask
        with np.errstate(over="ignore"):
            for key in keys:
                left, right = right, left ^ (_mix(right * _GOLDEN + key) & mask)
        item = np.where(outside, (left << half_bits) | right, item)
        outside = item >= np.uint64(size)
    return item.astype(np.int64)


class BlockShuffle:
    """An endless pass over the rows of many shards in which only a block's shards need to be at hand.

    An epoch visits shards in a shuffled order, cut into blocks of about `block_rows` rows; rows are shuffled
    within their block. Row and place are functions of (seed, stream, index) alone.
    """

    def __init__(self, rows: Sequence[int] | np.ndarray, block_rows: int, seed: int, stream: str) -> None:
        """rows: how many each shard has."""
        self._rows = np.asarray(rows, dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self._rows)])
        self._block_rows, self._seed, self._stream = block_rows, seed, stream
        self._epoch = lru_cache(maxsize=2)(self._layout)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __call__(self, index: np.ndarray) -> np.ndarray:
        """The row, counted through all shards, of each place of the endless sequence."""
        epochs, places = np.divmod(np.asarray(index, dtype=np.int64), len(self))
        found = np.empty_like(places)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            found[here] = self._locate(int(epoch), places[here])
        return found

    def _layout(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of one epoch: the order of shards, where each begins in it, where each block begins."""
        count = len(self._rows)
        order = shuffled(self._seed, f"{self._stream}/shards", epoch * count + np.arange(count), count)
        starts = np.concatenate([[0], np.cumsum(self._rows[order])])
        blocks = [0]
        for end in starts[1:]:
            if end - blocks[-1] >= self._block_rows or end == starts[-1]:
                blocks.append(int(end))
        return order, starts, np.array(blocks)

    def _locate(self, epoch: int, places: np.ndarray) -> np.ndarray:
        order, starts, blocks = self._epoch(epoch)
        block = np.searchsorted(blocks, places, side="right") - 1
        mixed = np.empty_like(places)
        for b in np.unique(block):
            here = block == b
            stream, size = f"{self._stream}/rows/{epoch}/{b}", int(blocks[b + 1] - blocks[b])
            mixed[here] = blocks[b] + shuffled(self._seed, stream, places[here] - blocks[b], size)
        slot = np.searchsorted(starts, mixed, side="right") - 1
        return self._starts[order[slot]] + mixed - starts[slot]


def blended(weights: Sequence[float], position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int64 (source, place) for each position of an endless stream that takes from several sources in turn.

    `place` is how many positions before took the same source: each source's places are 0, 1, 2, ... without a
    gap. Of any stretch each takes its weight's share, within a few. O(1) in memory: a source with a share s
    of what those before it leave takes position n of that where floor((n + 1) * s) exceeds floor(n * s).
    """
    source = np.full(position.shape, -1, dtype=np.int64)
    place = position.astype(np.int64)
    for number, weight in enumerate(weights):
        open_ = source < 0
        share = weight / left if (left := sum(weights[number:])) else 0.0
        before, after = (np.floor(share * (place + step)).astype(np.int64) for step in (0, 1))
        taken = open_ & (after > before)
        source[taken] = number
        place = np.where(taken, before, np.where(open_, place - before, place))
    return source, place
