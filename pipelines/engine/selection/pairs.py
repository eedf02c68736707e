"""The last step of `select`: the selected pairs of a shard are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ddt.data.parts import read_part
from ddt.data.schemas import PAIR_SCHEMA
from ddt.data.topk import TopK
from ddt.data.verdicts import KEPT, ROW, decide
from ddt.records import read_columns, write_shard
from pipelines.engine.units import Output, UnitWorker
from pipelines.services.pairs_gate import pair_stats


class PairsWorker(UnitWorker):
    """Of one record shard: both captions and the score, no images."""

    def setup(self, selection: TopK, longest: int) -> None:  # type: ignore[override]
        self.selection, self.longest = selection, longest

    def process(self, unit: dict[str, Any], folder: Path) -> Output:
        with self.store.open(unit["survivors"]) as file:
            rows = decide(read_part(file, unit["part"], ROW), self.selection)
        kept = np.flatnonzero(rows["verdict"] == KEPT)  # rows, not ids: exact copies share one id
        records = read_columns(self.store.open(unit["records"]), ["sample_id", "caption"]).take(kept)
        captions = read_columns(self.store.open(unit["captions"]), ["long_caption"]).take(kept)
        scores = rows["score"][kept].astype(float).tolist()
        columns = [*(c.to_pylist() for c in (*records.columns, *captions.columns)), scores]
        pairs = [dict(zip(PAIR_SCHEMA.names, row, strict=True)) for row in zip(*columns, strict=True)]
        path = folder / "pairs.arrow"
        write_shard(path, pairs, PAIR_SCHEMA)
        return Output(path, len(pairs), stats={"records": unit["records"], **pair_stats(pairs, self.longest)})
