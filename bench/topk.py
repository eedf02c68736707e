"""Speed of the exact top-k: python bench/topk.py [--rows 10000000] [--keep-share 0.5] [--distinct 0].

`--distinct n` rounds scores to n values, so that the cut falls among many ties. Prints rows a second of the
selection and of `keep`, and checks the count and the threshold against numpy.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from measure import arguments, report

from ddt.data.topk import digit_counts, select_top_k

PART_ROWS = 1_000_000


def main() -> None:
    parser = arguments(__doc__, with_torch=False)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--keep-share", type=float, default=0.5)
    parser.add_argument("--distinct", type=int, default=0)
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    scores = generator.normal(0.28, 0.05, options.rows).astype(np.float32)
    if options.distinct:
        scores = np.round(scores * options.distinct) / np.float32(options.distinct)
    ids = np.frombuffer(generator.bytes(32 * options.rows), np.uint8).reshape(-1, 32)
    parts = [slice(start, start + PART_ROWS) for start in range(0, options.rows, PART_ROWS)]
    k = int(options.rows * options.keep_share)

    def count(prefix: Sequence[int]) -> np.ndarray:
        return sum(digit_counts(prefix, 0, ids[part], scores[part]) for part in parts)

    begin = time.perf_counter()
    selection = select_top_k(count, k, seed=0)
    middle = time.perf_counter()
    kept = sum(int(selection.keep(ids[part], scores[part]).sum()) for part in parts)
    end = time.perf_counter()
    assert kept == k and selection.threshold == np.partition(scores, options.rows - k)[options.rows - k]
    print(f"rows {options.rows:,}  kept {kept:,} (asked {k:,})  ties at the threshold {selection.num_ties:,}")
    print(f"select {middle - begin:.2f} s, {options.rows / (middle - begin) / 1e6:.1f} M rows/s")
    print(f"keep   {end - middle:.2f} s, {options.rows / (end - middle) / 1e6:.1f} M rows/s")
    report(options, {"select_s": middle - begin, "keep_s": end - middle, "ties": selection.num_ties})


if __name__ == "__main__":
    main()
