"""A saved tokenizer: model.safetensors, config.json, README.md, and a `_COMPLETE` marker written last.

The same for its renderer and for the baselines; `model_type` tells them apart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddt.config import build, to_dict

WEIGHTS, CONFIG, CARD, MARKER = "model.safetensors", "config.json", "README.md", "_COMPLETE"
# 6: the digest of the VAE; 7: no regions, no shared query, the guess of x_0 is the decoder's skip
FORMAT_VERSION = 7
C = TypeVar("C")


def digest(config: Any, tensors: Mapping[str, Tensor]) -> str:
    """Hex sha256 over the configuration and every tensor's name, dtype, shape and bytes."""
    return digest_tensors(tensors, json.dumps(to_dict(config), sort_keys=True))


def digest_tensors(tensors: Mapping[str, Tensor], said: str = "") -> str:
    """Hex sha256 over what is said of the tensors, and each one's name, dtype, shape and bytes."""
    sha = hashlib.sha256(said.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def save(
    path: Path,
    model_type: str,
    config: Any,
    tensors: Mapping[str, Tensor],
    made_from: Mapping[str, str],
    card: str,
) -> None:
    """Writes the folder; while it is being written it has no marker, so no reader takes it."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path}: is a file, expected a folder to write")
    path.mkdir(parents=True, exist_ok=True)
    (path / MARKER).unlink(missing_ok=True)
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, path / WEIGHTS, metadata={"format": "pt"})
    described = {
        "model_type": model_type,
        "format_version": FORMAT_VERSION,
        "digest": digest(config, contiguous),
        "made_from": dict(made_from),
        "config": to_dict(config),
    }
    (path / CONFIG).write_text(json.dumps(described, indent=2) + "\n")
    (path / CARD).write_text(card)
    (path / MARKER).touch()


def load(path: Path, model_type: str, config_class: type[C]) -> tuple[C, dict[str, Tensor]]:
    """Configuration and tensors of a folder; ValueError if it is missing, incomplete, damaged or foreign."""
    described = describe(path)
    kind = (described.get("model_type"), described.get("format_version"))
    if kind != (model_type, FORMAT_VERSION):
        raise ValueError(
            f"{path / CONFIG}: is {kind[0]} version {kind[1]}, expected {model_type} version {FORMAT_VERSION}"
        )
    missing = sorted({"config", "digest"} - described.keys())
    if missing:
        raise ValueError(f"{path / CONFIG}: lacks {', '.join(missing)}; expected what save_pretrained writes")
    config = build(config_class, described["config"], f"{path / CONFIG}: config")
    try:
        tensors = load_file(path / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path / WEIGHTS}: cannot be read ({error})") from None
    expected = str(described["digest"])
    if digest(config, tensors) != expected:
        raise ValueError(
            f"{path}: weights and configuration do not have the digest {expected[:12]}… they name"
        )
    return config, tensors


def describe(path: Path) -> dict[str, Any]:
    """What config.json of a complete folder says; ValueError if there is none or it is not complete."""
    if not path.is_dir():
        raise ValueError(f"{path}: no such folder; expected one that save_pretrained wrote")
    if not (path / MARKER).exists():
        raise ValueError(f"{path}: has no {MARKER} marker, so it was not written to its end")
    try:
        described = json.loads((path / CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path / CONFIG}: cannot be read ({error})") from None
    if not isinstance(described, dict):
        raise ValueError(f"{path / CONFIG}: is a {type(described).__name__}; expected a mapping")
    return described
