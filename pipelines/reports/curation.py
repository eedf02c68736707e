"""Measures curation against the faults planted in the scenes crawl: what was caught, what was lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ddt.scenes.crawl import COPIES

REJECT_REASONS = {"corrupt": "corrupt_image", "tiny": "too_small"}  # planted fault -> the reason it must get
CAUGHT_BY_SELECT = ("wrong_caption", "vague_caption", "empty_caption", *COPIES)


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


def planted_selection(
    planted: Sequence[str | None], verdicts: Sequence[str], kept_instead: Sequence[int]
) -> dict[str, float]:
    """What `select` did with planted faults, from what was planted in each record and its verdict.

    A verdict is `kept`, `below_top_k` or the name of the filter that dropped it. kept_instead: of a duplicate
    the row kept in its stead, of any other row itself. For each fault the share dropped; for clean pairs the
    share lost to filters, the cut at exactly K counted apart. A planted copy kept in the stead of its clean
    original is no loss and was caught: the two exchange roles (`_roles`) before anything is counted.
    """
    total, kept, filtered = Counter[str](), Counter[str](), Counter[str]()
    for name, verdict in zip(_roles(planted, kept_instead), verdicts, strict=True):
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


def _roles(planted: Sequence[str | None], kept_instead: Sequence[int]) -> list[str]:
    """What was planted in each row; a copy kept in a clean row's stead and that row exchange their names.

    A copy stands for one original: where two clean rows lose to the same copy, one of them is lost.
    """
    roles = [name or "unknown" for name in planted]
    for row, winner in enumerate(kept_instead):
        if roles[row] == "clean" and roles[winner] in COPIES:
            roles[row], roles[winner] = roles[winner], roles[row]
    return roles
