"""The state of a model and its optimizer as named tensors, ready for safetensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ddt.train.optimizer import Optimizer


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Trained parameters and persistent buffers of `model` by name; a tensor used twice appears once.

    Frozen parameters are those that the model was built with, and no part of a run's state.
    """
    tensors: dict[str, Tensor] = {n: p for n, p in model.named_parameters() if p.requires_grad}
    return {name: tensor.detach() for name, tensor in (tensors | persistent_buffers(model)).items()}


def persistent_buffers(model: nn.Module) -> dict[str, Tensor]:
    """The buffers that are part of the state: not those that are made from the configuration."""
    persistent = model.state_dict().keys()
    return {name: buffer for name, buffer in model.named_buffers() if name in persistent}


@torch.no_grad()
def load_model(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copies `tensors` into the parameters and buffers of `model`; ValueError where they do not fit."""
    own = model_tensors(model)
    check_same(tensors, own)
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


def check_same(stored: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """ValueError where a checkpoint has other tensors, or of other shapes, than the model."""
    for name in sorted(own.keys() ^ stored.keys()):
        raise ValueError(f"checkpoint and model differ in {name!r}: made by another model configuration")
    for name, tensor in own.items():
        if tensor.shape != stored[name].shape:
            saved = tuple(stored[name].shape)
            raise ValueError(f"checkpoint holds {name!r} of shape {saved}, the model {tuple(tensor.shape)}")


def optimizer_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as `<parameter>:<entry>`, for example `head.weight:exp_avg`."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}:{entry}": torch.as_tensor(value)
        for parameter, state in optimizer.state.items()
        for entry, value in state.items()
    }


def load_optimizer(model: nn.Module, optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Puts back what `optimizer_tensors` gave; ValueError for a parameter the model does not have."""
    parameters = dict(model.named_parameters())
    _check_known(tensors, parameters)
    optimizer.state.clear()
    for key, tensor in tensors.items():
        name, _, entry = key.rpartition(":")
        parameter = parameters[name]
        dtype = torch.float32 if entry == "step" else parameter.dtype
        optimizer.state[parameter][entry] = tensor.to(parameter.device, dtype, copy=True)


def blank_optimizer(model: nn.Module, optimizer: Optimizer, stored: Mapping[str, Tensor]) -> None:
    """Gives the optimizer state of the names in `stored`, all zero, spread as the parameters are."""
    parameters = dict(model.named_parameters())
    _check_known(stored, parameters)
    optimizer.state.clear()
    for key in stored:
        name, _, entry = key.rpartition(":")
        parameter = parameters[name].detach()
        blank = torch.zeros((), device=parameter.device) if entry == "step" else torch.zeros_like(parameter)
        optimizer.state[parameters[name]][entry] = blank


def _check_known(stored: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
    for name in sorted({key.rpartition(":")[0] for key in stored} - parameters.keys()):
        raise ValueError(f"checkpoint has optimizer state of {name!r}, which the model does not have")
