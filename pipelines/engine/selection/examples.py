"""Which rows of a selection people are shown: some that are kept and dropped, those around the K-th score,
and copies beside what they were dropped for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ddt.data.parts import read_part
from ddt.data.topk import TopK
from ddt.data.verdicts import BELOW, KEPT, ROW, VERDICTS, decide
from ddt.manifest import Commit
from ddt.store import Store
from pipelines.engine.selection.plan import Plan

SOME = 16  # kept ones and dropped ones, of the first shard that has rows
EACH_SIDE = 8  # of the threshold
GROUPS = 8  # that rows around it are looked for in: with very many, those of these are as near
COPIES = 6  # of each kind

Example = dict[str, Any]  # the key of its record shard (`records`), its `row` there, and a `note`


def examples(
    store: Store, plan: Plan, survivors: Sequence[Commit], selection: TopK
) -> dict[str, list[Example]]:
    """By name: "kept", "dropped", "threshold" (from above it to below), and "copies", each after the better
    one.
    """
    records = [scores.stats["records"] for group in plan.groups for scores in group.scores]
    filled = [number for number, commit in enumerate(survivors) if commit.rows]
    chosen = np.unique(np.linspace(0, len(filled) - 1, GROUPS).astype(int))
    near: list[tuple[float, bool, Example]] = []
    for number in (filled[place] for place in chosen):
        near = _nearest(near + _around(store, plan, survivors, number, selection))
    near.sort(key=lambda found: (-found[0], not found[1]))
    shown = _some(store, plan, survivors, filled[0], selection)
    return shown | {"threshold": [example for *_, example in near], "copies": _copies(survivors, records)}


def _decided(
    store: Store, plan: Plan, survivors: Sequence[Commit], number: int, selection: TopK
) -> list[tuple[str, np.ndarray]]:
    """The record shards of a group with their ROWs."""
    with store.open(survivors[number].key) as file:
        return [
            (scores.stats["records"], decide(read_part(file, part, ROW), selection))
            for part, scores in enumerate(plan.groups[number].scores)
            if scores.rows
        ]


def _some(
    store: Store, plan: Plan, survivors: Sequence[Commit], number: int, selection: TopK
) -> dict[str, list[Example]]:
    records, rows = _decided(store, plan, survivors, number, selection)[0]
    kept, others = (
        np.flatnonzero((rows["verdict"] == KEPT) == is_kept)[:SOME].tolist() for is_kept in (True, False)
    )
    return {
        "kept": [_example(records, row, f"{rows['native'][row]:.2f}") for row in kept],
        "dropped": [_example(records, row, VERDICTS[rows["verdict"][row]]) for row in others],
    }


def _around(
    store: Store, plan: Plan, survivors: Sequence[Commit], number: int, selection: TopK
) -> list[tuple[float, bool, Example]]:
    """(score, whether it is kept, example) of a group's rows that are nearest to the threshold."""
    found = []
    for records, rows in _decided(store, plan, survivors, number, selection):
        for verdict, nearest_first in ((KEPT, 1), (BELOW, -1)):
            there = np.flatnonzero(rows["verdict"] == verdict)
            order = np.argsort(nearest_first * rows["score"][there], kind="stable")[:EACH_SIDE]
            for row in there[order].tolist():
                score, is_kept = float(rows["score"][row]), verdict == KEPT
                tie = "tie, " if score == np.float32(selection.threshold) else ""
                note = f"{score:.4f} {tie}{'kept' if is_kept else 'not kept'}"
                found.append((score, is_kept, _example(records, row, note)))
    return found


def _nearest(found: list[tuple[float, bool, Example]]) -> list[tuple[float, bool, Example]]:
    above = sorted((f for f in found if f[1]), key=lambda f: f[0])
    below = sorted((f for f in found if not f[1]), key=lambda f: -f[0])
    return above[:EACH_SIDE] + below[:EACH_SIDE]


def _copies(survivors: Sequence[Commit], records: Sequence[str]) -> list[Example]:
    shown = []
    for verdict in ("duplicate", "near_duplicate"):
        copies = [copy for commit in survivors for copy in commit.stats["copies"][verdict]][:COPIES]
        for shard, row, better_shard, better_row in copies:
            shown.append(_example(records[better_shard], better_row, "the better one"))
            shown.append(_example(records[shard], row, verdict))
    return shown


def _example(records: str, row: int, note: str) -> Example:
    return {"records": records, "row": row, "note": note}
