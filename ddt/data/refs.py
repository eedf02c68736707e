"""References to pretrained checkpoints: `scenes:<name>`, a local folder, or a hub id."""

from __future__ import annotations

from pathlib import Path

from ddt.store import folder_digest

SCENES_PREFIX = "scenes:"


def resolve(reference: str) -> str:
    """`scenes:<name>` as the folder of that judge's weights; a folder or hub id as it is."""
    if not reference.startswith(SCENES_PREFIX):
        return reference
    from ddt.scenes import weights_dir

    return str(weights_dir(reference.removeprefix(SCENES_PREFIX)))


def check_reference(key: str, reference: str) -> None:
    """ValueError naming the parameter where `reference` is a path, or a judge, that is not there."""
    path = Path(resolve(reference))
    if (path.is_absolute() or reference.startswith(".")) and not path.is_dir():
        raise ValueError(
            f"{key} = {reference}: no such folder; expected one, a hub id or {SCENES_PREFIX}<name>"
        )


def model_digest(reference: str) -> str:
    """Identity of a checkpoint: the digest of a folder's content; a hub id as it is."""
    folder = Path(resolve(reference))
    return folder_digest(folder) if folder.is_dir() else reference
