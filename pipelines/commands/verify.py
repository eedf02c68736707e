"""`ddt verify`: whether all that a lineage or the workspace names is still there, byte for byte."""

from __future__ import annotations

from pathlib import Path

from ddt.manifest import Manifest, verify
from ddt.params import Params
from ddt.store import Store, open_store
from pipelines.commands.ends import find_end
from pipelines.commands.lineage import lineage
from pipelines.engine.graph import STAGES
from pipelines.reports.workspace import manifest_path


def run(params: Params, end: str | None = None) -> None:
    """Print a line for each stage and one for each fault; ValueError where there is a fault or no stage.

    Read is what the last run made or, given an `end`, all that goes back to: of the model itself and of every
    stage before it.
    """
    faults = _read_workspace(params) if end is None else _read_lineage(params, end)
    if faults:
        raise ValueError(f"{faults} shards or models are missing or have changed; delete these, run again")


def _read_workspace(params: Params) -> int:
    store, workspace = open_store(params.paths.store), Path(params.paths.workspace)
    made = [stage for stage in STAGES if manifest_path(workspace, stage).is_file()]
    if not made:
        raise ValueError(f"paths.workspace = {workspace}: no manifests in it; has the pipeline been run?")
    return sum(_read(store, Manifest.load(manifest_path(workspace, stage))) for stage in made)


def _read_lineage(params: Params, end: str) -> int:
    found, faults = find_end(end, params), 0
    links = lineage(found.store, found.keys)
    if not links:
        raise ValueError("; ".join([f"{end}: no manifest of it is known", *found.missing]))
    for link in links:
        if link.manifest is None:
            print(f"{link.stage:16} {link.digest[:16]}  {link.fault}")
            faults += 1
        else:
            faults += _read(found.store, link.manifest)
    return faults


def _read(store: Store, manifest: Manifest) -> int:
    found = verify(store, manifest)
    print(
        f"{manifest.stage:16} {manifest.digest[:16]}  {len(manifest.commits):>6,} units, {len(found)} faults"
    )
    for fault in found:
        print(f"  {fault}")
    return len(found)
