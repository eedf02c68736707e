"""The optimizers of a run: AdamW, or Muon for the hidden matrices with AdamW for the rest."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ddt.train.config import FitConfig
from ddt.train.muon import Muon
from ddt.train.parallel import is_sharded


class Combined:
    """Several optimizers over disjoint parameters behind the part of the interface that `fit` uses.

    They share one `state`, so a checkpoint of it is a checkpoint of all.
    """

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self.optimizers = optimizers
        self.param_groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        self.state: defaultdict[Tensor, Any] = defaultdict(dict)
        self.grad_scale: Tensor | None = None
        self.found_inf: Tensor | None = None
        for optimizer in optimizers:
            optimizer.state = self.state

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)

    def step(self) -> None:
        """One step of all, unless `found_inf` says that a gradient is not finite.

        Muon does not take `found_inf` on the device, so an accelerator is waited for here.
        """
        if self.found_inf is not None and bool(self.found_inf):
            return
        for optimizer in self.optimizers:
            optimizer.step()


Optimizer = torch.optim.Optimizer | Combined


def build_optimizer(model: nn.Module, config: FitConfig) -> Optimizer:
    """What `config.optimizer` names. Matrices decay; biases, norms and other vectors do not."""
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if config.optimizer == "muon" and is_sharded(parameters.values()):
        raise ValueError("optimizer = muon: its matrices must be whole; expected adamw with sharded weights")
    hidden = {n for n, p in parameters.items() if config.optimizer == "muon" and is_hidden_matrix(n, p)}
    rest = [p for n, p in parameters.items() if n not in hidden]
    groups = [
        {"params": same, "weight_decay": decay}
        for decay, kind in (
            (config.weight_decay, [p for p in rest if p.dim() >= 2]),
            (0.0, [p for p in rest if p.dim() < 2]),
        )
        for same in _by_mesh(kind)
    ]
    # Fused also because it takes `found_inf`: a step that is not finite is then skipped on the device.
    adamw = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
    if not hidden:
        return adamw
    # Steps as large as AdamW's, so that one learning rate serves both.
    muon = Muon([parameters[name] for name in sorted(hidden)], config.lr, config.weight_decay)
    return Combined(muon, adamw)


def _by_mesh(parameters: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Parameters in groups that one fused step takes: DTensors of one mesh, or plain tensors."""
    groups: dict[Any, list[nn.Parameter]] = {}
    for parameter in parameters:
        mesh = parameter.device_mesh if isinstance(parameter, DTensor) else None
        groups.setdefault(mesh, []).append(parameter)
    return list(groups.values())


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon should move it: the matrices inside transformer blocks.

    Embeddings, heads and the adaLN modulation stay with AdamW: their rows are not one linear map.
    """
    parts = name.split(".")
    return parameter.dim() == 2 and bool({"blocks", "layers"} & set(parts)) and "modulation" not in parts
