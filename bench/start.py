"""What a training's data cost before its first step: python bench/start.py [--shards 100] [--rows 2000].

Made-up token shards of 480 codes, JSON lines beside them: shards by what their commits say against all codes
read, lines by an index made before against all of them parsed; and one batch's samples. Printed are seconds
and, in a process of its own, the most memory beyond what it held before, mapped pages included.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measure import arguments, now, peak_bytes, report

from ddt.data.text import JsonLines, line_offsets
from ddt.data.tokens import ShardFacts, TokenDataset, TokenMeta, write_shard

META = TokenMeta("d" * 64, num_tokens=480, codebook_size=1 << 16, token_order="V_1..V_T")
BATCH = 1280
LINE_CHARS = 2000


def make_data(folder: Path, shards: int, rows: int, lines: int) -> list[ShardFacts]:
    """Token shards by number and `text.jsonl` with its index; what commits say of the shards."""
    rng, facts = np.random.default_rng(0), []
    for number in range(shards):
        texts = [f"caption {number} {row} " + "word " * 40 for row in range(rows)]
        columns = {name: texts for name in ("sample_id", "short", "long")}
        columns |= {"codes": rng.integers(0, META.codebook_size, (rows, META.num_tokens))}
        write_shard(folder / f"{number}", columns, META, "pairs")
        facts.append(ShardFacts.of(folder / f"{number}"))
    text = json.dumps({"text": "word " * (LINE_CHARS // 5)})
    (folder / "text.jsonl").write_text(f"{text}\n" * lines)
    np.save(folder / "lines.npy", line_offsets(folder / "text.jsonl")[0])
    return facts


def open_pairs(facts: list[ShardFacts], from_commits: bool, batches: int) -> Callable[[], None]:
    def run() -> None:
        paths = [facts_.key for facts_ in facts]
        data = TokenDataset(facts) if from_commits else TokenDataset.of_files(paths)
        for row in data.shuffled(0, "pairs", np.arange(batches * BATCH)).tolist():
            data.text("long", row)
            data.codes(row)

    return run


def open_lines(folder: str, from_index: bool) -> Callable[[], None]:
    def run() -> None:
        path = Path(folder) / "text.jsonl"
        if from_index:
            JsonLines([path], [np.load(Path(folder) / "lines.npy", mmap_mode="r")])[7]
        else:
            JsonLines.of_files([path])[7]

    return run


def main() -> None:
    parser = arguments(__doc__, with_torch=False)
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--rows", type=int, default=2000, help="of a shard (default: 2000)")
    parser.add_argument("--lines", type=int, default=50_000, help="of text (default: 50000)")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        facts = make_data(Path(folder), options.shards, options.rows, options.lines)
        ways = {
            "pairs, commits": (open_pairs, facts, True, 0),
            "pairs, commits, and a batch": (open_pairs, facts, True, 1),
            "pairs, all codes read": (open_pairs, facts, False, 0),
            "lines, index": (open_lines, folder, True),
            "lines, all parsed": (open_lines, folder, False),
        }
        for name, (make, *args) in ways.items():
            began = now()
            make(*args)()
            seconds, peak = now() - began, peak_bytes(make, *args, device="cpu")
            results[name] = {"seconds": seconds, "peak_mb": peak / 1e6}
            print(f"{name:30} {seconds:8.3f} s {peak / 1e6:8.1f} MB")
    report(options, results)


if __name__ == "__main__":
    main()
