"""A step whose loss or gradient is not finite leaves everything bit for bit as it was: weights, optimizer,
averages, codebook and the statistics that a forward pass moves.

Tried in a training's first step, in that which places its codebook and in a later one; the training then goes
on as one that never met such a batch.
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from ddt.train.metrics import MetricAverages
from ddt.train.state import model_tensors, optimizer_tensors
from ddt.train.step import TrainStep
from tests.processes import run_processes
from tests.tokenizer.test_golden_losses import Boxes
from tests.tokenizer.test_resume import FIT, KINDS, PLACED_AT
from tests.train.test_fit import Data, Net, loss_fn

SPLIT = dataclasses.replace(FIT, micro_batch=16)
FAULTS = ("first micro-batch", "last micro-batch", "gradient")
TRIED = (0, PLACED_AT, PLACED_AT + 2)


def training(kind: str, optimizer: str = "muon") -> TrainStep:
    torch.manual_seed(0)
    model, loss = KINDS[kind]()
    model.train()
    return TrainStep(model, loss, dataclasses.replace(SPLIT, optimizer=optimizer), 0)


def state(training: TrainStep) -> dict[str, torch.Tensor]:
    """Copies of all that a checkpoint holds."""
    tensors = model_tensors(training.model) | optimizer_tensors(training.model, training.optimizer)
    tensors |= {f"ema {name}": weight for name, weight in training.ema.weights.items()}
    return {name: tensor.clone() for name, tensor in tensors.items()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> list[str]:
    """Names whose bytes differ. What the first step makes, an optimizer's moments, begins as zeros."""
    names = []
    for name, tensor in after.items():
        old = before.get(name, torch.zeros_like(tensor))
        if not torch.equal(*(each.reshape(-1).view(torch.uint8) for each in (old, tensor))):
            names.append(name)
    return names


def spoiled(batch: torch.Tensor, fault: str) -> torch.Tensor:
    batch = batch.clone()
    if fault != "gradient":
        batch[0 if fault == "first micro-batch" else -1] = math.nan
    return batch


TRIALS = [
    *(("ddt", "muon", fault) for fault in FAULTS),
    ("ddt", "adamw", "gradient"),
    ("spatial", "muon", FAULTS[0]),
]


@pytest.mark.parametrize(("kind", "optimizer", "fault"), TRIALS)
def test_nothing_moves_and_training_goes_on(kind, optimizer, fault):
    tried, straight, averages = training(kind, optimizer), training(kind, optimizer), MetricAverages()
    explode = []
    last = list(tried.model.parameters())[-1]
    last.register_hook(lambda gradient: gradient + math.inf if explode else gradient)
    for step in range(TRIED[-1] + 1):
        batch, before = Boxes().batch(step), state(tried)
        if step in TRIED:
            explode[:] = [True] * (fault == "gradient")
            loss, norm, _ = tried(spoiled(batch, fault), step, step, averages, False)
            explode.clear()
            assert math.isfinite(loss) == (fault == "gradient") and not math.isfinite(norm)
            assert changed(before, state(tried)) == [], f"step {step}"
            tried(batch, step, step, averages, False)  # read only later, as on an accelerator
            assert changed(before, state(tried)) == [], f"step after step {step}"
            tried.broken.zero_()
        tried(batch, step, step, averages, False)
        straight(batch, step, step, averages, False)
        assert changed(before, state(tried)), f"step {step}"
    assert tried.model.quantizer.ready and changed(state(straight), state(tried)) == []


def one_rank_spoils() -> tuple[list[list[str]], list[int]]:
    """What changed in steps of which only the last rank has a bad sample, and how much in good ones."""
    rank = torch.distributed.get_rank()
    trained, spoilt, moved, averages = training("ddt"), [], [], MetricAverages()
    for step in range(TRIED[-1] + 1):
        batch, before = Boxes().batch(step).chunk(2)[rank], state(trained)
        if step in TRIED:
            trained(spoiled(batch, FAULTS[1]) if rank else batch, step, step, averages, False)
            spoilt.append(changed(before, state(trained)))
            trained.broken.zero_()
        trained(batch, step, step, averages, False)
        moved.append(len(changed(before, state(trained))))
    return spoilt, moved


def test_a_bad_sample_of_one_rank_moves_nothing_on_any():
    for spoilt, moved in run_processes(one_rank_spoils, 2):
        assert spoilt == [[]] * len(TRIED) and min(moved) > 10


def test_what_did_not_move_is_not_written():
    """A flag that the device is asked for only where it changed must not look changed."""
    model = Net()
    model.register_buffer("flag", torch.zeros((), dtype=torch.bool))
    model.train()
    trained = TrainStep(model, loss_fn, dataclasses.replace(SPLIT, optimizer="adamw", micro_batch=None), 0)
    versions = model.flag._version, model.average._version
    trained(Data().batch(0), 0, 0, MetricAverages(), False)
    assert model.flag._version == versions[0] and model.average._version > versions[1]
