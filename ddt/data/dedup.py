"""Duplicate images: equal bytes, and pictures that differ by a re-encoding, a small shift or some brightness.

Each image has a descriptor: its brightness at 32 x 32 and its two colour differences at 8 x 8. (A 64-bit
difference hash is no use for drawings and product shots: many different ones share it.) Two pictures are near
duplicates if a shift of up to one and a half cells and a change of brightness explain their difference
everywhere but in two blocks of 2 x 2 cells, to NEAR_LEVELS grey levels. Pairs to compare come from
locality-sensitive hashing: rows that agree in one of BANDS bands of projections on fixed directions, and
stand next to each other in the order of one more projection. All of that is integer arithmetic on uint8.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from ddt.data.decode import to_rgb
from ddt.data.order import hashed

LUMA_SIDE, CHROMA_SIDE = 32, 8
CELLS = CHROMA_SIDE**2
DESCRIPTOR_BYTES = LUMA_SIDE**2 + 2 * CELLS
COARSE_BYTES = 3 * CELLS

# Measured on 3,520 scenes (bench/dedup.py): within 12 lie 95 % of the re-encoded, shifted and brightened
# copies at 32 px, 98 % at 64 px, and the nearest neighbour of 1.4 % of scenes drawn independently.
NEAR_LEVELS = 12.0
OUTLIERS = 2
MAX_BRIGHTNESS_SHIFT = 12  # grey levels, of each channel

BANDS = 16
WINDOW = 8  # neighbours compared within a bucket: bounds the work where thousands of pictures look alike
COARSE_RMS = 10  # pairs further apart than this at 8 x 8 are not looked at closely; 99 % of copies are nearer
ROWS_AT_ONCE, PAIRS_AT_ONCE = 4096, 256

KEEP, DUPLICATE, NEAR_DUPLICATE = 0, 1, 2


class Duplicates(NamedTuple):
    """What becomes of each of n rows: its verdict, and the row with verdict KEEP that stands for it."""

    verdicts: np.ndarray  # int8[n]: KEEP, DUPLICATE or NEAR_DUPLICATE
    kept_instead: np.ndarray  # int64[n]: the row itself if it is kept


def find_duplicates(
    image_sha256: np.ndarray,
    descriptors: np.ndarray,
    scores: np.ndarray,
    sample_ids: np.ndarray,
    *,
    near: bool = True,
) -> Duplicates:
    """Of pictures that are the same the best score is kept; says which and, for each other, in whose stead.

    image_sha256, sample_ids: uint8[n, 32]. descriptors: uint8[n, DESCRIPTOR_BYTES]. scores: float32[n], a
    higher one is better, equal ones go by the smaller id. A row is a near duplicate of a better row that was
    kept when the two met, so that chains of small changes do not merge as a whole. If that better row is
    dropped for a third one later, the row kept instead is the third one (or what is kept for it), which is
    never a worse one but may be further away than a near duplicate. Nothing depends on the order of rows, but
    which of rows with the same bytes, score and id is kept.
    """
    verdicts = np.full(len(scores), KEEP, dtype=np.int8)
    kept_instead = np.arange(len(scores))
    ids = np.ascontiguousarray(sample_ids).view("S32").ravel()
    ranked = np.lexsort((ids, -np.nan_to_num(scores, nan=-np.inf)))  # best first
    _, first, same = np.unique(
        np.ascontiguousarray(image_sha256[ranked]).view("S32").ravel(), return_index=True, return_inverse=True
    )
    kept_instead[ranked] = ranked[first[same]]
    verdicts[kept_instead != np.arange(len(scores))] = DUPLICATE
    survivors = ranked[np.sort(first)]
    if near and len(survivors) > 1:
        rivals = survivors
        while (
            len(rivals) > 1
        ):  # a cluster larger than the window leaves one row for each window: again with those
            kept, dropped, dropped_for = _near_duplicates(descriptors[rivals])
            verdicts[rivals[dropped]] = NEAR_DUPLICATE
            kept_instead[rivals[dropped]] = rivals[dropped_for]
            rivals = rivals[kept]
    while (verdicts[kept_instead] != KEEP).any():  # follow chains to their end
        kept_instead = kept_instead[kept_instead]
    return Duplicates(verdicts, kept_instead)


def _near_duplicates(descriptors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of descriptors with the best row first: int64 rows close to others, those that are kept and dropped,
    and for each dropped one the best kept row that it is close to.
    """
    pairs = candidates(descriptors)
    close = np.zeros(len(pairs), dtype=bool)
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        a, b = descriptors[pairs[part, 0]], descriptors[pairs[part, 1]]
        close[part] = distance(a, b) <= NEAR_LEVELS
    dropped_for: dict[int, int] = {}
    for better, worse in pairs[close].tolist():  # sorted by the better row, whose fate is settled by then
        if better not in dropped_for:
            dropped_for.setdefault(worse, better)
    involved, dropped = np.unique(pairs[close]), np.array(sorted(dropped_for), dtype=np.int64)
    winners = np.array([dropped_for[row] for row in dropped.tolist()], dtype=np.int64)
    return np.setdiff1d(involved, dropped, assume_unique=True), dropped, winners


def descriptor(image: Image.Image) -> bytes:
    """DESCRIPTOR_BYTES bytes that are close for pictures that look the same; images of any size and mode."""
    small = to_rgb(image).resize((LUMA_SIDE, LUMA_SIDE), Image.Resampling.BOX).convert("YCbCr")
    luma_HW = np.asarray(small)[..., 0]
    chroma_HWC = np.asarray(small.resize((CHROMA_SIDE, CHROMA_SIDE), Image.Resampling.BOX))[..., 1:]
    return luma_HW.tobytes() + np.ascontiguousarray(chroma_HWC.transpose(2, 0, 1)).tobytes()


def _unpack(descriptors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 luma[n, 32, 32] and chroma[n, 2, 8, 8] of descriptors uint8[n, DESCRIPTOR_BYTES]."""
    luma, chroma = descriptors[:, : LUMA_SIDE**2], descriptors[:, LUMA_SIDE**2 :]
    luma_NHW = luma.reshape(-1, LUMA_SIDE, LUMA_SIDE).astype(np.float32)
    return luma_NHW, chroma.reshape(-1, 2, CHROMA_SIDE, CHROMA_SIDE).astype(np.float32)


def _center(d: np.ndarray) -> np.ndarray:
    """Differences less a constant of each channel, of at most MAX_BRIGHTNESS_SHIFT."""
    mean = d.mean((-2, -1), keepdims=True)
    return d - np.clip(mean, -MAX_BRIGHTNESS_SHIFT, MAX_BRIGHTNESS_SHIFT)


def _gradients(m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Central differences along y and x, without the border."""
    return (m[..., 2:, 1:-1] - m[..., :-2, 1:-1]) / 2, (m[..., 1:-1, 2:] - m[..., 1:-1, :-2]) / 2


def _least_shift(d: np.ndarray, gy: np.ndarray, gx: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The shift (dy, dx), at most half a cell, that best explains differences d (Lucas and Kanade 1981)."""
    axes = (-2, -1)
    yy, xx, xy = (gy * gy).sum(axes) + 1, (gx * gx).sum(axes) + 1, (gx * gy).sum(axes)
    by, bx = (gy * d).sum(axes), (gx * d).sum(axes)
    determinant = yy * xx - xy * xy
    dy, dx = (xx * by - xy * bx) / determinant, (yy * bx - xy * by) / determinant
    return np.clip(dy, -0.5, 0.5), np.clip(dx, -0.5, 0.5)


def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float32[n]: the largest difference, OUTLIERS blocks aside, that no small shift and brightness explain.

    a, b: descriptors uint8[n, DESCRIPTOR_BYTES], compared row by row. In grey levels.
    """
    luma_a, chroma_a = _unpack(a)
    luma_b, chroma_b = _unpack(b)
    best = np.full(len(a), np.inf, dtype=np.float32)
    for shift_y, shift_x in ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)):
        # rolled rows and columns come in from the other side: the border is left out
        moved = np.roll(luma_b, (shift_y, shift_x), (1, 2))[:, 1:-1, 1:-1]
        still = luma_a[:, 1:-1, 1:-1]
        gy, gx = _gradients((still + moved) / 2)
        d = _center((still - moved)[:, 1:-1, 1:-1])
        dy, dx = _least_shift(d, gy, gx)
        rest = d - dy[:, None, None] * gy - dx[:, None, None] * gx
        colors = _chroma_rest(chroma_a, chroma_b, shift_y - dy, shift_x - dx)
        best = np.minimum(best, np.maximum(_largest(_blocks(rest)), _largest(colors)))
    return best


def _blocks(rest_NHW: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 cells: the noise of JPEG averages out, an object that is not there does not."""
    n, height, width = rest_NHW.shape
    return rest_NHW.reshape(n, height // 2, 2, width // 2, 2).mean((2, 4))


def _largest(rest: np.ndarray) -> np.ndarray:
    """The largest absolute value of each row but OUTLIERS."""
    flat = np.abs(rest).reshape(len(rest), -1)
    return np.partition(flat, -1 - OUTLIERS, axis=1)[:, -1 - OUTLIERS]


def _chroma_rest(a: np.ndarray, b: np.ndarray, dy: np.ndarray, dx: np.ndarray) -> np.ndarray:
    """The colour difference after the shift (in cells of the brightness) found there."""
    cells = CHROMA_SIDE / LUMA_SIDE
    gy, gx = _gradients((a + b) / 2)
    moved = (dy * cells)[:, None, None, None] * gy + (dx * cells)[:, None, None, None] * gx
    return _center((a - b)[..., 1:-1, 1:-1]) + moved


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


def candidates(descriptors: np.ndarray) -> np.ndarray:
    """int64[m, 2]: pairs of rows (i < j) worth comparing, sorted; at most BANDS * WINDOW for each row.

    Keeps 260 bytes a row in memory; the descriptors themselves may be memory-mapped.
    """
    n = len(descriptors)
    bits = max(4, int(np.ceil(np.log2(max(2, n)))) - 2)  # a bucket holds about four unrelated rows
    directions, weights = _directions(BANDS * bits + 1), 2 ** np.arange(bits, dtype=np.uint32)
    coarse, keys = np.empty((n, COARSE_BYTES), np.uint8), np.empty((BANDS, n), np.uint32)
    last = np.empty(n, np.float32)
    for start in range(0, n, ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        coarse[part] = _coarse(descriptors[part])
        values = coarse[part].astype(np.float64) @ directions  # sums of integers: exact in any order
        signs = values[:, :-1].reshape(-1, BANDS, bits) > 0
        keys[:, part] = (signs * weights).sum(2, dtype=np.uint32).T
        last[part] = values[:, -1]
    totals = coarse.reshape(n, 3, CELLS).sum(2, dtype=np.int32)
    found = [_band_pairs(key, last, coarse, totals) for key in keys]
    return np.unique(np.concatenate(found), axis=0)


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
