"""Averages of metrics against hand computation."""

from __future__ import annotations

import json
import math

import pytest
import torch

from ddt.train.metrics import MetricAverages


def test_averages_are_weighted_and_start_again_after_a_flush():
    averages = MetricAverages()
    averages.add({"loss": torch.tensor(2.0), "other/one": 1.0}, 0.25)
    averages.add({"loss": torch.tensor(4.0), "codes/usage": torch.tensor(0.5)}, 0.75)
    assert averages.flush() == {"train/loss": 3.5, "other/one": 1.0, "codes/usage": 0.5}
    assert averages.flush() == {}


def test_the_mean_of_no_samples_is_left_out():
    averages = MetricAverages()
    none = torch.tensor(math.nan)
    averages.add({"some": none, "never": none, "always": torch.tensor(1.0)})
    averages.add({"some": torch.tensor(6.0), "never": none, "always": torch.tensor(3.0)})
    assert averages.flush() == {"train/some": 6.0, "train/always": 2.0}


def test_sums_of_two_processes_go_on_in_one():
    """What both would have given together, through JSON."""
    parts, one = [MetricAverages(), MetricAverages()], MetricAverages()
    for part, value in zip(parts, (1.0, 4.0), strict=True):
        part.add({"loss": torch.tensor(value), "number": 2 * value}, 0.5)
    states = json.loads(json.dumps([part.state() for part in parts]))
    one.load(states, torch.device("cpu"))
    one.add({"loss": torch.tensor(7.0), "number": 5.0})
    assert one.flush() == {"train/loss": 4.75, "train/number": 5.0}


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_what_is_infinite_stays_so(value):
    averages = MetricAverages()
    averages.add({"loss": torch.tensor(value), "number": value})
    averages.add({"loss": torch.tensor(1.0), "number": 1.0})
    assert averages.flush() == {"train/loss": value, "train/number": value}
