"""What the Ray tests share with the processes they start; these import it by name."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path

from ddt.params import Resources

RESOURCES = Resources(
    cpus=2,
    object_store_mb=100,
    cpus_per_actor=1,
    gpus_per_actor=0,
    train_workers=1,
    train_cpus_per_worker=None,
    tokenizer_cpus_per_worker=None,
    gpus_per_worker=0,
    max_failures=2,
    tensor_parallel=1,
    shard_weights=False,
    checkpoint_activations=False,
)


class Squarer:
    """Squares; kills its own process once, raises on the units it is told to."""

    def __init__(self, folder: str, kill: str = "", bad: str = "", error: str = "") -> None:
        self.folder, self.kill, self.bad = Path(folder), kill, bad
        self.error = {"user": ValueError, "ours": ZeroDivisionError}.get(error)

    def __call__(self, unit):
        if unit["unit"] == self.kill and not (self.folder / "killed").exists():
            (self.folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if unit["unit"] == self.bad:
            raise self.error("it is\ntoo bad")
        return {"unit": unit["unit"], "square": unit["value"] ** 2, "extra": unit["extra"]}


def train_job(folder: str, kill_at: int, error: str, hooks) -> dict:
    """A small training with checkpoints; kills its worker once at step `kill_at`, or raises `error`."""
    import torch

    from ddt.train.checkpoint import Checkpoints
    from ddt.train.fit import fit
    from tests.train.test_fit import CONFIG, Data, Net, loss_fn

    if error:
        raise {"user": ValueError, "ours": ZeroDivisionError}[error]("too\nbad")
    marker = Path(folder) / "killed"

    def strike(step: int, metrics: dict[str, float]) -> None:
        if step == kill_at and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    config = dataclasses.replace(CONFIG, steps=12, checkpoint_every=4, log_every=2)
    model = Net()
    result = fit(model, loss_fn, Data(), config, Checkpoints(folder), [*hooks, strike], progress=False)
    return {
        "resumed_from": result.resumed_from,
        "weight": model.inner.weight.flatten().tolist(),
        "loss": result.metrics["train/loss"],
        "threads": torch.get_num_threads(),
    }
