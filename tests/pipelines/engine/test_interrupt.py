"""Ctrl-C while Ray Train works is a KeyboardInterrupt, as everywhere; Ray's own handler does not stay."""

from __future__ import annotations

import os
import signal
import time

import pytest

from pipelines.engine.fit import train
from tests.pipelines.ray_support import RESOURCES


def slow_job(hooks) -> dict:
    """Says that it has begun, and goes on for longer than a test lasts."""
    hooks[0](1, {"train/loss": 1.0})
    time.sleep(300)
    return {}


@pytest.mark.ray
def test_an_interrupt_of_training(tmp_path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored in the background
    try:
        with pytest.raises(KeyboardInterrupt):
            train(
                f"{__name__}:slow_job", {}, RESOURCES, [1], tmp_path / "ray", "job", 2,
                on_metrics=lambda step, metrics: os.kill(os.getpid(), signal.SIGINT),
            )  # fmt: skip
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
