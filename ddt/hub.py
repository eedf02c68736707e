"""Models of ours on the Hugging Face hub: the folders that `save_pretrained` writes, uploaded as they are."""

from __future__ import annotations

import re
from pathlib import Path

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
# What the folders hold. Nothing else of a repository is fetched: no code, nothing that would be unpickled.
PATTERNS = ["*.safetensors", "*.json", "*.jinja", "*.md", "*.txt", "*_COMPLETE"]


def local_folder(reference: str | Path) -> Path:
    """A folder as it is, or that of a hub id `owner/name`, downloaded where it is not in the hub's cache.

    A folder that is there comes before a hub id of the same name. ValueError in one line where the hub can't
    be reached or has no such model.
    """
    folder = Path(reference)
    if folder.exists() or not HUB_ID.fullmatch(str(reference)):
        return folder
    from huggingface_hub import snapshot_download  # takes a while, and folders need none of it

    try:
        return Path(snapshot_download(str(reference), allow_patterns=PATTERNS))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{reference}: no such folder, and none from the hub ({reason})") from None
