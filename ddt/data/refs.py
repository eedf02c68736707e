"""References to pretrained checkpoints: `scenes:<name>`, `store:<prefix>`, a local folder, or a hub id."""

from __future__ import annotations

from pathlib import Path

from ddt.store import Store, folder_digest

SCENES_PREFIX = "scenes:"
STORE_PREFIX = "store:"  # a model that a stage made, where it may be on another machine


def resolve(reference: str, store: Store | None = None) -> str:
    """`scenes:<name>` as the folder of that judge's weights; a folder or hub id as it is.

    `store:<prefix>`, for those who give the store, as a local folder with what it has there.
    """
    if reference.startswith(STORE_PREFIX):
        if store is None:
            raise ValueError(
                f"{reference}: expected a folder or hub id; pretrain.init alone is read from there"
            )
        return str(store.fetch_tree(reference.removeprefix(STORE_PREFIX)))
    if not reference.startswith(SCENES_PREFIX):
        return reference
    from ddt.scenes import weights_dir

    return str(weights_dir(reference.removeprefix(SCENES_PREFIX)))


def check_reference(key: str, reference: str) -> None:
    """ValueError naming the parameter where `reference` is a path, or a judge, that is not there."""
    if reference.startswith(STORE_PREFIX):
        return
    path = Path(resolve(reference))
    if (path.is_absolute() or reference.startswith(".")) and not path.is_dir():
        raise ValueError(
            f"{key} = {reference}: no such folder; expected one, a hub id or {SCENES_PREFIX}<name>"
        )


def model_digest(reference: str) -> str:
    """Identity of a checkpoint: the digest of a folder's content; a hub id or place in the store as it is.

    What a stage made is kept under its fingerprint and never changes.
    """
    if reference.startswith(STORE_PREFIX):
        return reference
    folder = Path(resolve(reference))
    return folder_digest(folder) if folder.is_dir() else reference
