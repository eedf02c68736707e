"""What a run changes, as the groups of a checkpoint: weights, the optimizer's state and the averages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ddt.train.checkpoint import Checkpoints, Position
from ddt.train.ema import Ema
from ddt.train.optimizer import Optimizer
from ddt.train.parallel import is_sharded
from ddt.train.state import blank_optimizer, load_model, load_optimizer, model_tensors, optimizer_tensors


def tensor_groups(model: nn.Module, optimizer: Optimizer, ema: Ema | None) -> dict[str, Mapping[str, Tensor]]:
    """The tensors themselves, not copies."""
    groups: dict[str, Mapping[str, Tensor]] = {
        "model": model_tensors(model),
        "optimizer": optimizer_tensors(model, optimizer),
    }
    return groups if ema is None else groups | {"ema": ema.weights}


def load_groups(
    checkpoints: Checkpoints, position: Position, model: nn.Module, optimizer: Optimizer, ema: Ema | None
) -> dict[str, Any]:
    """Takes a checkpoint's tensors over, in place; its state. ValueError where they do not fit."""
    if is_sharded(model_tensors(model).values()):
        # Each process reads what it holds, and no more, whatever layout the checkpoint has.
        blank_optimizer(model, optimizer, checkpoints.stored(position, "optimizer"))
        return checkpoints.load_into(position, tensor_groups(model, optimizer, ema))
    groups, state = checkpoints.load(position)
    load_model(model, groups["model"])
    load_optimizer(model, optimizer, groups["optimizer"])
    if ema is not None:
        ema.load(groups.get("ema", {}))
    return state
