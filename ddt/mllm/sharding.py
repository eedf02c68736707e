"""Language models spread over processes, with weights read from a checkpoint straight into the shards.

The model is built without data, split and sharded, and only then given memory: each process reads from the
safetensors files the slices that it holds, so that none ever has a whole weight. D width, V vocabulary.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from ddt.hub import local_folder
from ddt.mllm.build import attention_kind, load_config
from ddt.mllm.loss import LanguageModelLoss
from ddt.mllm.new_rows import NewRows
from ddt.mllm.parallel_plan import split_layers
from ddt.mllm.vocabulary import EMBEDDINGS, Vocabulary, check_rows
from ddt.train.parallel import TENSOR, ShardedLoss, local, shard

ROWS_AT_ONCE = 1 << 10


def shard_model(
    model: PreTrainedModel, loss: LanguageModelLoss, mesh: DeviceMesh, bf16: bool = False
) -> ShardedLoss:
    """`model` in place over a mesh (shard, tensor): layers split along the second, weights along the first.

    Every process must hold the same weights, or none (meta device). ValueError where heads don't divide.
    """
    if mesh[TENSOR].size() > 1:
        split_layers(model, mesh[TENSOR])
    return shard(model, model.model.layers, loss, mesh, bf16)


def load_sharded(
    path: str | Path,
    vocabulary: Vocabulary,
    loss: LanguageModelLoss,
    mesh: DeviceMesh,
    bf16: bool = False,
    new_rows: NewRows | None = None,
) -> tuple[PreTrainedModel, ShardedLoss]:
    """A checkpoint's model in float32 over the mesh, its embeddings extended to `vocabulary` where smaller.

    New rows begin as in `extend_embeddings`. Raises ValueError for another model class, fewer rows than text
    ids, or files that lack a weight or hold one of another shape, before weights are read.
    """
    config = load_config(path)
    files = weight_files(local_folder(path))
    stored_rows = _stored_shape(files, EMBEDDINGS[0])[0]
    check_rows(stored_rows, vocabulary)
    config.vocab_size = vocabulary.size
    device = torch.device(mesh.device_type)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, attn_implementation=attention_kind(device, config), dtype=torch.float32
        )
    check_weights(model, files)
    sharded = shard_model(model, loss, mesh, bf16)
    sharded.to_empty(device=device)
    _fill_buffers(model, config)
    known = vocabulary.size if stored_rows == vocabulary.size else vocabulary.text_size
    read_weights(model, files, known, new_rows or NewRows())
    return model, sharded


def weight_files(folder: Path) -> dict[str, Path]:
    """Tensor name -> the safetensors file that holds it; ValueError where the folder has none."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            weight_map = json.loads(index.read_text())["weight_map"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{index}: not an index of weights") from None
        return {name: folder / file for name, file in weight_map.items()}
    whole = folder / "model.safetensors"
    if not whole.is_file():
        raise ValueError(f"{folder}: neither {index.name} nor {whole.name} in it")
    with _open(whole) as file:
        return dict.fromkeys(file.keys(), whole)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    try:
        opened = safe_open(path, "pt")
    except (FileNotFoundError, SafetensorError) as error:  # missing or cut
        raise ValueError(f"{path}: can't be read ({error})") from None
    with opened as file:
        yield file


def _stored_shape(files: dict[str, Path], name: str) -> list[int]:
    if name not in files:
        raise ValueError(f"the checkpoint lacks {name!r}, which a Llama- or Gemma-2-class model has")
    with _open(files[name]) as file:
        return file.get_slice(name).get_shape()


def check_weights(model: PreTrainedModel, files: dict[str, Path]) -> None:
    """ValueError where the files lack a weight of `model` or hold another shape; embeddings may grow."""
    for name, parameter in model.named_parameters():
        stored, skipped = _stored_shape(files, name), int(name in EMBEDDINGS)
        if stored[skipped:] != list(parameter.shape[skipped:]):
            raise ValueError(
                f"the checkpoint holds {name!r} of shape {stored}, its config says {list(parameter.shape)}"
            )


@torch.no_grad()
def read_weights(model: PreTrainedModel, files: dict[str, Path], known_rows: int, new_rows: NewRows) -> None:
    """Fills what this process holds of each parameter; `new_rows` gives embedding rows past the known."""
    for name, parameter in model.named_parameters():
        with _open(files[name]) as file:
            stored, held = file.get_slice(name), local(parameter)
            if not held.numel():
                continue
            begin = _offsets(parameter)
            if name in EMBEDDINGS:
                _read_rows(stored, held, begin, known_rows, new_rows, name)
            else:
                held.copy_(stored[tuple(slice(b, b + n) for b, n in zip(begin, held.shape, strict=True))])


def _read_rows(
    stored: Any, held_VD: Tensor, begin: tuple[int, ...], known_rows: int, new_rows: NewRows, name: str
) -> None:
    """Rows of an embedding in small pieces; new ones as in extend_embeddings."""
    first, last = begin[0], begin[0] + len(held_VD)
    read = max(0, min(last, known_rows) - first)
    for start in range(0, read, ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, read)
        held_VD[start:stop] = stored[first + start : first + stop]
    if last > known_rows:
        sums_2D = torch.zeros(2, held_VD.shape[1], dtype=torch.float64)
        for start in range(0, known_rows, ROWS_AT_ONCE):
            part_nD = stored[start : min(start + ROWS_AT_ONCE, known_rows)].double()
            sums_2D += torch.stack([part_nD.sum(dim=0), part_nD.square().sum(dim=0)])
        mean_D, square_D = sums_2D / known_rows
        std_D = (square_D - mean_D.square()).clamp(min=0).sqrt()
        new_rows.fill(held_VD[read:], first + read, mean_D, std_D, name)


def _offsets(parameter: nn.Parameter) -> tuple[int, ...]:
    """Where in the whole parameter this process's part begins."""
    chunks = getattr(parameter, "__create_chunk_list__", None)  # what torch.distributed.checkpoint asks too
    return (0,) * parameter.dim() if chunks is None else tuple(chunks()[0].offsets)


def _fill_buffers(model: PreTrainedModel, config: PreTrainedConfig) -> None:
    """Rotary frequencies and the like, which no checkpoint holds, from a model of no layers and one id."""
    bare = copy.deepcopy(config)
    bare.num_hidden_layers, bare.vocab_size, bare.pad_token_id = 0, 1, None
    if getattr(bare, "layer_types", None):
        bare.layer_types = []
    values = dict(AutoModelForCausalLM.from_config(bare).named_buffers())
    for name, buffer in model.named_buffers():
        buffer.copy_(values[name])
