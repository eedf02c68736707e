"""What the loop does to a batch without knowing what is in it: split it, move it, draw its random numbers."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor


class Batches(Protocol):
    """Training data by step. The same (step, rank, world) always gives the same batch.

    The slices of all ranks make up the global batch of that step, whatever `world` is: all have as many rows,
    and the mean of their mean losses is the global batch's. ValueError for a `world` where that can't be.
    """

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Any: ...


def map_tensors(batch: Any, function: Any) -> Any:
    """`batch` with `function` applied to every tensor in its mappings, sequences and dataclasses."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, Mapping):
        return {key: map_tensors(value, function) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(map_tensors(value, function) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(map_tensors(value, function) for value in batch)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        fields = {f.name: map_tensors(getattr(batch, f.name), function) for f in dataclasses.fields(batch)}
        return dataclasses.replace(batch, **fields)
    return batch


def to_device(batch: Any, device: torch.device) -> Any:
    """`batch` with its tensors on `device`. CUDA copies them in its own time, which takes pinned memory."""
    if device.type == "cpu":
        return batch
    ready = pinned(batch) if device.type == "cuda" else batch
    return map_tensors(ready, lambda tensor: tensor.to(device, non_blocking=True))


def pinned(batch: Any) -> Any:
    """`batch` in memory that a CUDA device reads by itself: from other memory a copy waits for the device.

    Tensors that are there already, or on a device, stay as they are.
    """
    return map_tensors(batch, lambda tensor: tensor if tensor.is_cuda else tensor.pin_memory())


def rows(batch: Any) -> int:
    """Samples in `batch`: the first dimension of its first tensor."""
    sizes: list[int] = []
    map_tensors(batch, lambda tensor: sizes.append(len(tensor) if tensor.dim() else 0))
    if not sizes:
        raise ValueError(f"a batch of type {type(batch).__name__} holds no tensor to count samples by")
    return sizes[0]


def split(batch: Any, micro_batch: int | None) -> list[Any]:
    """`batch` in pieces of at most `micro_batch` samples, cut along the first dimension of its tensors."""
    total = rows(batch)
    if micro_batch is None or total <= micro_batch:
        return [batch]

    def cut(start: int) -> Any:
        # Tensors of another first dimension (a schedule, a mask shared by all) belong to every piece.
        def piece(tensor: Tensor) -> Tensor:
            whole = tensor.dim() == 0 or len(tensor) != total
            return tensor if whole else tensor[start : start + micro_batch]

        return map_tensors(batch, piece)

    return [cut(start) for start in range(0, total, micro_batch)]


def derive_seed(*parts: int) -> int:
    """A 63-bit seed that is a function of `parts` alone: random numbers need no stored state to resume."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
