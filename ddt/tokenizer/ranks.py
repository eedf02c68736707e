"""What the codebook needs of torch.distributed: all ranks hold the one that a single process would."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_functional
from torch import Tensor


def world_size() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum over ranks, in a new tensor; without gradients."""
    if world_size() == 1:
        return x
    total = x.clone()
    dist.all_reduce(total)
    return total


def mean_over_ranks(x: Tensor) -> Tensor:
    """The mean over ranks, gradients included."""
    if world_size() == 1:
        return x
    return dist_functional.all_reduce(x) / world_size()


def gather_rows(x_Nd: Tensor) -> Tensor:
    """The rows of all ranks, in rank order; every rank must hold the same number."""
    if world_size() == 1:
        return x_Nd
    parts = [torch.empty_like(x_Nd) for _ in range(world_size())]
    dist.all_gather(parts, x_Nd.contiguous())
    return torch.cat(parts)
