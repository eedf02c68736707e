"""Duplicates in the scenes crawl: python bench/dedup.py [--rows 4000] [--side 32].

Prints, against what was planted: the share of exact and near duplicates that are dropped, the share of clean
pairs lost with them (scenes drawn independently that look alike), and the time.
"""

from __future__ import annotations

import hashlib
import time
from typing import Any

import numpy as np
from measure import arguments, report

from ddt.data.decode import decode_rgb
from ddt.data.dedup import DESCRIPTOR_BYTES, DUPLICATE, KEEP, NEAR_DUPLICATE, descriptor, find_duplicates
from ddt.records import sample_id
from ddt.scenes.crawl import shard_samples

FAULTS = {"duplicate": 0.02, "near_duplicate": 0.1}
SHARD_ROWS = 1000
VERDICTS = {KEEP: "kept", DUPLICATE: "duplicate", NEAR_DUPLICATE: "near duplicate"}


def main() -> None:
    parser = arguments(__doc__, with_torch=False)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--side", type=int, default=32)
    options = parser.parse_args()
    planted, digests, ids, descriptors, seconds = [], [], [], [], 0.0
    for index in range(-(-options.rows // SHARD_ROWS)):
        for sample in shard_samples(index, min(options.rows, SHARD_ROWS), 0, options.side, FAULTS):
            image = decode_rgb(sample.image)
            begin = time.perf_counter()
            descriptors.append(descriptor(image))
            seconds += time.perf_counter() - begin
            planted.append(sample.meta["planted"])
            digests.append(hashlib.sha256(sample.image).digest())
            ids.append(bytes.fromhex(sample_id(sample.image, sample.caption)))
    n = len(ids)
    # an original scores a little higher than its copies, as clean captions do
    scores = np.array([0.3 if p == "clean" else 0.2 for p in planted], dtype=np.float32)
    table = (
        np.frombuffer(b"".join(column), np.uint8).reshape(n, -1) for column in (digests, descriptors, ids)
    )
    digest_array, descriptor_array, id_array = table
    assert descriptor_array.shape[1] == DESCRIPTOR_BYTES
    begin = time.perf_counter()
    verdicts = find_duplicates(digest_array, descriptor_array, scores, id_array).verdicts
    found = time.perf_counter() - begin
    kinds = np.array(planted)
    print(
        f"{n} scenes of {options.side} px; {1e6 * seconds / n:.0f} us a descriptor, {found:.2f} s to compare"
    )
    results: dict[str, Any] = {"descriptor_s": seconds / n, "compare_s": found}
    for kind in ("duplicate", "near_duplicate", "clean"):
        of_kind = verdicts[kinds == kind]
        shares = {name: float(np.mean(of_kind == code)) for code, name in VERDICTS.items()}
        line = ", ".join(f"{name} {share:.3f}" for name, share in shares.items())
        print(f"planted {kind:15} {len(of_kind):6}: {line}")
        results[kind] = shares
    report(options, results)


if __name__ == "__main__":
    main()
