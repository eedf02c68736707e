"""Cross-entropy over a large vocabulary, in one process or with the head split over several.

N learned tokens, D width, V vocabulary. No more than a chunk of the logits ever exists, forward or backward.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from ddt.mllm.fused_cross_entropy import FusedCrossEntropy, fused_kernel

# Logits alive at once: 2**24 float32 are 64 MiB, at V = 193,794 those of 86 tokens, at V = 1,000 of a batch.
CHUNK_LOGITS = 1 << 24


class VocabularyPart(NamedTuple):
    """The rows of the vocabulary that this process has: `rows` from `first` on, of at most `most` on any."""

    first: int
    rows: int
    most: int
    group: Any

    def reduce(self, tensor: Tensor, op: Any = dist.ReduceOp.SUM) -> Tensor:
        """`tensor` reduced in place over the processes that share the vocabulary."""
        if self.group is not None:
            dist.all_reduce(tensor, op, group=self.group)
        return tensor


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Token losses and, in the same pass, the gradients of their sum: each chunk's logits exist once."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        head_VD: Tensor,
        targets_N: Tensor,
        softcap: float | None,
        z_loss: float,
        part: VocabularyPart,
    ) -> Any:
        needs_hidden, needs_head = ctx.needs_input_grad[:2]
        compute = _matmul_dtype(hidden_ND)
        head = head_VD.to(compute)
        losses_N = torch.empty(len(targets_N), dtype=torch.float32, device=hidden_ND.device)
        log_z_N = torch.empty_like(losses_N)
        grad_hidden = torch.empty_like(hidden_ND) if needs_hidden else None
        grad_head = torch.zeros_like(head_VD, dtype=torch.float32) if needs_head else None
        step = max(1, CHUNK_LOGITS // part.most)  # the same for all processes, whose collectives must match
        for start in range(0, len(targets_N), step):
            span = slice(start, start + step)
            hidden, targets = hidden_ND[span].to(compute), targets_N[span, None] - part.first
            logits = (hidden @ head.t()).float()
            slope = None
            if softcap is not None:
                squashed = torch.tanh(logits / softcap)
                logits, slope = squashed * softcap, 1 - squashed.square()
            top = part.reduce(logits.amax(dim=1, keepdim=True), dist.ReduceOp.MAX)
            here = (targets >= 0) & (targets < part.rows)
            targets = targets.clamp(0, part.rows - 1)
            picked = torch.where(here, logits.gather(1, targets) - top, 0.0)
            weights = logits.sub_(top).exp_()
            total, picked = part.reduce(torch.stack([weights.sum(dim=1, keepdim=True), picked]))
            losses_N[span] = (total.log() - picked)[:, 0]
            log_z_N[span] = (total.log() + top)[:, 0]
            if grad_hidden is None and grad_head is None:
                continue
            gradient = weights.mul_((1 + 2 * z_loss * log_z_N[span, None]) / total)
            gradient.scatter_add_(1, targets, -here.float())
            gradient = (gradient if slope is None else gradient * slope).to(compute)
            if grad_hidden is not None:
                grad_hidden[span] = (gradient @ head).to(grad_hidden.dtype)
            if grad_head is not None:
                grad_head += gradient.t() @ hidden
        if grad_hidden is not None:
            part.reduce(grad_hidden)
        ctx.save_for_backward(grad_hidden, grad_head)
        ctx.head_dtype = head_VD.dtype
        ctx.mark_non_differentiable(losses_N)
        return losses_N.sum() + z_loss * log_z_N.square().sum(), losses_N

    @staticmethod
    def backward(ctx: Any, grad_sum: Tensor, _: Tensor) -> Any:
        grad_hidden, grad_head = ctx.saved_tensors
        return (
            None if grad_hidden is None else grad_hidden * grad_sum,
            None if grad_head is None else (grad_head * grad_sum).to(ctx.head_dtype),
            None,
            None,
            None,
            None,
        )


def _matmul_dtype(tensor: Tensor) -> torch.dtype:
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype


def chunked_cross_entropy(
    hidden_ND: Tensor,
    head_VD: Tensor,
    targets_N: Tensor,
    softcap: float | None = None,
    z_loss: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The summed loss (with gradient) and the cross-entropy of each token (without), float32.

    `softcap` is Gemma-2's bound on logits, c * tanh(logit / c). `z_loss` times the square of each token's
    log-sum-exp is added to the sum (PaLM's auxiliary loss, not in the paper; 0: none). A whole head goes to
    Liger's kernel where there is one. A head that is a
    DTensor split by rows over a one-dimensional mesh stays split: every process gets the whole loss.
    """
    if not isinstance(head_VD, DTensor):
        kernel = fused_kernel(hidden_ND.device)
        if kernel is not None and len(targets_N):
            compute = _matmul_dtype(hidden_ND)
            return FusedCrossEntropy.apply(hidden_ND, head_VD, targets_N, softcap, z_loss, compute, kernel)
        part = VocabularyPart(0, len(head_VD), len(head_VD), None)
        return _ChunkedCrossEntropy.apply(hidden_ND, head_VD, targets_N, softcap, z_loss, part)
    part = vocabulary_part(head_VD)
    return _ChunkedCrossEntropy.apply(hidden_ND, head_VD.to_local(), targets_N, softcap, z_loss, part)


def vocabulary_part(weight_VD: DTensor) -> VocabularyPart:
    """Which rows of an embedding or head, split by rows over a one-dimensional mesh, are this process's."""
    mesh = weight_VD.device_mesh
    assert mesh.ndim == 1 and weight_VD.placements[0].is_shard(0)
    most = -(
        -weight_VD.shape[0] // mesh.size()
    )  # Shard gives every process this many rows until none are left
    return VocabularyPart(most * mesh.get_local_rank(), len(weight_VD.to_local()), most, mesh.get_group())
