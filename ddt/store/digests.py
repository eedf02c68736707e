"""Digests of large files, remembered: terabytes are not read again to see that nothing has changed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from pathlib import Path

from ddt.store.base import sha256_file, unique_name
from ddt.store.s3 import default_cache_dir

LARGE_BYTES = 64 << 20  # a smaller file is read in less than a tenth of a second
SETTLED_SECONDS = 2.0  # a file changed since then may change again within one tick of the clock


def remembered_digest(path: str | Path) -> str:
    """Hex sha256 of a file; a large one is read again only where its size or one of its times is another.

    A file's content is its identity, but to read it is as slow as the stage that uses it. Among the times is
    that of the last change of status, which copying a file with its times does not set back.
    """
    file = Path(path).resolve()
    before = file.stat()
    if before.st_size < LARGE_BYTES:
        return sha256_file(file)
    name = f"{file}\n{before.st_size}\n{before.st_mtime_ns}\n{before.st_ctime_ns}"
    note = default_cache_dir() / "digests" / hashlib.sha256(os.fsencode(name)).hexdigest()
    with contextlib.suppress(OSError):
        return note.read_text()
    digest = sha256_file(file)
    if file.stat().st_ctime_ns == before.st_ctime_ns < (time.time() - SETTLED_SECONDS) * 1e9:
        with contextlib.suppress(OSError):  # no place for notes: read again next time
            note.parent.mkdir(parents=True, exist_ok=True)
            temporary = note.with_name(unique_name())
            temporary.write_text(digest)
            os.replace(temporary, note)
    return digest
