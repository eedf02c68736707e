"""Sampling: from noise to an image in any number of Euler steps, the prefix known from t alone.

The paper takes T steps; one step predicts the mean image that all tokens describe.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ddt.tokenizer import flow
from ddt.tokenizer.schedule import TokenSchedule

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x_BCHW, t_B, visible_BT) -> prediction_BCHW


@torch.no_grad()
def sample(
    predict: Predict,
    noise_BCHW: Tensor,
    schedule: TokenSchedule,
    num_steps: int,
    target: str,
    num_tokens: int | None = None,
    clip: float | None = None,
) -> Tensor:
    """x_0 [B, C, H, W] from noise over the times 1, (n−1)/n, ..., 0.

    `num_tokens` shows at most the first so many; `clip` bounds the predicted x_0 (images, not latents).
    """
    x_BCHW = noise_BCHW
    at_most_B = None
    if num_tokens is not None:
        at_most_B = torch.full((len(x_BCHW),), num_tokens, device=x_BCHW.device)
    for i in range(num_steps, 0, -1):
        t = i / num_steps
        t_B = torch.full((len(x_BCHW),), t, device=x_BCHW.device)
        prediction = predict(x_BCHW, t_B, schedule.visible(t_B, at_most_B))
        x0_BCHW = flow.predicted_x0(prediction, x_BCHW, t_B, target)
        if clip is not None:
            x0_BCHW = x0_BCHW.clamp(-clip, clip)
        x_BCHW = flow.step(x_BCHW, x0_BCHW, t, (i - 1) / num_steps)
    return x_BCHW
