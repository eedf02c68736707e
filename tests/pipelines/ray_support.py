"""What the Ray tests share with the processes they start; these import it by name."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
import zlib
from pathlib import Path

from ddt.sections.run import Prices, Resources
from pipelines.engine.units import Output, UnitWorker
from tests.float64 import float64
from tests.processes import HANGS_AFTER_S

RESOURCES = Resources(
    cpus=2,
    object_store_mb=100,
    cpus_per_actor=1,
    gpus_per_actor=0,
    max_actors=None,
    stages={},
    train_workers=1,
    tokenizer_workers=None,
    finetune_workers=None,
    min_train_workers=None,
    train_cpus_per_worker=None,
    tokenizer_cpus_per_worker=None,
    gpus_per_worker=0,
    max_failures=2,
    unit_retries=2,
    max_quarantine_rate=0,
    grace_s=60,
    stalled_after_s=None,
    tensor_parallel=1,
    shard_weights=False,
    checkpoint_activations=False,
    prices=Prices("USD", 0, 0),
    throughputs={},
)


class Squarer:
    """Squares; kills its own process once or always, raises on the units it is told to."""

    def __init__(self, folder: str, kill: str = "", bad: str = "", error: str = "", deadly: str = "") -> None:
        self.folder, self.kill, self.bad, self.deadly = Path(folder), kill, bad, deadly
        self.error = {"user": ValueError, "ours": ZeroDivisionError}.get(error)

    def __call__(self, unit):
        if unit["unit"] == self.kill and not (self.folder / "killed").exists():
            (self.folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if unit["unit"] == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if unit["unit"] == self.bad:
            raise self.error("it is\ntoo bad")
        return {"unit": unit["unit"], "square": unit["value"] ** 2, "extra": unit["extra"]}


class Writer(UnitWorker):
    """Writes a unit's value; does before what `does` says of the unit: kill the process, or raise.

    `folder` gets a line for each unit that is begun; `once`: it does so the first time alone.
    """

    def setup(self, folder: str, does: dict[str, str], once: bool = False, setup: str = "") -> None:  # type: ignore[override]
        self.folder, self.does, self.once = Path(folder), does, once
        if setup:
            raise ValueError(setup)

    def process(self, unit, folder: Path) -> Output:
        begun = self.folder / "begun"
        seen = begun.read_text().split() if begun.exists() else []
        with begun.open("a") as lines:
            lines.write(f"{unit['unit']}\n")
        what = "" if self.once and unit["unit"] in seen else self.does.get(unit["unit"], "")
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if what:
            raise {"mistake": KeyError, "passing": OSError}[what](f"{what} of {unit['unit']}")
        path = folder / "value.arrow"
        path.write_text(str(unit["value"]))
        return Output(path, 1)


def train_job(folder: str, kill_at: int, error: str, hooks, stop=lambda: False) -> dict:
    """A small training with checkpoints; kills its worker once at step `kill_at`, or raises `error`."""
    import torch

    from ddt.train.checkpoint import Checkpoints
    from ddt.train.fit import fit
    from tests.train.test_fit import CONFIG, Data, Net, loss_fn

    if error:
        with (Path(folder) / "began").open("a") as began:
            began.write(".")
        raise {"user": ValueError, "torch": RuntimeError}[error]("too\nbad")
    marker = Path(folder) / "killed"

    def strike(step: int, metrics: dict[str, float]) -> None:
        if step == kill_at and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    config = dataclasses.replace(CONFIG, steps=12, checkpoint_every=4, log_every=2)
    model = Net()
    result = fit(
        model, loss_fn, Data(), config, Checkpoints(folder), [*hooks, strike], progress=False, stop=stop
    )
    return {
        "resumed_from": result.resumed_from,
        "weight": model.inner.weight.flatten().tolist(),
        "loss": result.metrics["train/loss"],
        "threads": torch.get_num_threads(),
        "waiting": os.environ.get("GOMP_SPINCOUNT"),
    }


TELLS_AT, SLOW_S = 3, 0.2


def told_job(folder: str, tell: str, hooks, stop=lambda: False) -> dict:
    """A training of 12 steps, slow enough to be told to end in the midst of it.

    `tell` worker: the last rank's process gets SIGTERM at step TELLS_AT, once. `tell` deaf: it never stops.
    """
    from ddt.train.checkpoint import Checkpoints
    from ddt.train.fit import fit
    from tests.train.test_fit import CONFIG, Data, Net, loss_fn

    if tell == "deaf":
        hooks[0](1, {"train/loss": 1.0})
        time.sleep(HANGS_AFTER_S)
    marker = Path(folder) / "told"

    class Slow(Data):
        def batch(self, step: int, rank: int = 0, world: int = 1):
            if not marker.exists():
                time.sleep(SLOW_S)
                if tell == "worker" and step == TELLS_AT and rank == world - 1:
                    marker.touch()
                    os.kill(os.getpid(), signal.SIGTERM)
            return super().batch(step, rank, world)

    config = dataclasses.replace(CONFIG, steps=12, checkpoint_every=12, log_every=2)
    model = Net()
    result = fit(model, loss_fn, Slow(), config, Checkpoints(folder), hooks, progress=False, stop=stop)
    return {"resumed_from": result.resumed_from, "weight": model.inner.weight.flatten().tolist()}


LOST_AT, GROWN_AT, END = 6, 10, 14


class RecordedData:
    """The batches of the loop's tests, with a note of who got which rows.

    The worker on the node to be lost waits before LOST_AT, a worker alone before GROWN_AT, until it is ended.
    """

    def __init__(self, folder: str, lost_node: str | None) -> None:
        from tests.train.test_fit import Data

        self.data, self.folder, self.lost_node = Data(), Path(folder), lost_node

    def batch(self, step: int, rank: int = 0, world: int = 1):
        if self.lost_node is not None and self._waits_before(step, world):
            time.sleep(HANGS_AFTER_S)
        part = self.data.batch(step, rank, world)
        rows = [zlib.crc32(row.numpy().tobytes()) for row in part["x"]]
        with (self.folder / "seen").open("a") as seen:
            seen.write(json.dumps({"step": step, "world": world, "rows": rows}) + "\n")
        return part

    def _waits_before(self, step: int, world: int) -> bool:
        import ray

        node = ray.get_runtime_context().get_node_id()
        return (step == LOST_AT and node == self.lost_node) or (step == GROWN_AT and world == 1)


@float64()
def elastic_job(folder: str, lost_node: str | None, hooks, stop=lambda: False) -> dict:
    """A training of END steps whose workers wait, one to be lost and one to be joined; None: nobody waits."""
    from ddt.train.checkpoint import Checkpoints
    from ddt.train.fit import fit
    from tests.train.test_fit import CONFIG, Net, plain_loss

    config = dataclasses.replace(CONFIG, steps=END, checkpoint_every=2, log_every=2)
    model = Net()
    model.dropout.p = 0.0
    data, checkpoints = RecordedData(folder, lost_node), Checkpoints(folder)
    result = fit(model, plain_loss, data, config, checkpoints, hooks, progress=False, stop=stop)
    return {
        "consumed_samples": result.consumed_samples,
        "weight": model.inner.weight.flatten().tolist(),
        "loss": result.metrics["train/loss"],
    }
