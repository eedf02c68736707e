"""`ddt verify`: whether all that the workspace's manifests name is still there, byte for byte."""

from __future__ import annotations

from pathlib import Path

from ddt.manifest import Manifest, verify
from ddt.params import Params
from ddt.store import open_store
from pipelines.engine.graph import STAGES
from pipelines.reports.workspace import manifest_path


def run(params: Params) -> None:
    """Prints a line for each stage and one for each fault; ValueError where there is a fault or no stage."""
    store, workspace, faults = open_store(params.paths.store), Path(params.paths.workspace), 0
    made = [stage for stage in STAGES if manifest_path(workspace, stage).is_file()]
    if not made:
        raise ValueError(f"paths.workspace = {workspace}: no manifests in it; has the pipeline been run?")
    for stage in made:
        manifest = Manifest.load(manifest_path(workspace, stage))
        found = verify(store, manifest)
        print(f"{stage:16} {manifest.digest[:16]}  {len(manifest.commits):>6,} units, {len(found)} faults")
        for fault in found:
            print(f"  {fault}")
        faults += len(found)
    if faults:
        raise ValueError(f"{faults} shards or models are missing or have changed; delete these, run again")
