"""Measures curation against the faults planted in the scenes crawl: what was caught, what was lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ddt.data.verdicts import BELOW, KEPT, KINDS, VERDICTS, Tally
from ddt.records import Reject
from ddt.scenes.crawl import COPIES

REJECT_REASONS = {"corrupt": "corrupt_image", "tiny": "too_small"}  # planted fault -> the reason it must get
CAUGHT_BY_SELECT = ("wrong_caption", "vague_caption", "empty_caption", *COPIES)


def planted_stats(recorded: Mapping[str, int], rejects: Iterable[Reject]) -> dict[str, dict[str, int]]:
    """Counts of one shard, of planted faults that make an image unusable: how many there were of each
    ("planted"), how many were rejected for the right reason ("caught"), and rejects for another ("false").

    `recorded`: how often what was planted in samples that became records. Nothing planted: nothing told.
    """
    total = Counter({fault: recorded[fault] for fault in REJECT_REASONS if recorded.get(fault)})
    right, false = Counter[str](), 0
    for reject in rejects:
        fault = reject.planted or ""
        if fault in REJECT_REASONS:
            total[fault] += 1
        if REJECT_REASONS.get(fault) == reject.reason:
            right[fault] += 1
        else:
            false += 1
    counts = {"planted": dict(total), "caught": dict(right), "false": {"rejects": false}}
    return counts if recorded or total else {}


def planted_rejects(shards: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Share of the planted unusable images that were rejected for the right reason, and false rejects, of
    shards whose counts `planted_stats` made.
    """
    total, right, false = Counter[str](), Counter[str](), Counter[str]()
    for shard in shards:
        total.update(shard.get("planted", {}))
        right.update(shard.get("caught", {}))
        false.update(shard.get("false", {}))
    shares = {f"ingest/planted_{f}_rejected": right[f] / total[f] for f in REJECT_REASONS if total[f]}
    return shares | {"ingest/false_rejects": float(false["rejects"])}


def planted_selection(tally: Tally) -> dict[str, float]:
    """What `select` did with planted faults; nothing where no row says what was planted in it.

    For each fault the share dropped; for clean pairs the share lost to filters, the cut at exactly K counted
    apart. A planted copy kept in the stead of its clean original is no loss and was caught: the two exchange
    roles (`_roles`) before anything is counted.
    """
    if not tally.all_KV[1:].any():
        return {}
    counts = _roles(tally)
    total, kept, below = (
        dict(zip(KINDS, values.tolist(), strict=True))
        for values in (counts.sum(1), counts[:, KEPT], counts[:, BELOW])
    )
    metrics = {
        f"select/{fault}_dropped": 1 - kept[fault] / total[fault]
        for fault in CAUGHT_BY_SELECT
        if total[fault]
    }
    if total["clean"]:
        lost = total["clean"] - kept["clean"] - below["clean"]
        metrics["select/clean_lost_to_filters"] = lost / total["clean"]
        metrics["select/clean_kept"] = kept["clean"] / total["clean"]
        metrics["select/kept_that_are_clean"] = kept["clean"] / max(1, sum(kept.values()))
    return metrics


def _roles(tally: Tally) -> np.ndarray:
    """int64[kinds, verdicts] after copies that stay for a clean row have exchanged their role with it.

    A copy stands for one original: where two clean rows lose to the same copy, one of them is lost. Of the
    clean row it is known that it was dropped, not by which kind of likeness: it is counted as the copy is.
    """
    counts = tally.all_KV.copy()
    clean = KINDS.index("clean")
    for name in COPIES:
        kind, dropped = KINDS.index(name), VERDICTS.index(name)
        for verdict in (KEPT, BELOW):
            exchanged = tally.stands_KV[kind, verdict]
            counts[clean, verdict] += exchanged
            counts[clean, dropped] -= exchanged
            counts[kind, verdict] -= exchanged
            counts[kind, dropped] += exchanged
    return counts
