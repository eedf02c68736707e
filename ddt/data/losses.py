"""How much of the sources is lost, each kind and each shard against one rate.

Over all together a small source could be lost whole beside a large one, and a shard beside a thousand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SHARD_SAMPLES = 20  # a smaller shard counts with its kind alone: one bad picture of four is not yet a rate
REASONS_TOLD = 3


@dataclass(frozen=True)
class Tally:
    """What came of a shard: samples kept, and samples lost by reason. `kind` and `place` are for people."""

    unit: str
    kind: str
    place: str
    kept: int
    lost: Mapping[str, int]


def too_many_lost(shards: Sequence[Tally], rate: float) -> tuple[str, list[Tally]] | None:
    """The first kind that loses more than `rate` of its samples, else the first such shard, else None.

    Returned are its name and its shards. A shard is judged on its own from SHARD_SAMPLES samples on.
    """
    for kind in dict.fromkeys(shard.kind for shard in shards):
        of_kind = [shard for shard in shards if shard.kind == kind]
        if _share(of_kind) > rate:
            return kind, of_kind
    for shard in shards:
        if _samples([shard]) >= SHARD_SAMPLES and _share([shard]) > rate:
            return f"{shard.kind}, {shard.place}", [shard]
    return None


def told(shards: Sequence[Tally]) -> str:
    """`3 of 60 samples lost (corrupt_image 2, too_small 1)`, with the commonest reasons."""
    reasons = Counter[str]()
    for shard in shards:
        reasons.update(shard.lost)
    counts = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common(REASONS_TOLD))
    return f"{_lost(shards)} of {_samples(shards)} samples lost ({counts})"


def _lost(shards: Sequence[Tally]) -> int:
    return sum(sum(shard.lost.values()) for shard in shards)


def _samples(shards: Sequence[Tally]) -> int:
    return sum(shard.kept for shard in shards) + _lost(shards)


def _share(shards: Sequence[Tally]) -> float:
    return _lost(shards) / max(1, _samples(shards))
