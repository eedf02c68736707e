"""Images of record shards as training batches, in an order that depends on (seed, index) alone.

B batch, C H W pixels in [-1, 1]. An epoch visits shards in a shuffled order, cut into blocks of about
`block_rows` rows; rows are shuffled within their block, so only a block's shards need to be at hand. Sample i
of the run is the same for any number of workers and for a run that was resumed.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from ddt.data.decode import decode_image
from ddt.data.order import BlockShuffle
from ddt.records import read_shard

BLOCK_ROWS = 65_536  # at 32 KB an image about 2 GB of shards: enough to mix, little enough to keep near
CACHE_BYTES = 2 << 30  # decoded images are kept if all of them fit
OPEN_SHARDS = 64
INLINE_DECODES = 16  # below this many images threads cost more than they give


def to_float(images_BHWC: np.ndarray) -> torch.Tensor:
    """float32[B, C, H, W] in [-1, 1] of uint8[B, H, W, C]."""
    pixels = torch.from_numpy(images_BHWC).permute(0, 3, 1, 2)
    return pixels.contiguous().to(torch.float32).div_(127.5).sub_(1.0)


class ImageDataset:
    """Endless shuffled passes over the images of record shards."""

    def __init__(
        self,
        shards: Sequence[str | Path],
        rows: Sequence[int],
        image_side_px: int,
        seed: int,
        *,
        fetch: Callable[[str], Path] | None = None,
        block_rows: int = BLOCK_ROWS,
        cache_bytes: int = CACHE_BYTES,
        decode_threads: int | None = None,
    ) -> None:
        """shards: local paths, or keys that `fetch` turns into local paths when they are first needed.

        rows: how many rows each shard has. Of the options only `block_rows` changes the order of samples.
        """
        if len(shards) != len(rows) or sum(rows) < 1:
            raise ValueError(
                f"images: want shards with at least one row, got {len(shards)} shards, {sum(rows)} rows"
            )
        # empty shards are dropped: they take part in nothing
        self._shards = [str(shard) for shard, count in zip(shards, rows, strict=True) if count]
        self._rows = np.array([count for count in rows if count], dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self._rows)])
        self.image_side_px = image_side_px
        self._fetch = fetch or Path
        self._tables: OrderedDict[int, pa.ChunkedArray] = OrderedDict()
        self._pool: ThreadPoolExecutor | None = None
        self._threads = decode_threads if decode_threads is not None else min(8, os.cpu_count() or 1)
        size = len(self) * image_side_px * image_side_px * 3
        shape = (len(self), image_side_px, image_side_px, 3)
        # np.empty takes no memory before a row is written
        self._cache = np.empty(shape, dtype=np.uint8) if size <= cache_bytes else None
        self._cached = np.zeros(len(self), dtype=bool)
        self.locate = BlockShuffle(self._rows, block_rows, seed, "images")

    def __len__(self) -> int:
        return int(self._starts[-1])

    def batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> torch.Tensor:
        """float32[B / world, C, H, W] in [-1, 1]: this rank's slice of the global batch of one step."""
        return to_float(self.pixels(self.order(step, batch_size, rank, world)))

    def order(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> np.ndarray:
        """int64[B / world]: the rows (counted through all shards) of this rank's slice of a step's batch."""
        if batch_size < 1 or batch_size % world or not 0 <= rank < world:
            raise ValueError(
                f"global batch size {batch_size}: want a multiple of the {world} workers (rank {rank})"
            )
        per_rank = batch_size // world
        first = step * batch_size + rank * per_rank
        return self.locate(np.arange(first, first + per_rank))

    def pixels(self, rows: np.ndarray) -> np.ndarray:
        """uint8[n, H, W, C] of rows counted through all shards."""
        if self._cache is None:
            return np.stack(self._decode(rows))
        missing = np.unique(rows[~self._cached[rows]])
        if len(missing):
            self._cache[missing] = np.stack(self._decode(missing))
            self._cached[missing] = True
        return self._cache[rows]

    def _decode(self, rows: np.ndarray) -> list[np.ndarray]:
        encoded = [self._encoded(int(row)) for row in rows]
        if self._threads < 2 or len(encoded) < INLINE_DECODES:
            return [self._decode_one(image) for image in encoded]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, "decode")  # Pillow decodes outside the GIL
        return list(self._pool.map(self._decode_one, encoded))

    def _decode_one(self, image: pa.BinaryScalar) -> np.ndarray:
        return decode_image(image.as_py(), self.image_side_px)

    def _encoded(self, row: int) -> pa.BinaryScalar:
        """A view of the shard's file: what is not being decoded takes no memory."""
        shard = int(np.searchsorted(self._starts, row, side="right") - 1)
        return self._images(shard)[row - int(self._starts[shard])]

    def _images(self, shard: int) -> pa.ChunkedArray:
        """A shard's image column, memory-mapped; the last few shards stay open."""
        if shard not in self._tables:
            column = read_shard(self._fetch(self._shards[shard]), ["image"])["image"]
            if len(column) != self._rows[shard]:
                raise ValueError(
                    f"{self._shards[shard]}: has {len(column)} rows, its commit says {self._rows[shard]}"
                )
            self._tables[shard] = column
            if len(self._tables) > OPEN_SHARDS:
                self._tables.popitem(last=False)
        self._tables.move_to_end(shard)
        return self._tables[shard]
