"""How long models wait for pictures: python bench/waiting.py [--rows 3600] [--side 32] [--threads 1].

The workers of `recaption`, `score` and `tokenize_images` on one shard of scenes as JPEG of `--side` px, with
the default models, pictures decoded in turn with the model and ahead of it. Printed is the share of a unit's
time in which the model's thread waits for the next batch, of the first batch too, which nothing hides. It is
the clock's time: other work on the machine counts.
"""

from __future__ import annotations

import importlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import arguments, report

from ddt.data import ahead as ahead_module
from ddt.data.schemas import CAPTION_SCHEMA
from ddt.params import load_params
from ddt.records import RECORD_SCHEMA, write_shard
from ddt.scenes.photo import jpeg_bytes
from ddt.scenes.render import render
from ddt.scenes.sample import sample_scene
from ddt.store import Store, open_store
from ddt.tokenizer import DDTTokenizer

STAGES = {
    "recaption": "RecaptionWorker", "score": "ScoreWorker", "tokenize_images": "TokenizeWorker",
}  # fmt: skip
PRINT = "b" * 64
SHARDS = {"records.arrow": RECORD_SCHEMA, "captions.arrow": CAPTION_SCHEMA}


class Waiting:
    """A way to read ahead, and how long whoever asks for batches waited for them."""

    def __init__(self, way: Callable[..., Iterator[Any]]) -> None:
        self.way, self.seconds = way, 0.0

    def __call__(self, *args: Any) -> Iterator[Any]:
        batches = self.way(*args)
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            self.seconds += time.perf_counter() - began
            if batch is None:
                return
            yield batch


def in_turn(
    read: Callable[[Any], Any], batches: Sequence[Sequence[Any]], threads: int
) -> Iterator[list[Any]]:
    for batch in batches:
        yield [read(item) for item in batch]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, default=3600)
    parser.add_argument("--side", type=int, default=32, help="of the pictures, in pixels")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="ddt-bench-") as folder:
        store = open_store(Path(folder) / "store")
        make_shards(store, Path(folder), options.rows, options.side)
        workers = {stage: make_worker(stage, store, Path(folder)) for stage in STAGES}
        for stage, (worker, unit) in workers.items():
            for name, way in (("in turn", in_turn), ("ahead", ahead_module.ahead)):
                waited, seconds = measure(stage, worker, unit, way, store)
                results[f"{stage}, {name}: rows/s"] = options.rows / seconds
                results[f"{stage}, {name}: waiting"] = waited / seconds
    for name, value in results.items():
        print(f"{name:36} {value:,.3g}")
    report(options, results)


def make_shards(store: Store, folder: Path, rows: int, side_px: int) -> None:
    rng = np.random.default_rng(0)
    row = dict.fromkeys(RECORD_SCHEMA.names, "") | {"width": side_px, "height": side_px, "questions": []}
    text = {"caption": "a red circle", "long_caption": "a small red circle above a blue square"}
    records = [
        row | text | {"sample_id": f"{n:064x}", "image": jpeg_bytes(render(sample_scene(rng), side_px))}
        for n in range(rows)
    ]
    for name, schema in SHARDS.items():
        write_shard(folder / name, ({k: r[k] for k in schema.names} for r in records), schema)
        store.put_file(name, folder / name)


def make_worker(stage: str, store: Store, folder: Path) -> tuple[Any, dict[str, Any]]:
    """A stage's worker with the default run's model, and the unit that it is measured on."""
    params = load_params(Path(__file__).resolve().parent.parent / "params.yaml")
    module = importlib.import_module(f"pipelines.{stage}")
    unit = {"unit": "1" * 32, "shard": "2" * 32, "role": "holdout"}
    unit |= {name.removesuffix(".arrow"): name for name in SHARDS}
    told: dict[str, Any] = {"params": getattr(params, stage)}
    if stage == "tokenize_images":
        DDTTokenizer(params.train_tokenizer.model).save_pretrained(folder / "tokenizer")
        store.put_tree("tokenizer", folder / "tokenizer")
        told["tokenizer"] = "tokenizer"
    return getattr(module, STAGES[stage])(stage, PRINT, store.root_uri, told), unit


def measure(
    stage: str, worker: Any, unit: dict[str, Any], way: Callable[..., Any], store: Store
) -> tuple[float, float]:
    """Seconds that the model's thread waited, and all of the unit's, of the second time."""
    module = importlib.import_module(f"pipelines.{stage}")
    for _ in range(2):
        for key in store.list("captions/"):  # answers of the time before
            store.delete(key)
        module.ahead = waiting = Waiting(way)  # type: ignore[attr-defined]
        with tempfile.TemporaryDirectory() as made:
            began = time.perf_counter()
            worker.process(unit, Path(made))
            seconds = time.perf_counter() - began
    return waiting.seconds, seconds


if __name__ == "__main__":
    main()
