"""What `select` decides about each row, row by row as workers hand it on, and as counts that add up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from ddt.data.dedup import DUPLICATE, KEEP, NEAR_DUPLICATE
from ddt.data.topk import TopK
from ddt.scenes.crawl import PLANTED

VERDICTS = (
    "kept",
    "duplicate",
    "near_duplicate",
    "empty_caption",
    "short_caption",
    "long_caption",
    "boilerplate",
    "foreign_caption",
    "low_native_score",
    "low_generated_score",
    "no_score",  # a score is not a number
    "taken_down",
    "below_top_k",
)
KEPT, BELOW = VERDICTS.index("kept"), VERDICTS.index("below_top_k")
assert (KEPT, VERDICTS[DUPLICATE], VERDICTS[NEAR_DUPLICATE]) == (KEEP, "duplicate", "near_duplicate")
KINDS = ("unknown", *PLANTED)  # what was planted in a row, where that is known

# A row of a record shard, in its order. `stands`: for a row marked clean that was dropped as its duplicate.
ROW = np.dtype(
    [
        ("id", "u1", 32),
        ("score", "<f4"),  # what rows are ranked by
        ("native", "<f4"),
        ("verdict", "u1"),
        ("planted", "u1"),
        ("stands", "?"),
    ]
)
SCORE_EDGES = np.linspace(-1, 1, 401)  # of the histograms of native scores


def kind_codes(planted: list[str | None]) -> np.ndarray:
    """uint8[n]: places in KINDS."""
    places = {name: code for code, name in enumerate(KINDS)}
    return np.array([places.get(name or "", 0) for name in planted], np.uint8)


def decide(rows: np.ndarray, selection: TopK) -> np.ndarray:
    """ROWs with their last verdict: those that nothing dropped are kept or below the K-th score."""
    passing = np.flatnonzero(rows["verdict"] == KEPT)
    decided = rows.copy()
    kept = selection.keep(np.ascontiguousarray(rows["id"][passing]), rows["score"][passing])
    decided["verdict"][passing[~kept]] = BELOW
    return decided


@dataclass(frozen=True)
class Tally:
    """Counts of rows, int64: by kind and verdict, all of them and those that stand for a clean row; native
    scores by bin.
    """

    all_KV: np.ndarray
    stands_KV: np.ndarray
    kept_scores: np.ndarray
    dropped_scores: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray) -> Self:
        """Of an array of ROW whose verdicts are final."""
        cells = rows["planted"].astype(np.int64) * len(VERDICTS) + rows["verdict"]
        kept = rows["verdict"] == KEPT
        return cls(
            *(_table(chosen) for chosen in (cells, cells[rows["stands"]])),
            *(np.histogram(rows["native"][which], SCORE_EDGES)[0] for which in (kept, ~kept)),
        )

    def to_array(self) -> np.ndarray:
        """All counts in a row, to be added up."""
        parts = (self.all_KV, self.stands_KV, self.kept_scores, self.dropped_scores)
        return np.concatenate([part.ravel() for part in parts]).astype(np.int64)

    @classmethod
    def from_array(cls, counts: np.ndarray) -> Self:
        """The inverse of `to_array`."""
        cells, bins = len(KINDS) * len(VERDICTS), len(SCORE_EDGES) - 1
        tables, stands, kept, dropped = np.split(counts, [cells, 2 * cells, 2 * cells + bins])
        return cls(tables.reshape(len(KINDS), -1), stands.reshape(len(KINDS), -1), kept, dropped)

    def by_verdict(self) -> dict[str, int]:
        """How many rows got each verdict, of those that any got."""
        counts = zip(VERDICTS, self.all_KV.sum(0).tolist(), strict=True)
        return {name: count for name, count in sorted(counts) if count}


def _table(cells: np.ndarray) -> np.ndarray:
    counts = np.bincount(cells, minlength=len(KINDS) * len(VERDICTS))
    return counts.reshape(len(KINDS), len(VERDICTS))
