"""The units of each step of `select`.

Score shards are numbered in the manifest's order, which their content decides, and make groups of a few. The
rows of a group are dealt out by what they look like: duplicates are found in a deal, of which every group has
a part, and told to the groups again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ddt.data.dedup import bands
from ddt.manifest import Commit, unit_id

MAX_GROUPS = 4096  # of record shards: at 400 M rows a group has some 100,000, of which 2 GB are dealt out
DEAL_ROWS = 1 << 20  # of a deal, on average: 1.2 GB on a worker's disk, 0.4 GB in its memory

Unit = dict[str, Any]


@dataclass(frozen=True)
class Group:
    """Score shards that follow each other, and the number of the first."""

    first: int
    scores: Sequence[Commit]


@dataclass(frozen=True)
class Plan:
    """Which shards make a group, and how many deals there are: in each band, and in all."""

    fingerprint: str
    groups: list[Group]
    rows: int
    band_deals: int
    deals: int

    @classmethod
    def of(cls, scores: Sequence[Commit], near: bool, fingerprint: str) -> Plan:
        """For all score shards; near: whether descriptors are dealt out as well as bytes."""
        size = -(-len(scores) // MAX_GROUPS)
        groups = [Group(first, scores[first : first + size]) for first in range(0, len(scores), size)]
        rows = sum(c.rows for c in scores)
        band_deals = max(1, -(-rows // DEAL_ROWS))
        return cls(fingerprint, groups, rows, band_deals, bands(near) * band_deals)

    def filter_units(self) -> list[Unit]:
        return [
            self._unit(f"filter/{number}")
            | {"first": group.first}
            | {"shards": [{"scores": c.key, "records": c.stats["records"]} for c in group.scores]}
            for number, group in enumerate(self.groups)
        ]

    def duplicate_units(self) -> list[Unit]:
        return [self._unit(f"duplicates/{deal}") | {"deal": deal} for deal in range(self.deals)]

    def survivor_units(self, filtered: Sequence[Commit]) -> list[Unit]:
        return [
            self._unit(f"survivors/{number}")
            | {"group": number, "first": group.first, "shards": len(group.scores), "filtered": judged.key}
            for number, (group, judged) in enumerate(zip(self.groups, filtered, strict=True))
        ]

    def count_units(self, survivors: Sequence[Commit]) -> list[Unit]:
        """These leave no file: they are counted each time."""
        pairs = zip(self.groups, survivors, strict=True)
        return [
            {"unit": rows.unit, "survivors": rows.key, "parts": len(group.scores)} for group, rows in pairs
        ]

    def pair_units(self, survivors: Sequence[Commit]) -> list[Unit]:
        return [
            {
                "unit": self._pair_unit(scores),
                "records": scores.stats["records"],
                "captions": scores.stats["captions"],
                "survivors": rows.key,
                "part": part,
            }
            for group, rows in zip(self.groups, survivors, strict=True)
            for part, scores in enumerate(group.scores)
        ]

    def pair_unit_ids(self) -> list[str]:
        """Names of all units of pairs, sorted."""
        return sorted(self._pair_unit(scores) for group in self.groups for scores in group.scores)

    def _pair_unit(self, scores: Commit) -> str:
        return unit_id(scores.sha256, self.fingerprint)

    def _unit(self, name: str) -> Unit:
        return {"unit": unit_id(name, self.fingerprint)}
