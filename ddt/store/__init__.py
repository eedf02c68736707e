"""Where shards, commits and models live: a folder or s3://bucket/prefix, behind one small interface."""

from __future__ import annotations

from pathlib import Path

from ddt.store.base import Entry, NotFound, Store, StoreError, check_key, sha256_file
from ddt.store.digests import remembered_digest
from ddt.store.folder import FolderStore
from ddt.store.s3 import S3Store
from ddt.store.tree import MARKER, folder_digest, mark_complete, marked_digest, marked_files, require_complete

__all__ = [
    "MARKER",
    "Entry",
    "FolderStore",
    "NotFound",
    "S3Store",
    "Store",
    "StoreError",
    "check_key",
    "folder_digest",
    "mark_complete",
    "marked_digest",
    "marked_files",
    "open_store",
    "remembered_digest",
    "require_complete",
    "sha256_file",
]


def open_store(uri: str | Path, cache_dir: str | Path | None = None) -> Store:
    """The store at a folder's path or at s3://bucket/prefix.

    cache_dir: where copies of S3 objects are kept (default ~/.cache/ddt-llama); unused for a folder.
    Raises StoreError, in one line, where the place cannot be used.
    """
    text = str(uri)
    if text.startswith("s3://"):
        return S3Store(text, cache_dir)
    if "://" in text:
        raise StoreError(f"store {text!r}: want a folder or s3://bucket/prefix")
    if not text:
        raise StoreError("store: the path is empty; want a folder or s3://bucket/prefix")
    return FolderStore(text)
