"""`tokenize_images` on the Ray that this process finds, for a process of its own; a digest and who did what.

    python -m tests.pipelines.engine.across_machines STORE

STORE is a folder or on S3, with nothing in it: the data to tokenize are made first, the same each time.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from ddt.manifest import Manifest
from ddt.params import load_params
from ddt.store import Store, open_store
from ddt.tokenizer import DDTTokenizer, presets
from pipelines import tokenize_images
from pipelines.engine.runner import StageContext
from pipelines.engine.units import Output
from pipelines.services.models import publish_model
from tests.pipelines.curated import Curated, write_source
from tests.pipelines.ray_support import RESOURCES

SHARDS, ROWS = 24, 8
FINGERPRINT = "a" * 64
UNIT_S = 0.5  # so that every machine gets some units, however soon the first is up


class Noted(tokenize_images.TokenizeWorker):
    """Notes in the store which machine begins a unit."""

    def process(self, unit: dict[str, Any], folder: Path) -> Output:
        import ray

        self.store.put_bytes(f"begun/{ray.util.get_node_ip_address()}/{unit['unit']}", b"")
        time.sleep(UNIT_S)
        return super().process(unit, folder)


def data(folder: Path, store: Store) -> dict[str, Manifest]:
    """The manifests that the stage reads, of a curated crawl and an untrained tokenizer."""
    with pytest.MonkeyPatch.context() as patch:
        made = Curated(folder, write_source(folder / "crawl", SHARDS, ROWS), patch)
        made.ingest()
        select = made.curate()
    for path in sorted((folder / "store").rglob("*")):
        if path.is_file():
            store.put_file(path.relative_to(folder / "store").as_posix(), path)
    torch.manual_seed(0)
    DDTTokenizer(presets()["debug"]).save_pretrained(folder / "tokenizer")
    tokenizer = publish_model(store, "train_tokenizer", FINGERPRINT, folder / "tokenizer", 1, {})
    return {
        "ingest": made.made["ingest"],
        "select": select,
        "train_tokenizer": Manifest("train_tokenizer", FINGERPRINT, {}, (tokenizer,)),
    }


def begun(store: Store) -> dict[str, int]:
    """Units that each machine began, by its address."""
    counts: dict[str, int] = {}
    for key in store.list("begun/"):
        counts[key.split("/")[1]] = counts.get(key.split("/")[1], 0) + 1
    return counts


def run(folder: Path, store: Store) -> dict[str, Any]:
    """What the stage made of the data, and who did what."""
    inputs = data(folder, store)
    params = load_params(Path(__file__).resolve().parents[3] / "params.yaml")
    params = dataclasses.replace(params, resources=dataclasses.replace(RESOURCES, cpus=None))
    tokenize_images.TokenizeWorker = Noted  # type: ignore[misc]
    ctx = StageContext("tokenize_images", params, params.tokenize_images, store, folder, FINGERPRINT, inputs)
    result = tokenize_images.run(ctx)
    made = Manifest("tokenize_images", FINGERPRINT, {}, tuple(result.commits))
    used = result.report.metrics["tokenize/codes_used"]
    return {"digest": made.digest, "rows": made.rows, "used": used, "begun": begun(store)}


def main(where: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run(Path(folder), open_store(where))))


if __name__ == "__main__":
    main(sys.argv[1])
