"""Duplicates in the scenes crawl: python bench/dedup.py [--rows 4000] [--side 32], or among photographs:
python bench/dedup.py --photographs SHARD ... [--rows 4000]

Prints, against what was planted: the share of exact and near duplicates that are dropped, the share of clean
pairs lost with them, and the time. Scenes drawn independently may be one and the same (`duplicate`, as may be
`near duplicate` of a copy of the other) or look alike.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from measure import arguments, report
from PIL import Image

from ddt.data.decode import decode_rgb
from ddt.data.dedup import DUPLICATE, KEEP, NEAR_DUPLICATE, NEAR_ENTRY, find_duplicates
from ddt.data.descriptor import descriptor
from ddt.data.readers import read_source
from ddt.data.topk import tie_hash
from ddt.params import load_params
from ddt.records import Reject, sample_id
from ddt.scenes.crawl import shard_samples

FAULTS = {"duplicate": 0.02, "near_duplicate": 0.1}
SHARD_ROWS = 1000
VERDICTS = {KEEP: "kept", DUPLICATE: "duplicate", NEAR_DUPLICATE: "near duplicate"}


def main() -> None:
    parser = arguments(__doc__, with_torch=False)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--photographs", type=Path, nargs="+", help="shards as `ingest` reads them")
    options = parser.parse_args()
    planted, digests, ids, descriptors, seconds = [], [], [], [], 0.0
    samples = scenes(options.rows, options.side)
    if options.photographs:
        samples = islice(photographs(options.photographs), options.rows)
    for data, caption, name in samples:
        image = decode_rgb(data)
        begin = time.perf_counter()
        descriptors.append(descriptor(image))
        seconds += time.perf_counter() - begin
        planted.append(name)
        digests.append(hashlib.sha256(data).digest())
        ids.append(bytes.fromhex(sample_id(data, caption)))
    n = len(ids)
    entries = np.zeros(n, NEAR_ENTRY)
    # an original scores a little higher than its copies, as clean captions do
    entries["score"] = [0.3 if p == "clean" else 0.2 for p in planted]
    entries["sha256"], entries["descriptor"], id_array = (
        np.frombuffer(b"".join(column), np.uint8).reshape(n, -1) for column in (digests, descriptors, ids)
    )
    entries["tie"] = tie_hash(id_array, 0)
    begin = time.perf_counter()
    verdicts = find_duplicates(entries)
    found = time.perf_counter() - begin
    kinds = np.array(planted)
    print(f"{n} pictures; {1e6 * seconds / n:.0f} us a descriptor, {found:.2f} s to compare")
    results: dict[str, Any] = {"descriptor_s": seconds / n, "compare_s": found}
    for kind in ("duplicate", "near_duplicate", "clean"):
        of_kind = verdicts[kinds == kind]
        if not len(of_kind):
            continue
        shares = {name: float(np.mean(of_kind == code)) for code, name in VERDICTS.items()}
        line = ", ".join(f"{name} {share:.3f}" for name, share in shares.items())
        print(f"planted {kind:15} {len(of_kind):6}: {line}")
        results[kind] = shares
    report(options, results)


def scenes(rows: int, side: int) -> Iterator[tuple[bytes, str, str]]:
    """Image, caption and what is planted."""
    for index in range(-(-rows // SHARD_ROWS)):
        for sample in shard_samples(index, min(rows, SHARD_ROWS), 0, side, FAULTS):
            yield sample.image, sample.caption, sample.meta["planted"]


def photographs(shards: Sequence[Path]) -> Iterator[tuple[bytes, str, str]]:
    """The same; of every tenth photograph a copy of lower quality, brighter, half as large or cut by 1 %."""
    params = load_params(Path(__file__).resolve().parent.parent / "params.yaml").ingest
    found = (row for path in shards for row in read_source(path, path.name, params))
    for number, row in enumerate(row for row in found if not isinstance(row, Reject)):
        yield row["image"], row["caption"], "clean"
        if number % 10 == 0:
            buffer = io.BytesIO()
            nearly(decode_rgb(row["image"]), number // 10 % 4).save(buffer, "JPEG", quality=60)
            yield buffer.getvalue(), row["caption"], "near_duplicate"


def nearly(image: Image.Image, way: int) -> Image.Image:
    width, height = image.size
    if way == 0:
        return image
    if way == 1:
        return image.point(lambda level: min(255, level + 6))
    if way == 2:
        return image.resize((width // 2, height // 2))
    return image.crop((width // 100, 0, width, height))


if __name__ == "__main__":
    main()
