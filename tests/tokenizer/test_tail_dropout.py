"""Tail dropout: training shows the decoder shorter prefixes than the time asks for, at any time.

How well few tokens are decoded after it is an outcome of training: bench/ablations.py measures it on scenes.
"""

import pytest
import torch

from ddt.tokenizer.schedule import prefix_mask
from tests.tokenizer.test_model import make, pictures

IMAGES, TOKENS = 4096, 8


def shown(**changes):
    """How many tokens of each image the decoder is shown in training, and how many its time asks for."""
    model, seen = make(**changes).train(), []
    model.encoder.forward = lambda images: torch.ones(len(images), TOKENS, 4)
    model.decoder.forward = lambda x, t, codes, visible: seen.append(visible) or x
    out = model(pictures(1).expand(IMAGES, -1, -1, -1), step=0, generator=torch.Generator().manual_seed(0))
    [visible_BT] = seen
    count_B = visible_BT.sum(1)
    assert torch.equal(visible_BT, prefix_mask(count_B, TOKENS)) and torch.equal(visible_BT, out.visible_BT)
    return count_B, model.schedule.num_visible(out.t_B)


def test_without_it_time_alone_says_how_many():
    count_B, asked_B = shown(tail_dropout=0.0)
    assert torch.equal(count_B, asked_B) and set(asked_B.tolist()) == set(range(1, TOKENS + 1))


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_any_prefix_is_shown_at_any_time(share):
    count_B, asked_B = shown(tail_dropout=share)
    assert (count_B <= asked_B).all()
    pairs = set(zip(count_B.tolist(), asked_B.tolist(), strict=True))
    assert pairs == {(count, asked) for asked in range(1, TOKENS + 1) for count in range(asked + 1)}
    # Of what is cut, a prefix of n tokens where k are asked for has probability 1/9, n < k, and the rest k.
    for asked in range(1, TOKENS + 1):
        cut = (count_B[asked_B == asked] < asked).float().mean()
        assert cut == pytest.approx(
            share * asked / (TOKENS + 1), abs=0.07
        )  # three times the deviation of 512
