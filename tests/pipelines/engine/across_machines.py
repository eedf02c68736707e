"""A stage on the Ray that this process finds, for a process of its own; a digest and who did what.

    python -m tests.pipelines.engine.across_machines tokenize_images|pretrain STORE [LOST]

STORE is a folder or on S3, with nothing in it: the data are made first, the same each time. When the machine
at the address LOST is in the midst of its work, this is told in a line; whoever reads it takes it away.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ddt.data.tokens import ShardFacts, TokenMeta, write_shard
from ddt.manifest import Manifest, write_unit
from ddt.params import Params, load_params
from ddt.store import Store, open_store
from ddt.tokenizer import DDTTokenizer, presets
from pipelines import pretrain, tokenize_images
from pipelines.engine.runner import StageContext
from pipelines.services.models import publish_model
from tests.pipelines.curated import ROOT, Curated, write_source
from tests.pipelines.engine.noted import NotedPretrain, NotedTokenize, begun
from tests.pipelines.ray_support import RESOURCES

SHARDS, ROWS = 24, 8  # of pictures to tokenize
PAIRS = 40  # to pre-train on
STEPS, CHECKPOINT_EVERY = 30, 6
FINGERPRINT = "a" * 64
# The line that tells, and after how many units or steps of the machine it comes: with some done, and of a
# training with a checkpoint, and with some left.
LOST, MIDST = "LOST", {"tokenize_images": 2, "pretrain": 8}
PRETRAIN = [
    "pretrain.model={width: 32, layers: 1, heads: 2, kv_heads: 2, mlp_width: 64, max_length: 256,"
    " tie_embeddings: true, rope_theta: 10000.0}",
    f"pretrain.fit.steps={STEPS}",
    f"pretrain.fit.checkpoint_every={CHECKPOINT_EVERY}",
    "pretrain.fit.warmup_steps=2",
    "pretrain.fit.log_every=1",
]


def tokenizer(folder: Path, store: Store) -> tuple[DDTTokenizer, Manifest]:
    """One that nobody trained, and its manifest."""
    torch.manual_seed(0)
    made = DDTTokenizer(presets()["debug"])
    made.save_pretrained(folder / "tokenizer")
    commit = publish_model(store, "train_tokenizer", FINGERPRINT, folder / "tokenizer", 1, {})
    return made, Manifest("train_tokenizer", FINGERPRINT, {}, (commit,))


def pictures(folder: Path, store: Store) -> dict[str, Manifest]:
    """What `tokenize_images` reads, of a curated crawl."""
    with pytest.MonkeyPatch.context() as patch:
        made = Curated(folder, write_source(folder / "crawl", SHARDS, ROWS), patch)
        made.ingest()
        select = made.curate()
    for path in sorted((folder / "store").rglob("*")):
        if path.is_file():
            store.put_file(path.relative_to(folder / "store").as_posix(), path)
    return {"ingest": made.made["ingest"], "select": select, "train_tokenizer": tokenizer(folder, store)[1]}


def tokens(folder: Path, store: Store) -> dict[str, Manifest]:
    """What `pretrain` reads, of codes drawn by chance."""
    images, manifest = tokenizer(folder, store)
    config = images.config
    columns = {
        "sample_id": [str(n) for n in range(PAIRS)],
        "short": [f"a red circle {n}" for n in range(PAIRS)],
        "long": [f"a long story of a red circle {n}" for n in range(PAIRS)],
        "codes": np.random.default_rng(0).integers(0, config.codebook_size, (PAIRS, config.num_tokens)),
    }
    meta = TokenMeta(images.digest, config.num_tokens, config.codebook_size, config.token_order)
    write_shard(folder / "pairs.arrow", columns, meta, "pairs")
    stats = {"role": "pairs", **ShardFacts.of(folder / "pairs.arrow").to_stats()}
    made = write_unit(
        store, "tokenize_images", FINGERPRINT, "0" * 32, folder / "pairs.arrow", PAIRS, stats=stats
    )
    return {
        "train_tokenizer": manifest,
        "tokenize_images": Manifest("tokenize_images", FINGERPRINT, {}, (made,)),
    }


def tell_in_the_midst(store: Store, stage: str, lost: str) -> None:
    while len(begun(store).get(lost, ())) < MIDST[stage]:
        time.sleep(0.1)
    print(LOST, flush=True)


def run(stage: str, folder: Path, store: Store, lost: str | None) -> dict[str, Any]:
    """What the stage made of the data, and who did what."""
    inputs = {"tokenize_images": pictures, "pretrain": tokens}[stage](folder, store)
    resources = dataclasses.replace(RESOURCES, cpus=None, train_workers=2, train_cpus_per_worker=1)
    params: Params = load_params(ROOT / "params.yaml", None, PRETRAIN)
    params = dataclasses.replace(params, resources=resources)
    tokenize_images.TokenizeWorker = NotedTokenize  # type: ignore[misc]
    pretrain.PretrainJob = NotedPretrain  # type: ignore[misc]
    if lost is not None:
        threading.Thread(target=tell_in_the_midst, args=(store, stage, lost), daemon=True).start()
    ctx = StageContext(stage, params, getattr(params, stage), store, folder, FINGERPRINT, inputs)
    result = {"tokenize_images": tokenize_images, "pretrain": pretrain}[stage].run(ctx)
    made = Manifest(stage, FINGERPRINT, {}, tuple(result.commits))
    metrics = result.report.metrics
    return {"digest": made.digest, "rows": made.rows, "metrics": metrics, "begun": begun(store)}


def main(stage: str, where: str, lost: str | None = None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run(stage, Path(folder), open_store(where), lost)))


if __name__ == "__main__":
    main(*sys.argv[1:])
