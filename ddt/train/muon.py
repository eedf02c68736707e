"""Muon (torch's) for many small matrices: those of one shape go through the iteration together.

torch's takes one matrix after the other, which on small ones is mostly the start of operations: a fifth to a
quarter of a training step of the default profile. Where several processes train copies of the model each
does its share of the matrices, and all of them get the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ddt.train.distributed import rank_and_world
from ddt.train.precision import has_bf16


class Muon(torch.optim.Muon):
    """torch.optim.Muon, with steps as large as AdamW's ("match_rms_adamw"); equal up to bfloat16."""

    def __init__(self, parameters: list[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of all matrices that have a gradient."""
        if closure is not None:
            raise ValueError("closure: this optimizer takes none")
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            directions = orthogonalized(self._momentum(moved, group), group)
            torch._foreach_mul_(moved, 1 - group["lr"] * group["weight_decay"])
            for parameter, direction in zip(moved, directions, strict=True):
                parameter.add_(direction, alpha=-group["lr"] * 0.2 * max(parameter.shape) ** 0.5)

    def _momentum(self, moved: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        """Nesterov's look-ahead along the running mean of the gradients."""
        gradients = [p.grad for p in moved if p.grad is not None]
        for parameter in moved:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        means = [self.state[p]["momentum_buffer"] for p in moved]
        torch._foreach_lerp_(means, gradients, 1 - group["momentum"])
        return list(torch._foreach_lerp(gradients, means, group["momentum"]))


def orthogonalized(matrices: list[Tensor], settings: dict[str, Any]) -> list[Tensor]:
    """Each matrix with its singular values near 1.

    `settings` are Muon's: ns_coefficients, ns_steps, eps. Matrices of one shape, lying or standing, are one
    batch. Of several processes, which all have the same matrices, each does its part of every batch. In
    bfloat16 as torch does; in float32 where the machine only emulates that, at three quarters of a step.
    """
    dtype = torch.bfloat16 if has_bf16(matrices[0].device) else torch.float32
    batches: dict[tuple[int, ...], list[int]] = {}
    for index, matrix in enumerate(matrices):
        batches.setdefault(tuple(sorted(matrix.shape)), []).append(index)
    rank, world = rank_and_world()
    shares = {shape: -(-len(indices) // world) for shape, indices in batches.items()}
    own = []
    for shape, indices in batches.items():
        part = indices[rank * shares[shape] : (rank + 1) * shares[shape]]
        lying = [matrices[index] if matrices[index].shape == shape else matrices[index].T for index in part]
        done = (
            newton_schulz(torch.stack(lying).to(dtype), settings)
            if part
            else _nothing(matrices, shape, dtype)
        )
        own.append(torch.cat([done, done.new_zeros(shares[shape] - len(part), *shape)]))
    result = list(matrices)
    for (shape, indices), every in zip(batches.items(), _of_all(own, world), strict=True):
        for index, direction in zip(indices, every, strict=False):  # the last ones only fill up
            result[index] = direction if matrices[index].shape == shape else direction.T
    return result


def _nothing(matrices: list[Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return matrices[0].new_empty(0, *shape, dtype=dtype)


def newton_schulz(x_BMN: Tensor, settings: dict[str, Any]) -> Tensor:
    """Muon's quintic iteration on matrices with M <= N; their singular values end at about 0.7 to 1.2."""
    a, b, c = settings["ns_coefficients"]
    x_BMN = x_BMN / x_BMN.norm(dim=(-2, -1), keepdim=True).clamp(min=settings["eps"])
    for _ in range(settings["ns_steps"]):
        gram_BMM = x_BMN @ x_BMN.mT
        update_BMM = torch.baddbmm(gram_BMM, gram_BMM, gram_BMM, beta=b, alpha=c)
        x_BMN = torch.baddbmm(x_BMN, update_BMM, x_BMN, beta=a)
    return x_BMN


def _of_all(own: list[Tensor], world: int) -> list[Tensor]:
    """The batches of all processes joined, each [world * share, M, N]."""
    if world == 1:
        return own
    sent = torch.cat([batch.flatten() for batch in own])
    every = sent.new_empty(world * len(sent))
    dist.all_gather_into_tensor(every, sent)
    parts = every.view(world, -1).split([batch.numel() for batch in own], dim=1)
    return [part.reshape(-1, *batch.shape[1:]) for part, batch in zip(parts, own, strict=True)]
