"""Workers of stages that note in the store what each machine begins, at `begun/<address>/<what>`.

They take their time over it, so that every machine gets some work, however soon the first one is up, and one
can be lost in the midst of it: a training hears within 5 s that a node is to leave.
"""

from __future__ import annotations

import json
import time
import zlib
from pathlib import Path
from typing import Any

from ddt.store import Store
from pipelines.engine.units import Output
from pipelines.pretrain import PretrainJob
from pipelines.tokenize_images import TokenizeWorker

UNIT_S, STEP_S = 0.5, 1.0


def begin(store: Store, what: str, takes_s: float, content: str = "") -> None:
    """Note that this machine begins it, and wait so long."""
    import ray

    store.put_bytes(f"begun/{ray.util.get_node_ip_address()}/{what}", content.encode())
    time.sleep(takes_s)


def begun(store: Store) -> dict[str, dict[str, str]]:
    """What each machine began, by its address, with what was noted of it."""
    found: dict[str, dict[str, str]] = {}
    for key in store.list("begun/"):
        _, address, what = key.split("/")
        found.setdefault(address, {})[what] = store.get_bytes(key).decode()
    return found


class NotedTokenize(TokenizeWorker):
    """Notes its units."""

    def process(self, unit: dict[str, Any], folder: Path) -> Output:
        begin(self.store, unit["unit"], UNIT_S)
        return super().process(unit, folder)


class NotedPretrain(PretrainJob):
    """Notes its steps, and the rows that it gets at each."""

    def fit(self, model: Any, loss: Any, batches: Any, config: Any) -> Any:
        return super().fit(model, loss, NotedBatches(batches, self.store), config)


class NotedBatches:
    """Batches, each noted as `<step>-<rank>` with a number for each of its rows."""

    def __init__(self, batches: Any, store: Store) -> None:
        self.batches, self.store = batches, store

    def batch(self, step: int, rank: int, world: int) -> Any:
        part = self.batches.batch(step, rank, world)
        rows = [zlib.crc32(row.numpy().tobytes()) for row in part.ids_RL]
        begin(self.store, f"{step:03d}-{rank}", STEP_S, json.dumps(rows))
        return part
