"""Folders that are complete or not there at all: checkpoints, tokenizers, models.

The marker `_COMPLETE` is written last and lists every file with its size and sha256, so that a reader can
refuse a folder whose writer was killed, and can tell what a complete one holds.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from ddt.store.base import StoreError, sha256_file, unique_name

MARKER = "_COMPLETE"

Files = dict[str, dict[str, int | str]]  # relative POSIX path -> {bytes, sha256}


def tree_files(folder: str | Path) -> Files:
    """Relative POSIX path -> {bytes, sha256} of every file in the folder but the marker, sorted by path.

    Links are refused: what they point at is not part of the folder.
    """
    root = Path(folder)
    files: Files = {}
    for path in sorted(root.rglob("*"), key=lambda p: p.relative_to(root).as_posix()):
        if path.is_symlink():
            raise StoreError(f"{path}: a model folder may not hold links")
        if path.is_file() and path != root / MARKER:
            name = path.relative_to(root).as_posix()
            files[name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    return files


def files_digest(files: Files) -> str:
    """Hex sha256 over sorted (path, sha256): the identity of a folder's content."""
    lines = "".join(f"{name}\n{files[name]['sha256']}\n" for name in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def folder_digest(folder: str | Path) -> str:
    """The identity of a folder's content: paths and bytes of its files, the marker left out."""
    return files_digest(tree_files(folder))


def marker_bytes(files: Files) -> bytes:
    """The content of `_COMPLETE` for these files."""
    content = {"digest": files_digest(files), "files": files}
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def mark_complete(folder: str | Path) -> str:
    """Writes `_COMPLETE` as the last act of making a folder; returns the folder's digest."""
    files = tree_files(folder)
    temporary = Path(folder) / f".{unique_name()}"
    temporary.write_bytes(marker_bytes(files))
    os.replace(temporary, Path(folder) / MARKER)
    return files_digest(files)


def require_complete(folder: str | Path) -> Path:
    """The folder as a Path if it has its marker and every file in its size, else a StoreError that says what
    is wrong. The digests are not computed again: that would read terabytes.
    """
    root = Path(folder)
    if not root.is_dir():
        raise StoreError(f"{root}: no such folder")
    if not (root / MARKER).is_file():
        raise StoreError(f"{root}: incomplete, it has no {MARKER}; its writer was interrupted, make it again")
    for name, entry in marked_files(root / MARKER, (root / MARKER).read_bytes()).items():
        path = root / name
        found = path.stat().st_size if path.is_file() else None
        if found != entry["bytes"]:
            state = "missing" if found is None else f"{found} bytes"
            raise StoreError(f"{path}: {state}, expected {entry['bytes']} bytes; the folder is damaged")
    return root


def marked_digest(folder: str | Path) -> str:
    """The digest of a complete folder as its marker has it; read anew where the marker only marks."""
    marker = require_complete(folder) / MARKER
    text = marker.read_bytes()
    return files_digest(marked_files(marker, text)) if text else folder_digest(folder)


def marked_files(marker: Path | str, text: bytes) -> Files:
    """What the text of a marker lists; nothing where it only marks (a model saved outside of a store)."""
    try:
        return json.loads(text)["files"] if text else {}
    except (ValueError, KeyError, TypeError):
        raise StoreError(f"{marker}: damaged, expected the list of the folder's files") from None
