"""Weights that others saved are read from safetensors alone: any other file of weights would be unpickled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")
INDEX = "*.safetensors.index.json"  # of weights in several files: which tensor is in which
ADAPTER = "adapter_*"  # what peft saves; Transformers would load it into the model unasked
NO_SAFETENSORS = (
    "no safetensors; nothing is unpickled here: where it is trusted, convert it by from_pretrained and "
    "save_pretrained of its own class"
)


def check_safetensors(place: str, folder: str | Path) -> None:
    """ValueError in one line where the weights of a model's folder are not safetensors, or are an adapter's.

    `place` is what the message begins with. A hub id is left to its loader, which is told `use_safetensors`.
    """
    path = Path(folder)
    if not (path / "config.json").is_file():
        return
    found = [file.name for file in sorted(path.glob(ADAPTER))]
    if found:
        raise ValueError(f"{place}: holds an adapter ({found[0]}); merge it into its model and save that")
    found = list(_pickled(path))
    if found:
        more = f" and {len(found) - 1} more" if found[1:] else ""
        raise ValueError(f"{place}: holds {found[0]}{more}, {NO_SAFETENSORS}")


def why_not_loaded(error: Exception) -> str:
    """The first line of what a loader said; what to do where it found no safetensors, as on the hub."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return NO_SAFETENSORS if "file named" in first and ".safetensors" in first else first


def _pickled(folder: Path) -> Iterator[str]:
    """What would be unpickled: files that an index of safetensors names, or all where there are no others."""
    if any(folder.glob("*.safetensors")):
        indexed = {name for index in folder.glob(INDEX) for name in _files_of(index)}
        yield from sorted(name for name in indexed if not name.endswith(".safetensors"))
    else:
        yield from sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)


def _files_of(index: Path) -> list[str]:
    try:
        return [str(name) for name in json.loads(index.read_text())["weight_map"].values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []  # whoever reads the weights says so
