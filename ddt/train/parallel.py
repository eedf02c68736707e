"""Models spread over processes: FSDP2 along one dimension of a mesh, split layers along the other.

Both are torch's own DTensors. `ddt.train.fit` takes the loss module that `shard` makes as it takes any loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from ddt.train.distributed import LossModule, rank_and_world

SHARD, TENSOR = "shard", "tensor"


class ShardedLoss(LossModule):
    """A loss over a sharded model. Processes along the mesh's first dimension take different samples."""

    def __init__(self, model: nn.Module, loss_fn: Any, mesh: DeviceMesh) -> None:
        super().__init__(model, loss_fn)
        self.mesh = mesh

    @property
    def data_rank_and_world(self) -> tuple[int, int]:
        """Which slice of the global batch is this process's: the same along the mesh's second dimension."""
        return self.mesh[SHARD].get_local_rank(), self.mesh[SHARD].size()


def make_mesh(device: torch.device, tensor: int) -> DeviceMesh:
    """All processes as a mesh (shard, tensor). ValueError where `tensor` does not divide them."""
    world = rank_and_world()[1]
    if world % tensor:
        raise ValueError(f"tensor_parallel = {tensor}: expected a divisor of the {world} training workers")
    if not dist.is_initialized():
        raise ValueError("sharded weights need torch.distributed, which is not initialised")
    return init_device_mesh(device.type, (world // tensor, tensor), mesh_dim_names=(SHARD, TENSOR))


def shard(
    model: nn.Module, blocks: Iterable[nn.Module], loss_fn: Any, mesh: DeviceMesh, bf16: bool = False
) -> ShardedLoss:
    """Spreads the parameters of `model` (in place) over the mesh's first dimension, a block at a time.

    A block's weights are gathered when it runs, forward and backward, and freed after. What is outside the
    blocks stays gathered from the start of the loss to the end of its gradient. Layers are split before this.
    `bf16`: weights are gathered, and the residual stream kept, in bfloat16; shards and sums stay in float32.
    """
    half = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    policy = half if bf16 else MixedPrecisionPolicy()
    for block in blocks:
        fully_shard(block, mesh=mesh[SHARD], mp_policy=policy)
    loss = ShardedLoss(model, loss_fn, mesh)
    fully_shard(loss, mesh=mesh[SHARD], mp_policy=policy)
    return loss


def is_sharded(tensors: Iterable[Tensor]) -> bool:
    """Whether any of the tensors is spread over processes."""
    return any(isinstance(tensor, DTensor) for tensor in tensors)


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: its shard, or all of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
    """The norm of all gradients together, which are scaled down where it exceeds `max_norm`.

    torch's clip_grad_norm_ takes DTensors of one mesh only; split layers and whole norms are of two.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not is_sharded(gradients):
        return nn.utils.clip_grad_norm_(parameters, max_norm).float()
    squares: dict[Any, Tensor] = {}
    for gradient in gradients:
        layout = (gradient.device_mesh, gradient.placements) if isinstance(gradient, DTensor) else None
        square = local(gradient).float().square().sum()
        squares[layout] = squares[layout] + square if layout in squares else square
    total = torch.stack([_sum_over(layout, square) for layout, square in squares.items()]).sum()
    norm = total.sqrt()
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_([local(gradient) for gradient in gradients], scale)
    return norm


def _sum_over(layout: tuple[DeviceMesh, Any] | None, square: Tensor) -> Tensor:
    """A process's sum of squares, added up over the mesh dimensions along which its tensors are split."""
    mesh, placements = layout or (None, ())
    for dimension, placement in enumerate(placements):
        # Not is_shard(): it is false for a dimension that is split twice (_StridedShard).
        if mesh is not None and not placement.is_replicate():
            dist.all_reduce(square, group=mesh.get_group(dimension))
    return square
