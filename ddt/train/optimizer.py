"""AdamW over a model's parameters."""

from __future__ import annotations

import torch
from torch import nn

from ddt.train.config import FitConfig


def build_optimizer(model: nn.Module, config: FitConfig) -> torch.optim.AdamW:
    """Fused AdamW. Matrices decay; biases, norms and other vectors do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    # Fused also because it takes `found_inf`: a step that is not finite is then skipped on the device.
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
