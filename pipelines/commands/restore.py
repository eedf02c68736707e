"""`ddt restore`: the workspace as the run left it that an end goes back to, from the store alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ddt.manifest import Manifest, missing
from ddt.params import Params
from ddt.store import Store, open_store
from pipelines.commands.ends import End, find_end
from pipelines.commands.lineage import SHORT, Link, lineage
from pipelines.reports.workspace import restore
from pipelines.services import lock


def run(params: Params, end: str | None) -> None:
    """Put the manifests of `end` (None: the champion) and of all that it goes back to in the workspace.

    With them come reports and metrics. Stages with the same parameters and code then have nothing to do, and
    the next one goes on. Nothing is written where a manifest is lost, or a shard is not there in its size:
    ValueError. `ddt verify` reads the shards.
    """
    found, workspace = find_end(end, params), Path(params.paths.workspace)
    _require_this_store(found, open_store(params.paths.store))
    manifests = _manifests(found, lineage(found.store, found.keys))
    _require_shards(found.store, manifests)
    with lock.held(workspace, f"ddt restore/{os.getpid()}", os.getpid()):
        for manifest in manifests:
            restore(workspace, found.store, manifest)
            rows, units = manifest.rows, len(manifest.commits)
            print(f"{manifest.stage:16} {manifest.digest[:SHORT]}  {rows:>10,} rows, {units:>6,} units")


def _require_this_store(found: End, here: Store) -> None:
    """The stages after it would look for their inputs in `paths.store`."""
    if found.store.root_uri != here.root_uri:
        raise ValueError(f"{found.name} is in {found.store.root_uri}: set paths.store to it")


def _manifests(found: End, links: Sequence[Link]) -> list[Manifest]:
    """One a stage, in their order; ValueError where one is lost, or more than one way leads to the end."""
    if not links:
        raise ValueError("; ".join([f"{found.name}: no manifest of it is known", *found.missing]))
    made = {link.stage: link.manifest for link in links if link.manifest is not None}
    faults = [f"{link.stage}: {link.fault}" for link in links if link.fault]
    faults += [
        f"{link.stage} does not say from which {name} it is" for link in links for name in link.unknown()
    ]
    if faults:
        raise ValueError(f"{found.name} can't be restored: {faults[0]}" + _more(faults))
    if len(made) < len(links):
        raise ValueError(
            f"{found.name} was made in several ways; name a version, a run or a digest that is of one of them"
        )
    return list(made.values())


def _require_shards(store: Store, manifests: Sequence[Manifest]) -> None:
    faults = [fault for manifest in manifests for fault in missing(store, manifest)]
    if faults:
        raise ValueError(f"it can't be restored: {faults[0]}{_more(faults)}; nothing is written")


def _more(faults: Sequence[str]) -> str:
    return f", and {len(faults) - 1} more" if len(faults) > 1 else ""
