"""The little that the loop needs of torch.distributed; all of it works in a single process too."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of processes."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def barrier() -> None:
    """Waits for all processes."""
    if rank_and_world()[1] > 1:
        dist.barrier()


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean over all processes, so that all of them judge it alike."""
    world = rank_and_world()[1]
    if world == 1:
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value / world


def gather_objects(value: Any) -> list[Any]:
    """`value` of every process, in the order of ranks. For small things outside the hot path."""
    world = rank_and_world()[1]
    if world == 1:
        return [value]
    gathered: list[Any] = [None] * world
    dist.all_gather_object(gathered, value)
    return gathered


class LossModule(nn.Module):
    """The loss as a forward pass, which is where DistributedDataParallel hooks in."""

    def __init__(self, model: nn.Module, loss_fn: Any) -> None:
        super().__init__()
        self.model = model
        # In a tuple: a loss that is itself a module (a frozen perceptual network) is not trained here.
        self._loss_fn = (loss_fn,)

    def forward(self, batch: Any, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        return self._loss_fn[0](self.model, batch, step, generator)


def parallel_loss(model: nn.Module, loss_fn: Any) -> nn.Module:
    """The loss module, with gradients averaged over processes where there are several.

    A loss that holds its model already (a sharded one, ddt.train.parallel) averages them itself.
    """
    if isinstance(loss_fn, LossModule):
        return loss_fn
    module = LossModule(model, loss_fn)
    if rank_and_world()[1] == 1:
        return module
    return DistributedDataParallel(module)
