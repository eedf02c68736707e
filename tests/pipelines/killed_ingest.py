"""A driver of `ingest` that a test kills: python -m tests.pipelines.killed_ingest SOURCE STORE FOLDER N."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from ddt.manifest import Manifest
from ddt.params import load_params
from ddt.store import open_store
from pipelines import ingest
from pipelines.engine.runner import StageContext
from tests.pipelines.ray_support import RESOURCES

PRINT = "c" * 64


def context(source: str, store: str, folder: Path, cpus: int) -> StageContext:
    """Of pairs alone; a worker may be lost as often as the test likes."""
    params = load_params(overrides=[f"ingest.source={source}", "ingest.min_side_px=8"])
    resources = dataclasses.replace(RESOURCES, cpus=cpus, unit_retries=20)
    params = dataclasses.replace(params, resources=resources)
    return StageContext("ingest", params, params.ingest, open_store(store), folder, PRINT, {})


def digest(ctx: StageContext) -> str:
    return Manifest("ingest", PRINT, {}, tuple(ingest.run(ctx).commits)).digest


if __name__ == "__main__":
    print(digest(context(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))))
