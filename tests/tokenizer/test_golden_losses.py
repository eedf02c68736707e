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
from tests.tokenizer.test_model import debug
from tests.train.test_fit import CONFIG

GOLDEN = Path(__file__).with_name("golden_losses.txt")
STEPS = 50
# Measured: 1, 2 and 4 threads, AVX-512 and AVX2 differ by at most 2e-7; a learning rate 0.1 % higher by 7e-4,
# an EMA decay of 0.985 for 0.99 by 5e-4.
TOLERANCE = 1e-5


class Boxes:
    """Plain grounds, each with one box of another colour: a function of the step."""

    def batch(self, step, rank=0, world=1):
        generator = torch.Generator().manual_seed(step)
        ground, box = torch.rand(2, 32, 3, 1, 1, generator=generator) * 2 - 1
        top, left = torch.randint(0, 9, (2, 32, 1, 1, 1), generator=generator)
        rows, columns = torch.arange(16).view(1, 1, 16, 1), torch.arange(16)
        inside = (rows >= top) & (rows < top + 8) & (columns >= left) & (columns < left + 8)
        return torch.where(inside, box, ground)


def losses(**changes):
    """The loss of each step, in float32 on the CPU: quantized from step 10 on."""
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
