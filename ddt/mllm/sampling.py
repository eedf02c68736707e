"""Drawing one token per sequence from logits, each sequence from random numbers of its own.

B sequences, V candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def uniforms(seeds: Sequence[int], count: int) -> Tensor:
    """float64 [B, count] in [0, 1): row i is a function of seeds[i] alone, the same on every device."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return torch.stack([torch.rand(count, generator=each, dtype=torch.float64) for each in generators])


def guided(cond_BV: Tensor, uncond_BV: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance on logits: uncond + scale * (cond - uncond)."""
    return uncond_BV + scale * (cond_BV - uncond_BV)


def draw(logits_BV: Tensor, uniform_B: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """int64 [B]: tokens drawn by inverting the filtered cumulative distribution at `uniform_B`.

    `temperature` 0 takes the likeliest. top-k comes first, then top-p over what is left: the smallest set of
    likeliest tokens whose probability reaches top_p, at least one.
    """
    if temperature == 0:
        return logits_BV.argmax(dim=-1)
    top_k = min(top_k, logits_BV.shape[-1])
    sorted_BV, order_BV = logits_BV.float().topk(top_k, dim=-1)
    probs_BV = torch.softmax(sorted_BV / temperature, dim=-1).double()
    before_BV = probs_BV.cumsum(dim=-1) - probs_BV
    kept_BV = torch.where(before_BV < top_p, probs_BV, 0.0)
    kept_BV[:, 0] = probs_BV[:, 0]
    edges_BV = kept_BV.cumsum(dim=-1)
    target_B1 = uniform_B.to(edges_BV)[:, None] * edges_BV[:, -1:]
    place_B1 = torch.searchsorted(edges_BV, target_B1, right=True)
    last_B1 = (kept_BV > 0).sum(dim=-1, keepdim=True) - 1
    return order_BV.gather(1, torch.minimum(place_B1, last_B1))[:, 0]
