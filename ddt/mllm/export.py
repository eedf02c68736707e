"""A model of any parallel layout as one ordinary Hugging Face folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from ddt.train.distributed import barrier, rank_and_world
from ddt.train.parallel import is_sharded

# It warns that gathering a weight split twice takes two collectives: here it has to.
logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)

MAX_FILE_BYTES = 5 << 30  # Transformers' own default


def save_model(model: PreTrainedModel, folder: Path, max_file_bytes: int = MAX_FILE_BYTES) -> None:
    """Writes config and weights as `model.save_pretrained` does, also where they are spread over processes.

    Every process must call it then; rank 0 writes, and never holds more than one file's weights at a time.
    """
    if not is_sharded(model.parameters()):
        model.save_pretrained(folder, max_shard_size=max_file_bytes)
        return
    is_writer = rank_and_world()[0] == 0
    plan = _plan(model, max_file_bytes)
    if is_writer:
        folder.mkdir(parents=True, exist_ok=True)
        model.config.architectures = [_architecture(model)]
        model.config.save_pretrained(folder)
        if model.generation_config is not None:
            model.generation_config.save_pretrained(folder)
        _write_index(folder, plan)
    for file, names in plan.items():
        weights = dict(_gathered(model, names))
        if is_writer:
            save_file(weights, folder / file, {"format": "pt"})
    barrier()


def _plan(model: PreTrainedModel, max_file_bytes: int) -> dict[str, dict[str, int]]:
    """File -> name and bytes of the whole weights in it. A tied weight appears once."""
    files: list[dict[str, int]] = [{}]
    for name, parameter in model.named_parameters():
        size = parameter.numel() * parameter.element_size()
        if files[-1] and sum(files[-1].values()) + size > max_file_bytes:
            files.append({})
        files[-1][name] = size
    if len(files) == 1:
        return {"model.safetensors": files[0]}
    return {f"model-{i:05d}-of-{len(files):05d}.safetensors": part for i, part in enumerate(files, start=1)}


@torch.no_grad()
def _gathered(model: PreTrainedModel, names: dict[str, int]) -> Iterator[tuple[str, Tensor]]:
    is_writer = rank_and_world()[0] == 0
    parameters = dict(model.named_parameters())
    for name in names:
        parameter = parameters[name]
        whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter.detach()
        if is_writer:
            yield name, whole.cpu().contiguous()


def _write_index(folder: Path, plan: dict[str, dict[str, int]]) -> None:
    if len(plan) == 1:
        return
    weight_map = {name: file for file, names in plan.items() for name in names}
    total = sum(size for names in plan.values() for size in names.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _architecture(model: PreTrainedModel) -> str:
    # FSDP2 gives each module it wraps a class of its own, named after the first.
    return type(model).__name__.removeprefix("FSDP")
