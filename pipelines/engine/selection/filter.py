"""The first step of `select`: filters judge the rows of a group, and what passes is dealt out."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ddt.data.dedup import deal, entry_kind
from ddt.data.descriptor import DESCRIPTOR_BYTES
from ddt.data.parts import write_parts
from ddt.data.takedown import Takedown
from ddt.data.topk import tie_hash
from ddt.data.verdicts import KEPT, KINDS, ROW, VERDICTS, kind_codes
from ddt.records import column_names, read_columns
from ddt.sections.curation import SelectParams
from pipelines.engine.selection.captions import CaptionFilters
from pipelines.engine.units import Output, UnitWorker


class FilterWorker(UnitWorker):
    """Leaves a file of parts: the deals of each band, then the ROWs of each shard."""

    def setup(  # type: ignore[override]
        self, params: SelectParams, takedown: Takedown | None, rows: int, band_deals: int, deals: int
    ) -> None:
        self.params, self.takedown = params, takedown
        self.rows, self.band_deals, self.deals = rows, band_deals, deals
        self.captions = CaptionFilters(params)

    def process(self, unit: dict[str, Any], folder: Path) -> Output:
        judged = [self._judge(number, **shard) for number, shard in enumerate(unit["shards"], unit["first"])]
        entries = np.concatenate([entries for _, entries in judged])
        rows = [rows for rows, _ in judged]
        dealt = deal(entries, self.rows, self.band_deals, self.params.drop_near_duplicates)
        path = folder / "filtered.parts"
        write_parts(path, chain(dealt, rows), self.deals + len(rows))
        return Output(path, sum(map(len, rows)))

    def _judge(self, number: int, scores: str, records: str) -> tuple[np.ndarray, np.ndarray]:
        """ROWs of a shard, and entries of those that pass the filters."""
        near = self.params.drop_near_duplicates
        wanted = ["sample_id", "native_score", "generated_score", "image_sha256"]
        table = read_columns(self.store.open(scores), [*wanted, *(["descriptor"] if near else [])])
        texts = read_columns(self.store.open(records), ["caption", "planted"])
        takedown = self._taken_down(table, records)
        native, generated = table["native_score"].to_numpy(), table["generated_score"].to_numpy()
        ranks = {"native": native, "generated": generated, "mean": (native + generated) / 2}
        rows = np.zeros(len(table), ROW)
        ids = bytes.fromhex("".join(table["sample_id"].to_pylist()))
        rows["id"] = np.frombuffer(ids, np.uint8).reshape(-1, 32)
        rows["score"], rows["native"] = ranks[self.params.rank_by], native
        reasons = {
            "low_generated_score": generated < self.params.min_generated_score,
            "low_native_score": native < self.params.min_native_score,
            **self.captions.reasons(texts["caption"].to_pylist()),
            "no_score": np.isnan(native) | np.isnan(generated),
            "taken_down": takedown,
        }
        rows["verdict"] = KEPT
        for reason, failing in reasons.items():  # of several reasons the last one is told
            rows["verdict"][failing] = VERDICTS.index(reason)
        rows["planted"] = kind_codes(texts["planted"].to_pylist())
        passing = np.flatnonzero(rows["verdict"] == KEPT)
        entries = np.zeros(len(passing), entry_kind(near))
        entries["score"] = rows["score"][passing]
        entries["clean"] = rows["planted"][passing] == KINDS.index("clean")
        entries["tie"] = tie_hash(rows["id"][passing], self.params.seed)
        entries["shard"], entries["row"] = number, passing
        entries["sha256"] = _bytes_rows(table["image_sha256"], 32)[passing]
        if near:
            entries["descriptor"] = _bytes_rows(table["descriptor"], DESCRIPTOR_BYTES)[passing]
        return rows, entries

    def _taken_down(self, scores: pa.Table, records: str) -> np.ndarray:
        """bool[n]: the rows that the takedown list names."""
        if self.takedown is None:
            return np.zeros(len(scores), bool)
        images = [digest.hex() for digest in scores["image_sha256"].to_pylist()]
        found = self.takedown.names(scores["sample_id"].to_pylist()) | self.takedown.names(images)
        if self.takedown.urls and "url" in column_names(self.store.open(records)):
            urls = read_columns(self.store.open(records), ["url"])["url"].to_pylist()
            found |= self.takedown.has_urls(urls)
        return found


def _bytes_rows(column: pa.ChunkedArray, width: int) -> np.ndarray:
    """A binary column of equal lengths as uint8[n, width]; n is 0 where a shard held nothing usable."""
    return np.frombuffer(b"".join(column.to_pylist()), np.uint8).reshape(len(column), width)
