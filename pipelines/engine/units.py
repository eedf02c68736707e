"""Units of work: one input shard times a stage's fingerprint makes one output shard and one commit record.

The driver lists the commits there are and schedules only what is missing, so a stage that was killed goes on
where it stopped, and any number of workers leaves the same result.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ddt.manifest import Commit, canonical_json, commits, write_unit
from ddt.store import Store, open_store
from pipelines.engine.cluster import connect, map_units
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

    Built once in each actor, called with one unit at a time; returns its commit record.
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
        with tempfile.TemporaryDirectory(prefix="ddt-unit-") as name:
            output = self.process(unit, Path(name))
            made = write_unit(
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
        return asdict(made)


def digest_of(value: Any) -> str:
    """Hex sha256 of a value's canonical JSON: the input digest of a unit that is not a single file."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def run_units(
    ctx: StageContext, worker: type[UnitWorker], units: Iterable[dict[str, Any]], **arguments: Any
) -> list[Commit]:
    """Process what is missing of `units` on Ray; the commits of all of them, sorted by unit.

    Each unit is a dict with its id under `unit`. One that is of a record shard, named under `records`, is
    told to people by the name of that shard's source.
    """
    sources = {c.key: c.stats.get("name") for m in ctx.inputs.values() for c in m.commits}
    wanted = {unit["unit"]: {"name": sources.get(unit.get("records", ""))} | unit for unit in units}
    done = commits(ctx.store, ctx.name, ctx.fingerprint)
    missing = [unit for name, unit in sorted(wanted.items()) if name not in done]
    if missing:
        resources = ctx.params.resources.of_stage(ctx.name)
        with connect(resources):
            worker_args = {
                "stage": ctx.name,
                "fingerprint": ctx.fingerprint,
                "store_uri": ctx.store.root_uri,
                "arguments": arguments,
            }
            for result in map_units(missing, worker, worker_args, resources, desc=ctx.name):
                done[result["unit"]] = Commit(**result)
    return [done[name] for name in sorted(wanted)]
