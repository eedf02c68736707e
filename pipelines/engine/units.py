"""Units of work: one input shard times a stage's fingerprint makes one output shard and one commit record.

The driver lists the commits there are and schedules only what is missing, so a stage that was killed goes on
where it stopped, and any number of workers leaves the same result.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ddt.manifest import Commit, Quarantined, canonical_json, commits, committed, write_unit
from ddt.store import Store, open_store
from pipelines.engine.actors import map_units
from pipelines.engine.cluster import connect
from pipelines.engine.quarantine import Quarantine
from pipelines.engine.runner import StageContext


@dataclass(frozen=True)
class Output:
    """What a worker made of a unit: the shard's file, its rejects, and what to record of it."""

    path: Path
    rows: int
    rejects: Counter[str] = field(default_factory=Counter)
    rejects_path: Path | None = None
    stats: dict[str, Any] = field(default_factory=dict)


class UnitWorker:
    """Base of a stage's Ray actors: subclasses implement `process`, and `setup` for what all units need.

    Built once in each actor, called with one unit at a time; returns its commit record. A unit may come
    again after it was committed: Ray gives whole blocks of them to another actor where one was lost.
    """

    def __init__(self, stage: str, fingerprint: str, store_uri: str, arguments: dict[str, Any]) -> None:
        self.stage, self.fingerprint = stage, fingerprint
        self.store: Store = open_store(store_uri)
        self.setup(**arguments)

    def setup(self, **arguments: Any) -> None:
        """Load what all units need."""

    def process(self, unit: dict[str, Any], folder: Path) -> Output:
        """Make the unit's shard in `folder`, which is deleted afterwards."""
        raise NotImplementedError

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        done = committed(self.store, self.stage, self.fingerprint, unit["unit"])
        return asdict(done if done is not None else self._make(unit))

    def _make(self, unit: dict[str, Any]) -> Commit:
        with tempfile.TemporaryDirectory(prefix="ddt-unit-") as name:
            output = self.process(unit, Path(name))
            return write_unit(
                self.store,
                self.stage,
                self.fingerprint,
                unit["unit"],
                output.path,
                output.rows,
                rejects=dict(sorted(output.rejects.items())),
                rejects_path=output.rejects_path,
                stats=output.stats,
            )


def digest_of(value: Any) -> str:
    """Hex sha256 of a value's canonical JSON: the input digest of a unit that is not a single file."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def run_units(
    ctx: StageContext, worker: type[UnitWorker], units: Iterable[dict[str, Any]], **arguments: Any
) -> list[Commit]:
    """Process what is missing of `units` on Ray; the commits of all of them, sorted by unit.

    Each unit is a dict with its id under `unit`. One that is of a record shard, named under `records`, is
    told to people by the name of that shard's source. Raises UnitError at the first that fails for good.
    """
    wanted, done = _named(ctx, units), commits(ctx.store, ctx.name, ctx.fingerprint)
    _make(ctx, worker, arguments, [unit for name, unit in wanted.items() if name not in done], done)
    return [done[name] for name in wanted]


def run_most_units(
    ctx: StageContext, worker: type[UnitWorker], units: Iterable[dict[str, Any]], **arguments: Any
) -> tuple[list[Commit], list[Quarantined]]:
    """The same where a result is of use without some: those that failed for good are named beside the rest.

    Raises UnitError where they are more than `resources.max_quarantine_rate`.
    """
    wanted, done = _named(ctx, units), commits(ctx.store, ctx.name, ctx.fingerprint)
    missing = {name: unit for name, unit in wanted.items() if name not in done}
    resources = ctx.params.resources
    left_out = Quarantine(ctx.store, ctx.name, ctx.fingerprint, wanted, missing, done, resources)
    waiting = [unit for name, unit in missing.items() if name not in left_out.units]
    _make(ctx, worker, arguments, waiting, done, left_out.add)
    return [done[name] for name in wanted if name in done], left_out.in_order


def _named(ctx: StageContext, units: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Units by their ids, sorted, with the names that they have for people."""
    sources = {c.key: c.stats.get("name") for m in ctx.inputs.values() for c in m.commits}
    wanted = {unit["unit"]: {"name": sources.get(unit.get("records", ""))} | unit for unit in units}
    return dict(sorted(wanted.items()))


def _make(
    ctx: StageContext,
    worker: type[UnitWorker],
    arguments: dict[str, Any],
    units: list[dict[str, Any]],
    done: dict[str, Commit],
    on_failure: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Process `units`, and add their commits to `done` as they come."""
    if not units:
        return
    resources = ctx.params.resources.of_stage(ctx.name)
    with connect(resources):
        worker_args = {
            "stage": ctx.name,
            "fingerprint": ctx.fingerprint,
            "store_uri": ctx.store.root_uri,
            "arguments": arguments,
        }
        for result in map_units(units, worker, worker_args, resources, ctx.name, on_failure):
            done[result["unit"]] = Commit(**result)
