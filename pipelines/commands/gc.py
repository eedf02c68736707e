"""`ddt gc`: removes from the store what nothing reaches any more.

Reached is what a manifest names that the workspace shows, that a run or a registered version in MLflow names,
or that one of these was made from. Kept beside that is what was written lately, with all of its stage and
fingerprint, and what a run that goes on now works at: it has no manifest yet.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ddt.data.caption_cache import CAPTIONER, cache_key
from ddt.data.refs import STORE_PREFIX
from ddt.manifest import MANIFESTS, Manifest, units_prefix
from ddt.params import Params
from ddt.store import MARKER, Entry, Store, open_store
from pipelines.commands.ends import manifests_of
from pipelines.commands.lineage import is_key, lineage
from pipelines.engine.graph import STAGES
from pipelines.engine.quarantine import quarantine_prefix
from pipelines.engine.selection.outcome import OUTCOME
from pipelines.reports.workspace import REPORTS, manifest_path, report_key
from pipelines.services import lock, registry
from pipelines.services.made_by import everything

# All that a store has.
KINDS = (
    MANIFESTS, REPORTS, "units/", "quarantine/", "shards/", "checkpoints/", "raw/", "captions/", "images/",
)  # fmt: skip
# What lies beside the stages' own: the drawn crawl by its units, what captioners answered, and pictures of
# published benchmarks.
STAGE_OF = {"raw": "ingest", "captions": "recaption", "images": "benchmark"}
THREADS = 16

Group = tuple[str, ...]


@dataclass
class Reached:
    """Keys that stay, and groups of which everything stays."""

    keys: set[str] = field(default_factory=set)
    groups: set[Group] = field(default_factory=set)

    def add(self, manifest: Manifest) -> None:
        """What a manifest names, its commits' records, and the raw shards that they were drawn from."""
        self.keys |= {manifest.key, report_key(manifest.key)}
        self.groups.add((manifest.stage, manifest.fingerprint[:16], OUTCOME))
        prefix = quarantine_prefix(manifest.stage, manifest.fingerprint)
        self.keys |= {f"{prefix}{missing.unit}.json" for missing in manifest.quarantined}
        if CAPTIONER in manifest.extra:
            self.groups.add(group_of(cache_key(manifest.extra[CAPTIONER], "")))
        for done in manifest.commits:
            self.keys |= {done.key, f"raw/{done.unit}.tar"}
            self.keys.add(f"{units_prefix(manifest.stage, manifest.fingerprint)}{done.unit}.json")
            if done.rejects_key is not None:
                self.keys.add(done.rejects_key)
            if done.key.endswith(f"/{MARKER}"):  # a model, with the pictures of its training beside it
                self.groups.add(group_of(done.key))

    def has(self, entry: Entry) -> bool:
        group = group_of(entry.key)
        return entry.key in self.keys or group in self.groups or group[:2] in self.groups


def run(params: Params, keep_hours: float, dry_run: bool) -> None:
    """Remove what nothing reaches, or say what that would be; objects and bytes by stage are printed.

    Raises Locked while a run has the workspace, ValueError where a manifest is damaged, since nobody knows
    what it reaches, and where nothing at all is reached: that is another store's workspace and MLflow.
    """
    if not keep_hours >= 0:
        raise ValueError(f"--keep-hours {keep_hours:g}: expected a number >= 0")
    store, workspace = open_store(params.paths.store), Path(params.paths.workspace)
    since = time.time() - keep_hours * 3600
    if dry_run:
        lock.require_free(workspace)
        _tell(garbage(store, params, since), "would be removed")
        return
    with lock.held(workspace, f"ddt gc/{os.getpid()}", os.getpid()):
        found = garbage(store, params, since)
        remove(store, [entry.key for entry in found])
    _tell(found, "removed")


def garbage(store: Store, params: Params, since: float) -> list[Entry]:
    """What is in the store, is reached from nowhere, and was last written before `since`."""
    entries = [entry for kind in KINDS for entry in store.entries(kind)]
    fresh = {entry.key for entry in entries if entry.modified >= since}
    reached = _reached(store, params, {key for key in fresh if is_key(key)})
    kept = [entry for entry in entries if reached.has(entry)]
    if entries and not kept and len(fresh) < len(entries):
        raise ValueError(
            f"{store.root_uri}: nothing in it is reached from {params.paths.workspace} or tracking.uri; "
            "is it another team's? Nothing is removed"
        )
    reached.groups |= {group_of(key) for key in fresh}
    return [entry for entry in entries if not reached.has(entry)]


def group_of(key: str) -> Group:
    """What is kept together while some of it is new: what one computation of a stage writes.

    It is (stage, fingerprint), or (stage, fingerprint, step) of what lies below a step's name in between. Of
    commands that are no stages (a renderer, a published benchmark) it is all they have written.
    """
    kind, _, below = key.partition("/")
    stage, *rest = below.split("/")
    if kind in STAGE_OF and STAGE_OF[kind] not in STAGES:
        return (STAGE_OF[kind],)
    if kind in ("units", "quarantine", "shards", "checkpoints"):
        if stage not in STAGES or not rest:
            return (stage,)
        is_step = kind != "checkpoints" and len(rest) == 3
        return (stage, rest[1], rest[0]) if is_step else (stage, rest[0])
    if kind == "captions":
        return (STAGE_OF[kind], kind, stage)  # what stands there is the captioner's name
    return (key,)


def _reached(store: Store, params: Params, roots: set[str]) -> Reached:
    """From the workspace, from MLflow's runs and versions that are not deleted, and from `roots`."""
    reached, workspace = Reached(), Path(params.paths.workspace)
    keys = set(roots)
    for stage in STAGES:
        if manifest_path(workspace, stage).is_file():
            manifest = Manifest.load(manifest_path(workspace, stage))
            reached.add(manifest)  # the store may not have it: it may have come with DVC
            keys |= {manifest.key, *manifest.made_from.values()}
    for run in everything(params.tracking):
        keys |= {key for key in (run.manifest,) if key is not None}
        if run.status == "RUNNING" and run.stage is not None:
            keys |= set(run.inputs)
            reached.groups.add((run.stage, run.fingerprint[:16]))
            reached.groups.add(group_of(run.params.get("init", "").removeprefix(STORE_PREFIX)))
    for version in registry.all_versions(params.tracking):
        keys |= set(manifests_of(version))
        if "key" in version.tags:
            reached.groups.add(group_of(version.tags["key"]))
    for link in lineage(store, keys):
        if link.damaged:
            raise ValueError(f"{link.fault}; what it reaches is not known, so nothing is removed")
        if link.manifest is not None:
            reached.add(link.manifest)
    return reached


def remove(store: Store, keys: Sequence[str]) -> None:
    """Manifests first, then records and markers: what is left of a removal that was broken off is garbage."""

    def rank(key: str) -> int:
        if key.startswith((MANIFESTS, REPORTS)):
            return 0
        return 1 if key.startswith("units/") or key.endswith(f"/{MARKER}") else 2

    with ThreadPoolExecutor(THREADS) as pool:
        for turn in range(3):
            list(pool.map(store.delete, [key for key in keys if rank(key) == turn]))


def _tell(entries: Iterable[Entry], what: str) -> None:
    objects, size = Counter[str](), Counter[str]()
    for entry in entries:
        kind, stage, *_ = entry.key.split("/")
        objects[STAGE_OF.get(kind, stage)] += 1
        size[STAGE_OF.get(kind, stage)] += entry.bytes
    print(f"{'stage':16} {'objects':>10} {'bytes':>18}")
    for stage in sorted(objects, key=lambda name: (STAGES.index(name) if name in STAGES else 99, name)):
        print(f"{stage:16} {objects[stage]:>10,} {size[stage]:>18,}")
    print(f"{what:16} {objects.total():>10,} {size.total():>18,}")
