"""A saved tokenizer: model.safetensors, config.json, and a `_COMPLETE` marker written last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddt.config import build, to_dict
from ddt.tokenizer.config import DDTConfig

WEIGHTS, CONFIG, MARKER = "model.safetensors", "config.json", "_COMPLETE"
MODEL_TYPE, FORMAT_VERSION = "ddt_tokenizer", 1


def digest(config: DDTConfig, tensors: Mapping[str, Tensor]) -> str:
    """Hex sha256 over the configuration and every tensor's name, dtype, shape and bytes."""
    sha = hashlib.sha256(json.dumps(to_dict(config), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def save(path: Path, config: DDTConfig, tensors: Mapping[str, Tensor], made_from: dict[str, str]) -> None:
    """Writes the folder; while it is being written it has no marker, so no reader takes it."""
    path.mkdir(parents=True, exist_ok=True)
    (path / MARKER).unlink(missing_ok=True)
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, path / WEIGHTS, metadata={"format": "pt"})
    described = {
        "model_type": MODEL_TYPE,
        "format_version": FORMAT_VERSION,
        "digest": digest(config, contiguous),
        "made_from": made_from,
        "config": to_dict(config),
    }
    (path / CONFIG).write_text(json.dumps(described, indent=2) + "\n")
    (path / MARKER).touch()


def load(path: Path) -> tuple[DDTConfig, dict[str, Tensor]]:
    """Configuration and tensors of a folder; ValueError if it is missing, incomplete, damaged or foreign."""
    if not path.is_dir():
        raise ValueError(f"{path}: no such folder; expected a saved DDT tokenizer")
    if not (path / MARKER).exists():
        raise ValueError(f"{path}: has no {MARKER} marker, so it was not written to its end")
    config, expected = _read_config(path / CONFIG)
    try:
        tensors = load_file(path / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path / WEIGHTS}: cannot be read ({error})") from None
    if digest(config, tensors) != expected:
        raise ValueError(
            f"{path}: weights and configuration do not have the digest {expected[:12]}… they name"
        )
    return config, tensors


def _read_config(path: Path) -> tuple[DDTConfig, str]:
    try:
        described = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from None
    kind = (described.get("model_type"), described.get("format_version"))
    if kind != (MODEL_TYPE, FORMAT_VERSION):
        raise ValueError(
            f"{path}: is {kind[0]} version {kind[1]}, expected {MODEL_TYPE} version {FORMAT_VERSION}"
        )
    return build(DDTConfig, described["config"], "config"), str(described["digest"])
