"""Fifty training steps of a tiny tokenizer against the losses in golden_losses.txt, one a line.

A change of what is computed shows here; one that is meant is recorded by
    python -m tests.tokenizer.test_golden_losses
The pictures are drawn below, so that a change of the scenes world does not show.
"""

import dataclasses
from pathlib import Path

import pytest
import torch

from ddt.tokenizer import DDTTokenizer, TokenizerLoss
from ddt.train.fit import fit
from tests.float64 import float64
from tests.tokenizer.test_model import debug
from tests.train.test_fit import CONFIG

GOLDEN = Path(__file__).with_name("golden_losses.txt")
STEPS = 50
# Losses are logged in float32, which is 6e-8. A commitment weight of 1.001 for 1 differs by 8e-5, of 1.01 by
# 1e-2, an EMA decay of 0.985 for 0.99 by 1e-2, times of density t^0.01 for uniform ones by 3e-2.
TOLERANCE = 1e-6


class Boxes:
    """Plain grounds, each with one box of another colour: a function of the step."""

    def batch(self, step, rank=0, world=1):
        generator = torch.Generator().manual_seed(step)
        ground, box = torch.rand(2, 32, 3, 1, 1, generator=generator) * 2 - 1
        top, left = torch.randint(0, 9, (2, 32, 1, 1, 1), generator=generator)
        rows, columns = torch.arange(16).view(1, 1, 16, 1), torch.arange(16)
        inside = (rows >= top) & (rows < top + 8) & (columns >= left) & (columns < left + 8)
        return torch.where(inside, box, ground)


@float64()
def losses(**changes):
    """The loss of each step, computed in float64 on the CPU: quantized from step 10 on."""
    torch.manual_seed(0)
    config = debug(hidden_tokens="mask", tail_dropout=0.2, unquantized_steps=10)
    settings = {"steps": STEPS, "global_batch": 32, "lr": 3e-3, "log_every": 1, "ema_decay": 0.9, **changes}
    found = []
    fit(
        DDTTokenizer(config),
        TokenizerLoss(config),
        Boxes(),
        dataclasses.replace(CONFIG, **settings),
        hooks=[lambda step, metrics: found.append(metrics["train/loss"])],
        progress=False,
    )
    return found


def golden():
    return [float(line) for line in GOLDEN.read_text().split()]


def test_losses_are_the_golden_ones():
    assert losses() == pytest.approx(golden(), rel=TOLERANCE)


if __name__ == "__main__":
    GOLDEN.write_text("".join(f"{loss:.9g}\n" for loss in losses()))
