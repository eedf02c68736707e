"""The whole of `select` on made-up rows: python bench/selection.py [--rows 100000] [--distinct 200].

Workers make score shards of 10,000 rows (one row in twenty nearly a copy of the row before it) whose native
scores have `--distinct` values, so that very many are equal to the K-th. Printed are the peak memory of the
driver, beyond what it held before, and the time; the K-th score and the number kept are compared with
numpy.partition over all scores, made once more. Needs 40 KB of disk a row, with `--exact` (equal bytes alone,
no descriptors dealt out) 0.4 KB: for 10^8 rows that is the way, or a store that holds 4 TB.
"""

from __future__ import annotations

import dataclasses
import io
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from measure import arguments, report, status_bytes
from PIL import Image

from ddt.data.descriptor import DESCRIPTOR_BYTES
from ddt.data.schemas import CAPTION_SCHEMA, SCORE_SCHEMA
from ddt.manifest import Manifest
from ddt.params import load_params
from ddt.records import RECORD_SCHEMA, write_shard
from ddt.store import open_store
from pipelines import select
from pipelines.engine.cluster import connect
from pipelines.engine.runner import StageContext
from pipelines.engine.units import Output, UnitWorker, run_units

SHARD_ROWS = 10_000
PRINT = "b" * 64
KEEP_SHARE = 0.4


def scores_of(shard: int, distinct: int) -> np.ndarray:
    """float32[SHARD_ROWS], around 0.28 as CLIP's are."""
    drawn = np.random.default_rng([shard, 0]).normal(0.28, 0.05, SHARD_ROWS)
    return (np.round(drawn * distinct) / distinct).astype(np.float32)


class MakeWorker(UnitWorker):
    """Makes one shard of scores, with the records and captions it is of."""

    def setup(self, distinct: int) -> None:  # type: ignore[override]
        self.distinct = distinct
        picture = io.BytesIO()
        Image.new("RGB", (8, 8)).save(picture, "PNG")
        self.fixed = {"image": picture.getvalue(), "width": 8, "height": 8, "format": "PNG"}
        self.fixed |= {"questions": [], "planted": None, "source": "bench", "generated_score": 0.3}

    def process(self, unit: dict[str, Any], folder: Path) -> Output:
        rows = list(self._rows(unit["shard"]))
        path, keys = folder / "made.arrow", {}
        for name, schema in (("records", RECORD_SCHEMA), ("captions", CAPTION_SCHEMA)):
            write_shard(path, ({k: row[k] for k in schema.names} for row in rows), schema)
            keys[name] = f"{name}/{unit['shard']:06d}.arrow"
            self.store.put_file(keys[name], path)
        write_shard(path, ({k: row[k] for k in SCORE_SCHEMA.names} for row in rows), SCORE_SCHEMA)
        return Output(path, len(rows), stats=keys)

    def _rows(self, shard: int) -> Any:
        generator = np.random.default_rng([shard, 1])
        descriptor = np.zeros(DESCRIPTOR_BYTES, np.uint8)
        for row, score in enumerate(scores_of(shard, self.distinct).tolist()):
            if row % 20 == 19:
                descriptor = np.clip(descriptor, 1, 254) + generator.integers(-1, 2, DESCRIPTOR_BYTES)
            else:
                luma = np.kron(generator.integers(0, 256, (8, 8)), np.ones((4, 4), np.int64))
                descriptor = np.r_[luma.ravel(), generator.integers(90, 160, DESCRIPTOR_BYTES - luma.size)]
            look = {"image_sha256": generator.bytes(32), "descriptor": descriptor.astype(np.uint8).tobytes()}
            text = {"caption": f"row {row} of {shard}", "long_caption": f"the row {row} of shard {shard}"}
            yield self.fixed | look | text | {"sample_id": generator.bytes(32).hex(), "native_score": score}


def main() -> None:
    parser = arguments(__doc__, with_torch=False)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--distinct", type=int, default=200)
    parser.add_argument("--exact", action="store_true", help="only equal bytes are duplicates")
    parser.add_argument("--folder", type=Path, help="where the rows are kept (default: temporary)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="ddt-bench-") as folder:
        results = measure(Path(folder), options.rows, options.distinct, near=not options.exact)
    for name, value in results.items():
        print(f"{name:24} {value:,.6g}")
    report(options, results)


def measure(folder: Path, rows: int, distinct: int, near: bool) -> dict[str, float]:
    shards = -(-rows // SHARD_ROWS)
    section = {"keep": int(KEEP_SHARE * shards * SHARD_ROWS), "drop_near_duplicates": near}
    section |= {"min_native_score": -1.0, "min_generated_score": -1.0, "gate_min_mean_score": -1.0}
    params = load_params(Path(__file__).resolve().parent.parent / "params.yaml")
    params = dataclasses.replace(params, select=dataclasses.replace(params.select, **section))
    ctx = StageContext("select", params, params.select, open_store(folder / "store"), folder, PRINT, {})
    with connect(params.resources):
        units = [{"unit": f"{shard:032x}", "shard": shard} for shard in range(shards)]
        made = run_units(dataclasses.replace(ctx, name="score"), MakeWorker, units, distinct=distinct)
        ctx = dataclasses.replace(ctx, inputs={"score": Manifest("score", PRINT, {}, tuple(made))})
        before, began = status_bytes("VmRSS"), time.perf_counter()
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from here
        metrics = select.run(ctx).report.metrics
        seconds, peak = time.perf_counter() - began, status_bytes("VmHWM") - before
    check(shards, distinct, section["keep"], metrics)
    return {
        "select_s": seconds,
        "driver_peak_mb": peak / 1e6,
        "near_duplicates": metrics.get("select/near_duplicate", 0),
        "ties_at_threshold": metrics["select/ties_at_threshold"],
    }


def check(shards: int, distinct: int, keep: int, metrics: dict[str, float]) -> None:
    """Without near duplicates the K-th score is numpy's; with them it can only be lower."""
    scores = np.concatenate([scores_of(shard, distinct) for shard in range(shards)])
    place = len(scores) - keep
    threshold = np.partition(scores, place)[place]
    assert metrics["select/kept"] == keep
    if "select/near_duplicate" in metrics:
        assert metrics["select/threshold"] <= threshold
    else:
        assert metrics["select/threshold"] == threshold
        assert metrics["select/ties_at_threshold"] == (scores == threshold).sum()


if __name__ == "__main__":
    main()
