"""The same loss by Liger's Triton kernel, on CUDA where the extra `liger` is installed.

It makes one pass over each chunk's logits where torch makes several; written against liger-kernel 0.8.5.
N learned tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


def fused_kernel(device: torch.device) -> Callable[..., Any] | None:
    """Liger's forward pass, which gives gradients too; None where there is no CUDA or no Liger."""
    return _liger() if device.type == "cuda" else None


@lru_cache(maxsize=1)
def _liger() -> Callable[..., Any] | None:
    try:
        from liger_kernel.ops.fused_linear_cross_entropy import fused_linear_cross_entropy_forward
    except ImportError:
        return None
    return fused_linear_cross_entropy_forward


class FusedCrossEntropy(torch.autograd.Function):
    """Token losses and, in the same pass, the gradients of their sum."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        head_VD: Tensor,
        targets_N: Tensor,
        softcap: float | None,
        z_loss: float,
        compute: torch.dtype,
        kernel: Callable[..., Any],
    ) -> Any:
        needs_hidden, needs_head = ctx.needs_input_grad[:2]
        sums_N, z_N, _, _, grad_hidden, grad_head, _ = kernel(
            hidden_ND.detach().to(compute),
            head_VD.detach().to(compute),
            targets_N,
            lse_square_scale=z_loss,
            reduction="none",
            softcap=softcap,
            return_z_loss=True,
            accum_dtype=torch.float32,
            compute_gradients=needs_hidden or needs_head,
            weight_requires_grad=needs_head,
        )
        ctx.save_for_backward(grad_hidden if needs_hidden else None, grad_head if needs_head else None)
        ctx.dtypes = hidden_ND.dtype, head_VD.dtype
        losses_N = sums_N.float() - z_N.float()
        ctx.mark_non_differentiable(losses_N)
        return sums_N.float().sum(), losses_N

    @staticmethod
    def backward(ctx: Any, grad_sum: Tensor, _: Tensor) -> Any:
        gradients = [
            None if gradient is None else (gradient * grad_sum).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return (*gradients, None, None, None, None, None)
