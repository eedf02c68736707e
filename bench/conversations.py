"""Parts of a conversation file: python bench/conversations.py [--entries 40960] [--json FILE].

A JSON list and JSON lines of conversations without pictures, of some 2 KB each, read in the parts that
`ingest` makes of them: by their bytes, and as where these are not known, with all that is before them parsed.
Seconds of one core.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from measure import arguments, report

from ddt.data.readers import read_conversations, split_conversations
from pipelines.ingest import CONVERSATIONS_PER_UNIT

LIMITS = {"max_pixels": 1 << 20, "min_side_px": 1}


def main() -> None:
    parser = arguments(__doc__, with_torch=False)
    parser.add_argument("--entries", type=int, default=40_960)
    options = parser.parse_args()
    results: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="ddt-bench-") as folder:
        for name in ("list.json", "lines.jsonl"):
            path = write(Path(folder) / name, options.entries)
            began = time.process_time()
            parts = split_conversations(path, folder, CONVERSATIONS_PER_UNIT)
            results[f"{name}: split, s"] = time.process_time() - began
            whole = [replace(part, span=None) for part in parts]
            for what, read in (("by their bytes", parts), ("all parsed", whole)):
                began = time.process_time()
                rows = sum(1 for part in read for _ in read_conversations(path, folder, **LIMITS, part=part))
                results[f"{name}: {len(parts)} parts {what}, s"] = time.process_time() - began
                assert rows == options.entries
    for name, value in results.items():
        print(f"{name:44} {value:,.3g}")
    report(options, results)


def write(path: Path, entries: int) -> Path:
    said = [{"from": who, "value": "words about a picture " * 20} for who in ("human", "gpt") * 2]
    lines = (json.dumps({"id": number, "conversations": said}) for number in range(entries))
    is_list = path.suffix == ".json"
    path.write_text(f"[{','.join(lines)}]" if is_list else "\n".join(lines))
    return path


if __name__ == "__main__":
    main()
