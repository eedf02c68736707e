"""Models between stages: complete folders in the store, found through a stage's manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ddt.hub import local_folder
from ddt.manifest import Commit, Manifest, commit, shard_prefix
from ddt.params import Params
from ddt.store import MARKER, Store, folder_digest, open_store, require_complete
from pipelines.services import tracking


def publish_model(
    store: Store, stage: str, fingerprint: str, folder: Path, rows: int, stats: dict[str, Any]
) -> Commit:
    """Put a complete model folder in the store and commit it as the stage's one unit."""
    prefix = f"{shard_prefix(stage, fingerprint)}model"
    store.put_tree(prefix, folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    done = Commit(fingerprint[:32], f"{prefix}/{MARKER}", rows, size, folder_digest(folder), stats=stats)
    return commit(store, stage, fingerprint, done)


def model_key(manifest: Manifest) -> str:
    """Store prefix of the model a training stage made."""
    return manifest.commits[0].key.removesuffix(f"/{MARKER}")


def model_folder(store: Store, manifest: Manifest) -> Path:
    """Local folder with the model a training stage made."""
    return store.fetch_tree(model_key(manifest))


def image_tokenizer_folder(folder: Path) -> Path:
    """Where a folder's image tokenizer is: inside a language model's, or the folder itself."""
    inner = folder / "image_tokenizer"  # as ddt.mllm.folder names it, which would import torch
    return inner if inner.is_dir() else folder


def find_model(reference: str, params: Params | None) -> Path:
    """Local folder of a model: a folder, a hub id, models:/<name>@<alias> or models:/<name>/<version>.

    `params` say where the registry is. Raises ValueError in one line where there is no such model.
    """
    if not reference.startswith("models:"):
        return require_complete(local_folder(reference))
    name, separator, which = _split_reference(reference)
    if not (reference.startswith("models:/") and name and which):
        raise ValueError(f"{reference}: expected models:/<name>@<alias> or models:/<name>/<version>")
    assert params is not None  # who takes references of the registry reads them
    version = tracking.version_by_alias(params.tracking, name, which)
    if version is None:
        kind = "alias" if separator == "@" else "version"
        raise ValueError(f"{reference}: no such {kind} in {params.tracking.uri}; has the pipeline been run?")
    root, marker, prefix = version.source.partition("/shards/")
    return open_store(root.removeprefix("file://")).fetch_tree(f"shards/{prefix}" if marker else prefix)


def _split_reference(reference: str) -> tuple[str, str, str]:
    rest = reference.removeprefix("models:/")
    separator = "@" if "@" in rest else "/"
    name, _, which = rest.partition(separator)
    return name, separator, which
