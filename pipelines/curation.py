"""Measures curation against the faults planted in the scenes crawl: what was caught, what was lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

REJECT_REASONS = {"corrupt": "corrupt_image", "tiny": "too_small"}  # planted fault -> the reason it must get
CAUGHT_BY_SELECT = ("wrong_caption", "vague_caption", "empty_caption", "duplicate", "near_duplicate")


def planted_rejects(recorded: Iterable[str | None], rejects: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Share of the planted unusable images that were rejected for the right reason, and false rejects.

    `recorded`: what was planted in each sample that became a record; `rejects`: rows of REJECT_SCHEMA.
    """
    total = Counter(planted for planted in recorded if planted in REJECT_REASONS)
    right, false = Counter[str](), 0
    for reject in rejects:
        fault = reject["planted"]
        total[fault] += fault in REJECT_REASONS
        if REJECT_REASONS.get(fault) == reject["reason"]:
            right[fault] += 1
        else:
            false += 1
    shares = {f"ingest/planted_{f}_rejected": right[f] / total[f] for f in REJECT_REASONS if total[f]}
    return shares | {"ingest/false_rejects": float(false)}


def planted_selection(rows: Iterable[tuple[str | None, str]]) -> dict[str, float]:
    """What `select` did with planted faults, from (planted, verdict) of each record.

    A verdict is `kept`, `below_top_k` or the name of the filter that dropped it. For each fault the share
    dropped; for clean pairs the share lost to filters, the cut at exactly K counted apart.
    """
    total, kept, filtered = Counter[str](), Counter[str](), Counter[str]()
    for planted, verdict in rows:
        name = planted or "unknown"
        total[name] += 1
        kept[name] += verdict == "kept"
        filtered[name] += verdict not in ("kept", "below_top_k")
    metrics = {
        f"select/{fault}_dropped": 1 - kept[fault] / total[fault]
        for fault in CAUGHT_BY_SELECT
        if total[fault]
    }
    if total["clean"]:
        metrics["select/clean_lost_to_filters"] = filtered["clean"] / total["clean"]
        metrics["select/clean_kept"] = kept["clean"] / total["clean"]
        metrics["select/kept_that_are_clean"] = kept["clean"] / max(1, kept.total())
    return metrics
