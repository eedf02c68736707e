"""Copies of remote objects on this machine: what was longest unused makes room for others.

Below a cache's folder are files, `<version>/<name>`, and folders of models, `trees/<digest>`. Each was last
used when its copy, or the folder's marker, was last changed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ddt.store.base import unique_name
from ddt.store.tree import MARKER

TREES = "trees"
MOST_OF_DISK = 0.5  # of what would be free without the cache
# Who was given a copy opens it at once, and what is open outlives its name; a model's files take their time.
FILE_GRACE_S, TREE_GRACE_S = 600.0, 24 * 3600.0


@dataclass(frozen=True)
class Copy:
    """A file, or a model's folder."""

    path: Path
    bytes: int
    used: float


def mark_used(path: Path) -> None:
    """Says that a copy is in use; it may have gone meanwhile."""
    with contextlib.suppress(OSError):
        os.utime(path)


def make_room(folder: Path, most_bytes: int | None = None) -> list[Path]:
    """Removes copies, the longest unused first, until they have `most_bytes` at most; returns which.

    most_bytes: None for half of what the disk has beside other files. What was used a moment ago stays.
    """
    copies = sorted(_copies(folder), key=lambda copy: copy.used)
    size = sum(copy.bytes for copy in copies)
    if most_bytes is None:
        most_bytes = int((shutil.disk_usage(folder).free + size) * MOST_OF_DISK)
    removed, now = [], time.time()
    for copy in copies:
        if size <= most_bytes:
            break
        if now - copy.used > (TREE_GRACE_S if copy.path.parent.name == TREES else FILE_GRACE_S):
            _remove(copy.path)
            removed.append(copy.path)
            size -= copy.bytes
    return removed


def _copies(folder: Path) -> Iterator[Copy]:
    for entry in _entries(folder):
        if entry.name == TREES:
            for tree in _entries(Path(entry.path)):
                marker = Path(tree.path) / MARKER
                if marker.is_file():
                    files = [path.stat().st_size for path in Path(tree.path).rglob("*") if path.is_file()]
                    yield Copy(Path(tree.path), sum(files), marker.stat().st_mtime)
        elif len(entry.name) == 32:
            for file in _entries(Path(entry.path)):
                with contextlib.suppress(FileNotFoundError):  # removed by another process
                    facts = file.stat()
                    yield Copy(Path(file.path), facts.st_size, facts.st_mtime)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder but for what is being written."""
    try:
        return [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _remove(path: Path) -> None:
    """A tree goes in one step, so that nobody finds half of one."""
    with contextlib.suppress(OSError):
        if path.is_dir():
            gone = path.with_name(f".{unique_name()}")
            path.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
        else:
            path.unlink()
            path.parent.rmdir()
