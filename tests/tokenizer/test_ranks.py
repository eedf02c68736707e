"""A tokenizer trained by the loop in two gloo processes: one codebook and one set of weights on both.

The baseline draws no random numbers, so its codebook is also that of a single process on the same batches.
"""

import dataclasses

import pytest
import torch

from ddt.baselines.spatial import SpatialLoss, SpatialTokenizer
from ddt.train.fit import fit
from ddt.train.state import model_tensors
from tests.processes import run_processes
from tests.tokenizer.test_golden_losses import Boxes
from tests.tokenizer.test_resume import FIT, KINDS, PLACED_AT, SPATIAL

STEPS = PLACED_AT + 20  # twenty of them quantized


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


def train_plain_baseline():
    """In float32 and without resets, which may turn on a rounding."""
    torch.manual_seed(0)
    config = SPATIAL.replace(dead_threshold=0.0)
    return train(SpatialTokenizer(config), SpatialLoss(config), bf16=False, optimizer="adamw", lr=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_hold_the_same_weights_and_codes(kind):
    first, second = run_processes(train_kind, 2, kind)
    assert first["quantizer.ready"] and first["quantizer.hits_K"].std() > 0
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_two_ranks_learn_the_codebook_of_one():
    alone, (shared, _) = train_plain_baseline(), run_processes(train_plain_baseline, 2)
    start = SpatialTokenizer(SPATIAL).quantizer.codebook_Kd
    codes = alone["quantizer.codebook_Kd"]
    assert (codes - start).norm(dim=-1).min() > 0.01
    torch.testing.assert_close(shared["quantizer.codebook_Kd"], codes, atol=2e-3, rtol=0)
