"""Tensors spread over processes to and from safetensors files, through torch.distributed.checkpoint.

Each process writes one file with its own shards; where they belong is in the file's header. What was written
in one layout is read in any other, or whole. Nothing is pickled.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata


def save_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes this process's part into `folder`; every process must call it, each folder may be its own."""
    folder.mkdir(parents=True, exist_ok=True)
    dcp.save(dict(tensors), storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))


def load_shards(folder: Path, targets: Mapping[str, Tensor]) -> None:
    """Fills `targets` in place, whole or spread over processes, from all files of `folder`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        dcp.load(dict(targets), storage_reader=HuggingFaceStorageReader(str(folder)))


def stored_tensors(folder: Path) -> dict[str, Tensor]:
    """Name -> a tensor without data of the shape and type that lies in the files of `folder`."""
    found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {
        name: torch.empty(stored.size, dtype=stored.properties.dtype, device="meta")
        for name, stored in found.items()
        if isinstance(stored, TensorStorageMetadata)
    }


def load_whole(folder: Path) -> dict[str, Tensor]:
    """All tensors of `folder`, whole, on the CPU."""
    tensors = {
        name: torch.empty_like(stored, device="cpu") for name, stored in stored_tensors(folder).items()
    }
    load_shards(folder, tensors)
    return tensors
