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
from ddt.data.topk import tie_hash
from ddt.data.verdicts import KEPT, KINDS, ROW, VERDICTS, kind_codes
from ddt.records import read_columns
from ddt.sections.curation import SelectParams
from pipelines.engine.units import Output, UnitWorker


class FilterWorker(UnitWorker):
    """Leaves a file of parts: the deals of each band, then the ROWs of each shard."""

    def setup(self, params: SelectParams, rows: int, band_deals: int, deals: int) -> None:  # type: ignore[override]
        self.params, self.rows, self.band_deals, self.deals = params, rows, band_deals, deals

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
        native, generated = table["native_score"].to_numpy(), table["generated_score"].to_numpy()
        ranks = {"native": native, "generated": generated, "mean": (native + generated) / 2}
        rows = np.zeros(len(table), ROW)
        ids = bytes.fromhex("".join(table["sample_id"].to_pylist()))
        rows["id"] = np.frombuffer(ids, np.uint8).reshape(-1, 32)
        rows["score"], rows["native"] = ranks[self.params.rank_by], native
        rows["verdict"] = judge(texts["caption"].to_pylist(), native, generated, self.params)
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


def judge(captions: list[str], native: np.ndarray, generated: np.ndarray, params: SelectParams) -> np.ndarray:
    """uint8[n]: what the filters say of each row, KEPT where nothing is wrong with it."""
    words = np.array([len(caption.split()) for caption in captions], np.int64)
    reasons = {
        "low_generated_score": generated < params.min_generated_score,
        "low_native_score": native < params.min_native_score,
        "short_caption": words < params.min_caption_words,
        "no_score": np.isnan(native) | np.isnan(generated),
    }
    verdicts = np.full(len(captions), KEPT, np.uint8)
    for reason, failing in reasons.items():  # of several reasons the last one is told
        verdicts[failing] = VERDICTS.index(reason)
    return verdicts


def _bytes_rows(column: pa.ChunkedArray, width: int) -> np.ndarray:
    """A binary column of equal lengths as uint8[n, width]; n is 0 where a shard held nothing usable."""
    return np.frombuffer(b"".join(column.to_pylist()), np.uint8).reshape(len(column), width)
