"""A tokenizer trained by the loop in two gloo processes: one codebook and one set of weights on both.

The baseline draws no random numbers, so its codebook is also that of a single process on the same batches.
"""

import dataclasses

import pytest
import torch

from ddt.train.fit import fit
from ddt.train.state import model_tensors
from tests.float64 import float64
from tests.processes import run_processes
from tests.tokenizer.test_golden_losses import Boxes
from tests.tokenizer.test_resume import FIT, KINDS, PLACED_AT

STEPS = PLACED_AT + 8  # eight of them quantized


class SharedBoxes(Boxes):
    """Each process takes its part of the batch, in the order of ranks, as `ImageDataset` gives it."""

    def batch(self, step, rank=0, world=1):
        return super().batch(step, rank, world).chunk(world)[rank]


def train(model, loss_fn, **changes):
    config = dataclasses.replace(FIT, **{"steps": STEPS, "checkpoint_every": STEPS} | changes)
    fit(model, loss_fn, SharedBoxes(), config, progress=False)
    return model_tensors(model)


def train_kind(kind):
    torch.manual_seed(0)
    return train(*KINDS[kind]())


@float64()
def train_baseline():
    torch.manual_seed(0)
    return train(*KINDS["spatial"](), bf16=False, optimizer="adamw")


def train_all():
    return {kind: train_kind(kind) for kind in KINDS} | {"float64": train_baseline()}


@pytest.fixture(scope="module")
def ranks():
    """What each of two processes trained: to start them takes longer than to train."""
    return run_processes(train_all, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_hold_the_same_weights_and_codes(ranks, kind):
    first, second = (trained[kind] for trained in ranks)
    assert first["quantizer.ready"] and first["quantizer.hits_K"].std() > 0
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_two_ranks_learn_the_codebook_of_one(ranks):
    alone, shared = train_baseline(), ranks[0]["float64"]
    assert alone["quantizer.ready"] and alone["quantizer.codebook_Kd"].dtype == torch.float64
    for name, tensor in alone.items():  # 1e-15 apart where it was measured
        torch.testing.assert_close(shared[name], tensor, atol=1e-9, rtol=0, msg=name)
