"""A tokenizer whose training is killed at any step goes on to the same weights and codes, bit for bit.

Before its codebook is placed, at that step and after it; with what the default run trains by, and more.
"""

import dataclasses

import pytest
import torch

from ddt.baselines.spatial import SpatialLoss, SpatialTokenizer
from ddt.tokenizer import DDTTokenizer, TokenizerLoss
from ddt.train.checkpoint import Checkpoints
from ddt.train.fit import fit
from ddt.train.state import model_tensors
from tests.baselines.test_spatial import CONFIG_16
from tests.tokenizer.test_golden_losses import Boxes
from tests.tokenizer.test_model import debug
from tests.train.test_fit import CONFIG

STEPS, SAVED_EVERY, PLACED_AT = 8, 3, 4
FIT = dataclasses.replace(
    CONFIG, steps=STEPS, global_batch=32, optimizer="muon", ema_decay=0.9, bf16=True,
    checkpoint_every=SAVED_EVERY, keep_checkpoints=1, log_every=1,
)  # fmt: skip
DDT = debug(
    unquantized_steps=PLACED_AT, tail_dropout=0.3, condition_dropout=0.1, code_noise=0.2,
    position_norm=True, commitment_weight=0.1, entropy_weight=0.5, entropy_floor=1.0, dead_threshold=0.5,
)  # fmt: skip
SPATIAL = CONFIG_16.replace(unquantized_steps=PLACED_AT, dead_threshold=0.5)
KINDS = {
    "ddt": lambda: (DDTTokenizer(DDT), TokenizerLoss(DDT)),
    "spatial": lambda: (SpatialTokenizer(SPATIAL), SpatialLoss(SPATIAL)),
}


class Killed(Exception):
    """In place of SIGKILL: nothing catches it, and the next training starts from new objects."""


def train(kind, seed, folder=None, kill_at=None):
    """Tensors by name at the end, the loss of each step, and the step it went on from."""
    torch.manual_seed(seed)
    model, loss_fn = KINDS[kind]()
    losses = {}

    def log(step, metrics):
        losses[step] = metrics["train/loss"]
        if step == kill_at:  # before the step's checkpoint, where one is due
            raise Killed

    checkpoints = None if folder is None else Checkpoints(folder)
    result = fit(model, loss_fn, Boxes(), FIT, checkpoints, [log], progress=False)
    averages = {f"ema {name}": weight for name, weight in result.ema.weights.items()}
    return model_tensors(model) | averages, losses, result.resumed_from


@pytest.fixture(scope="module", params=KINDS)
def straight(request):
    return request.param, *train(request.param, seed=0)[:2]


@pytest.mark.parametrize("kill_at", range(1, STEPS + 1))
def test_killed_at_any_step_and_resumed_is_bit_equal(straight, kill_at, tmp_path):
    kind, tensors, losses = straight
    with pytest.raises(Killed):
        train(kind, 0, tmp_path, kill_at)
    saved = (kill_at - 1) // SAVED_EVERY * SAVED_EVERY
    # Where there is a checkpoint, nothing comes from how the new process starts.
    resumed, later_losses, resumed_from = train(kind, kill_at if saved else 0, tmp_path)
    assert resumed_from == saved
    assert later_losses == {step: loss for step, loss in losses.items() if step > saved}
    assert resumed.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(resumed[name], tensor), name
