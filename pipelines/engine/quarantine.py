"""Units that failed for good: named in the store, missing from the stage's result, up to a configured rate.

A record stands until its unit is asked for again or more units have failed than may, so that a stage that was
killed goes on to the same result. It keeps the trace of what happened, which no manifest does.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Collection, Sized
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ddt.manifest import Manifest, Quarantined
from ddt.sections.run import Resources
from ddt.store import Store
from pipelines.engine.actors import unit_error

ALL_FAIL = 8  # as many failures and no success: a mistake in the settings, which fails every unit
NAMED = 12  # quarantined units that a report names
THREADS = 16

logger = logging.getLogger(__name__)


def quarantine_prefix(stage: str, fingerprint: str) -> str:
    """Where the records of one stage and fingerprint are."""
    return f"quarantine/{stage}/{fingerprint[:16]}/"


def quarantined(store: Store, stage: str, fingerprint: str) -> dict[str, Quarantined]:
    """unit -> what is recorded of it."""
    records = store.get_many(store.list(quarantine_prefix(stage, fingerprint)))
    found = [json.loads(data) for data in records.values()]
    return {r["unit"]: Quarantined(r["unit"], r["name"], r["reason"]) for r in found}


def release(store: Store, stage: str, fingerprint: str) -> int:
    """Forgets all records, so that their units are tried again; returns how many there were."""
    keys = store.list(quarantine_prefix(stage, fingerprint))
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(store.delete, keys))
    return len(keys)


def may_fail(units: int, resources: Resources) -> int:
    """How many of a stage's units may be missing from its result."""
    return math.floor(units * resources.max_quarantine_rate + 1e-9)


def stands(store: Store, manifest: Manifest, resources: Resources) -> bool:
    """Whether the units that a manifest lacks are still to be left out."""
    missing = {q.unit for q in manifest.quarantined}
    if not missing:
        return True
    recorded = quarantined(store, manifest.stage, manifest.fingerprint)
    allowed = may_fail(len(manifest.commits) + len(missing), resources)
    return len(missing) <= allowed and missing <= recorded.keys()


def told(units: Collection[Quarantined]) -> list[str]:
    """Notes for a report: how many units are missing, and the first of them with their reasons."""
    if not units:
        return []
    more = f", of which {NAMED} are named" if len(units) > NAMED else ""
    head = f"{len(units)} units were quarantined and are missing (--retry-rejects tries them again){more}:"
    return [head, *(f"{q.name}: {q.reason}" for q in list(units)[:NAMED])]


class Quarantine:
    """Of one pass of a stage over `wanted` units, of which some are `missing`; `done` grows meanwhile."""

    def __init__(
        self,
        store: Store,
        stage: str,
        fingerprint: str,
        wanted: Sized,
        missing: Collection[str],
        done: Sized,
        resources: Resources,
    ) -> None:
        self.store, self.stage, self.fingerprint, self.done = store, stage, fingerprint, done
        self.rate, self.wanted = resources.max_quarantine_rate, len(wanted)
        self.allowed = may_fail(self.wanted, resources)
        self.first: dict[str, Any] | None = None
        found = quarantined(store, stage, fingerprint)
        self.units = {unit: found[unit] for unit in found if unit in missing}
        if len(self.units) > self.allowed:  # of a pass that ended for it, or under a higher rate
            release(store, stage, fingerprint)
            self.units = {}

    @property
    def in_order(self) -> list[Quarantined]:
        """What is left out, sorted by unit."""
        return [self.units[unit] for unit in sorted(self.units)]

    def add(self, error: dict[str, Any]) -> None:
        """Record that a unit failed for good, as `actors.failure` tells it. Raises UnitError where more
        have failed than may, or all of the first; they are tried again the next time.
        """
        self.first = self.first or error
        failed = len(self.units) + 1
        if failed > self.allowed or (failed >= ALL_FAIL and not len(self.done)):
            release(self.store, self.stage, self.fingerprint)
            raise unit_error(self._told(failed), self.first)
        unit = Quarantined(error["id"], error["unit"], error["reason"])
        record = dataclasses.asdict(unit) | {"trace": error["trace"]}
        key = f"{quarantine_prefix(self.stage, self.fingerprint)}{unit.unit}.json"
        self.store.put_bytes(key, (json.dumps(record, indent=1) + "\n").encode())
        self.units[unit.unit] = unit
        logger.warning(
            "%s: %s left out (%d of at most %d): %s",
            self.stage, unit.name, failed, self.allowed, unit.reason,
        )  # fmt: skip

    def _told(self, failed: int) -> str:
        """What begins the line that ends the stage."""
        if not self.allowed:
            return self.stage
        if failed <= self.allowed:
            return f"{self.stage}: the first {failed} units all failed, the first of them"
        rate = f"resources.max_quarantine_rate = {self.rate:g}"
        return f"{self.stage}: {failed} of {self.wanted} units failed, more than {rate}; the first"
