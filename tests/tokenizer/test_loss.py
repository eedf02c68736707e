"""The training loss and its metrics, against hand computation on a pass that is written down."""

import math

import pytest
import torch

from ddt.tokenizer import TokenizerLoss
from ddt.tokenizer.loss import error_by_time, error_by_tokens
from ddt.tokenizer.model import TrainingOutput
from ddt.tokenizer.quantizer import Quantized
from tests.tokenizer.test_model import debug

VISIBLE = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
COMMITMENT = torch.tensor([[1.0, 2, 30, 40], [6, 50, 60, 70], [80, 80, 80, 80]])
ERRORS, TIMES = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([0.5, 0.25, 0.0])


def losses(**changes):
    """Loss and metrics of a pass over three images of four tokens."""
    quantized = Quantized(torch.zeros(3, 4, 2), None, COMMITMENT, torch.tensor(10.0))
    output = TrainingOutput(ERRORS, ERRORS / 2, TIMES, VISIBLE, quantized)
    loss, metrics = TokenizerLoss(debug(**changes))(lambda images, step, generator: output, None, 0)
    return loss.item(), {name: value.item() for name, value in metrics.items()}


@pytest.mark.parametrize(
    ("commitment_on", "commitment"), [("all", COMMITMENT.mean().item()), ("visible", (1 + 2 + 6) / 3)]
)
def test_commitment_is_a_mean_over_all_or_over_the_visible_tokens(commitment_on, commitment):
    loss, metrics = losses(commitment_on=commitment_on, commitment_weight=0.5, entropy_weight=0.25)
    assert metrics["flow"] == 3.0 and metrics["commitment"] == pytest.approx(commitment)
    assert loss == pytest.approx(3.0 + 0.5 * commitment + 0.25 * 10.0)


def test_what_is_logged_of_a_pass():
    _, metrics = losses()
    assert metrics["mse_t/0-0.35"] == 2.0 and metrics["mse_t/0.35-0.7"] == 0.5
    assert metrics["mse_tokens/some"] == 0.75 and metrics["mse_tokens/none"] == 3.0
    shares = [metrics[f"visible_share/000{i}"] for i in (1, 2, 3, 4)]
    assert shares == pytest.approx([2 / 3, 1 / 3, 0, 0])


def test_errors_by_range_of_time_and_by_tokens_where_some_kind_did_not_come_up():
    bands = error_by_time(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0.1, 0.2, 0.9]))
    assert bands["mse_t/0-0.35"] == 2.0 and bands["mse_t/0.7-1"] == 5.0
    assert math.isnan(bands["mse_t/0.35-0.7"])
    kinds = error_by_tokens(torch.tensor([1.0, 2.0]), VISIBLE[:2])
    assert kinds["mse_tokens/some"] == 1.5 and math.isnan(kinds["mse_tokens/none"])
