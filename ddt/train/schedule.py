"""The learning rate as a function of the step alone, so that resuming needs no scheduler state."""

from __future__ import annotations

import math

from ddt.train.config import FitConfig


def learning_rate(step: int, config: FitConfig) -> float:
    """Linear warm-up to `lr`, then a cosine down to `lr * min_lr_ratio` at the last step.

    `step` counts from 0; the first step already learns (lr / warmup_steps), none is spent at rate zero.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    span = max(1, config.steps - config.warmup_steps)
    progress = min(1.0, (step - config.warmup_steps) / span)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return config.lr * (config.min_lr_ratio + (1 - config.min_lr_ratio) * cosine)
