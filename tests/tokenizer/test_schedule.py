"""Time to prefix, against closed forms: the paper's k(t) = ceil(t*T), and Selftok's numbers."""

import pytest
import torch

from ddt.tokenizer.config import presets
from ddt.tokenizer.schedule import TokenSchedule, draw_cut, prefix_mask


def of(name):
    config = presets()[name]
    return TokenSchedule(config.num_tokens, config.stage_ends, config.stage_tokens, config.prefix)


@pytest.mark.parametrize("num_tokens", [1, 7, 16, 480, 512, 2048])
def test_linear_prefix_is_exact_at_whole_tokens(num_tokens):
    # In float32 the time k/T times T is often a little above k: a plain ceil would show one token too many.
    schedule = TokenSchedule(num_tokens)
    k = torch.arange(num_tokens + 1)
    t = (k.double() / num_tokens).float()
    assert schedule.num_visible(t).tolist() == k.tolist()


def test_linear_prefix_between_tokens_rounds_up():
    schedule = TokenSchedule(16)
    t = torch.tensor([0.0, 0.01, 1 / 16, 0.07, 0.5, 0.51, 0.999, 1.0])
    assert schedule.num_visible(t).tolist() == [0, 1, 1, 2, 8, 9, 16, 16]


def test_inclusive_prefix_shows_one_token_at_zero_and_never_more_than_all():
    schedule = TokenSchedule(16, prefix="inclusive")
    assert schedule.num_visible(torch.tensor([0.0, 0.03, 1 / 16, 0.5, 1.0])).tolist() == [1, 1, 2, 9, 16]


def test_selftok_stages():
    t = torch.tensor([0.0, 0.1, 0.2, 0.5, 0.8, 1.0])
    assert of("selftok").num_visible(t).tolist() == [1, 97, 193, 413, 497, 512]


def test_time_outside_the_unit_interval_is_clamped():
    assert TokenSchedule(16).num_visible(torch.tensor([-0.1, 1.2])).tolist() == [0, 16]


def test_visible_is_a_prefix_and_can_be_cut():
    visible = TokenSchedule(4).visible(torch.tensor([0.5, 1.0, 1.0]), at_most_B=torch.tensor([4, 3, 0]))
    assert visible.int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]]
    assert prefix_mask(torch.tensor([2]), 3).tolist() == [[True, True, False]]


def visible_share(schedule):
    """For each token the share of uniform t at which it is visible, by the mask itself; float64 [T]."""
    t = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    return torch.stack([schedule.visible(part).double().sum(0) for part in t.split(1000)]).sum(0) / len(t)


def test_visible_share_of_uniform_time():
    # Linear: V_i is visible for t > (i-1)/T. Selftok's last token only in the last 1.25 %.
    share = visible_share(of("paper"))
    expected = 1 - torch.arange(480, dtype=torch.float64) / 480
    torch.testing.assert_close(share, expected, atol=1e-4, rtol=0)
    share = visible_share(of("selftok"))
    assert share[-1] == pytest.approx(0.2 / 16, abs=1e-4)
    assert share.sum() == pytest.approx(354, abs=1)


def test_dropout_of_the_tail_and_of_the_condition():
    device = torch.device("cpu")
    cut = draw_cut(20_000, 8, 0.5, 0.25, torch.Generator().manual_seed(0), device)
    # 1/4 has nothing, 1/2 a length uniform in 0..8, 1/4 everything.
    assert (cut == 0).float().mean() == pytest.approx(0.25 + 0.5 / 9, abs=0.02)
    assert (cut == 8).float().mean() == pytest.approx(0.25 + 0.5 / 9, abs=0.02)
    assert draw_cut(3, 8, 0.0, 0.0, None, device) is None
