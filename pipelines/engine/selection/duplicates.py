"""Two steps of `select`: duplicates are found deal by deal, then what all deals told of a group is put
together.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ddt.data.dedup import DUPLICATE, FOUND, NEAR_DUPLICATE, STANDS_FOR_CLEAN, entry_kind, find_in_deal
from ddt.data.parts import read_part, write_parts
from ddt.data.verdicts import ROW, VERDICTS
from pipelines.engine.units import Output, UnitWorker


class DuplicatesWorker(UnitWorker):
    """Of one deal, of which every file of a group has a part. Leaves a file with a part for each group."""

    def setup(self, filtered: list[str], first_shards: list[int], near: bool) -> None:  # type: ignore[override]
        self.filtered, self.first_shards, self.near = filtered, first_shards, near

    def process(self, unit: dict[str, Any], folder: Path) -> Output:
        found = find_in_deal(self._entries(unit["deal"], folder / "entries"), self.near)
        path = folder / "duplicates.parts"
        groups = np.split(found, np.searchsorted(found["shard"], self.first_shards[1:]))
        return Output(path, write_parts(path, groups, len(groups)))

    def _entries(self, deal: int, path: Path) -> np.ndarray:
        """All entries of a deal, on the disk: there may be more of them than memory holds."""
        kind = entry_kind(self.near)
        with path.open("wb") as sink:
            for key in self.filtered:
                with self.store.open(key) as file:
                    sink.write(read_part(file, deal, kind).tobytes())
        return np.memmap(path, kind, "r") if path.stat().st_size else np.empty(0, kind)


COPIES_SHOWN = 4  # of each kind and group, as examples
WHERE = ("shard", "row", "better_shard", "better_row")


class SurvivorsWorker(UnitWorker):
    """Of one group. Leaves a file with the ROWs of each shard, their verdicts final but for the cut at K."""

    def setup(self, found: list[str], deals: int) -> None:  # type: ignore[override]
        self.found, self.deals = found, deals

    def process(self, unit: dict[str, Any], folder: Path) -> Output:
        found = self._found(unit["group"])
        with self.store.open(unit["filtered"]) as file:
            shards = [read_part(file, self.deals + n, ROW).copy() for n in range(unit["shards"])]
        for number, rows in enumerate(shards, unit["first"]):
            mine = found[found["shard"] == number]
            for kind in (NEAR_DUPLICATE, DUPLICATE):
                rows["verdict"][mine["row"][mine["kind"] == kind]] = kind
            rows["stands"][mine["row"][mine["kind"] == STANDS_FOR_CLEAN]] = True
        path = folder / "survivors.parts"
        count = write_parts(path, shards, len(shards))
        counts = [np.bincount(rows["verdict"], minlength=len(VERDICTS)).tolist() for rows in shards]
        stats = {"verdicts": counts, "copies": _some_copies(found)}  # of each shard, in the order of VERDICTS
        return Output(path, count, stats=stats)

    def _found(self, group: int) -> np.ndarray:
        """What all deals tell of a group's rows."""
        told = []
        for key in self.found:
            with self.store.open(key) as file:
                told.append(read_part(file, group, FOUND))
        return np.concatenate(told)


def _some_copies(found: np.ndarray) -> dict[str, list[list[int]]]:
    """By verdict the first of a group's copies, each with the better row that it was dropped for (WHERE)."""
    shown = {}
    for kind in (DUPLICATE, NEAR_DUPLICATE):
        told = found[found["kind"] == kind]
        first = np.unique(told[["shard", "row"]], return_index=True)[1][:COPIES_SHOWN]  # in any deal
        shown[VERDICTS[kind]] = [[int(told[name][place]) for name in WHERE] for place in first]
    return shown
