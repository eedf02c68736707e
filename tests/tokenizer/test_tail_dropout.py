"""Tail dropout: a tokenizer that was trained on cut prefixes draws from few tokens, and more only help."""

import dataclasses

import torch

from ddt.tokenizer import DDTTokenizer, TokenizerLoss, psnr_db
from ddt.train.fit import fit
from tests.tokenizer.test_golden_losses import Boxes
from tests.tokenizer.test_model import debug
from tests.train.test_fit import CONFIG

STEPS = 200
FIT = dataclasses.replace(
    CONFIG, steps=STEPS, global_batch=32, lr=5e-3, optimizer="muon", log_every=STEPS, checkpoint_every=STEPS
)


def psnr_by_prefix(tail_dropout):
    """Mean PSNR in dB of new pictures drawn in one step from the first 1, 2, ..., 8 tokens."""
    torch.manual_seed(0)
    config = debug(tail_dropout=tail_dropout, hidden_tokens="mask", unquantized_steps=20, gate_start=0.3)
    model = DDTTokenizer(config)
    fit(model, TokenizerLoss(config), Boxes(), FIT, progress=False)
    images_BCHW = torch.cat([Boxes().batch(10**6 + i) for i in range(4)])
    codes_BT = model.eval().encode(images_BCHW)
    return [
        psnr_db(model.decode(codes_BT, num_steps=1, num_tokens=count), images_BCHW).mean().item()
        for count in range(1, config.num_tokens + 1)
    ]


def test_tail_dropout_makes_a_prefix_decodable():
    trained_on_cuts, plain = psnr_by_prefix(0.5), psnr_by_prefix(0.0)
    assert trained_on_cuts[0] > plain[0] + 1.5  # one token of eight
    falls = [before - after for before, after in zip(trained_on_cuts, trained_on_cuts[1:], strict=False)]
    assert max(falls) < 0.2  # dB; bench/ablations.py measures it on scenes
