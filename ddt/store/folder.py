"""A store in a folder of a local or shared POSIX file system."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ddt.store.base import Entry, NotFound, Store, StoreError, check_key, unique_name
from ddt.store.tree import MARKER, files_digest, folder_digest, marker_bytes, require_complete, tree_files

TEMPORARY = ".tmp"  # inside the root: renames must stay on one file system
STALE_SECONDS = 7 * 24 * 3600  # a temporary file this old has lost its writer

_REASONS = {
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "operation not permitted (a store needs a file system with hard links)",
    errno.ENOTSUP: "the file system has no hard links, which a store needs",
    errno.ENOSPC: "no space left on the device",
    errno.EDQUOT: "disk quota exceeded",
    errno.ENOTDIR: "a part of this path is a file, not a folder",
    errno.EEXIST: "exists and is not a folder",
    errno.EISDIR: "is a folder, not a file",
}


@contextlib.contextmanager
def _clear_errors(place: str | Path) -> Iterator[None]:
    """Turns the operating system's errors into one line that names the place."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"{place}: not found") from error
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
        raise StoreError(f"{place}: {reason}") from error


def _sync(path: Path) -> None:
    """Data must reach the disk before the name that announces it does."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class FolderStore(Store):
    """Keys are relative paths; atomic by rename (put) and by hard link (put if absent)."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser().absolute()
        self.root_uri = str(self.root)
        if not self.root.is_dir():
            with _clear_errors(self.root):
                try:
                    self.root.mkdir(parents=True, exist_ok=True)
                except FileNotFoundError as error:  # /proc and the like
                    raise StoreError(f"{self.root}: no folder can be made here") from error
        self._remove_stale()

    def _remove_stale(self) -> None:
        """Temporary files of writers killed long ago; a store that cannot be written to keeps them."""
        with contextlib.suppress(OSError):
            for path in (self.root / TEMPORARY).iterdir():
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[Path]:
        path = self.root / TEMPORARY / unique_name()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def put_bytes(self, key: str, data: bytes) -> str:
        target = self._path(key)
        with _clear_errors(target), self._temporary() as temporary:
            temporary.write_bytes(data)
            self._move(temporary, target)
        return self.uri(key)

    def put_file(self, key: str, path: str | Path) -> str:
        target = self._path(key)
        with _clear_errors(target), self._temporary() as temporary:
            shutil.copyfile(path, temporary)
            self._move(temporary, target)
        return self.uri(key)

    def _move(self, temporary: Path, target: Path) -> None:
        _sync(temporary)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary, target)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        target = self._path(key)
        with _clear_errors(target), self._temporary() as temporary:
            temporary.write_bytes(data)
            _sync(temporary)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(temporary, target)  # unlike rename, fails where the name exists
            except FileExistsError:
                return False
        return True

    def get_bytes(self, key: str) -> bytes:
        path = self._path(key)
        with _clear_errors(path):
            return path.read_bytes()

    def fetch(self, key: str) -> Path:
        path = self._path(key)
        if not path.is_file():
            raise NotFound(f"{path}: not found")
        return path

    def open(self, key: str) -> BinaryIO:
        return self.fetch(key).open("rb")

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def delete(self, key: str) -> None:
        path = self._path(key)
        with _clear_errors(path):
            path.unlink(missing_ok=True)

    def entries(self, prefix: str = "") -> list[Entry]:
        found = []
        for key in self.list(prefix):
            with contextlib.suppress(FileNotFoundError):  # deleted since it was listed
                facts = (self.root / key).stat()
                found.append(Entry(key, facts.st_size, facts.st_mtime))
        return found

    def list(self, prefix: str = "") -> list[str]:
        parent, _, beginning = prefix.rpartition("/")
        start, keys = self.root / parent, []
        for folder, folders, files in os.walk(start):
            if folder == str(start):  # the store may hold thousands of folders beside those that are meant
                folders[:] = [name for name in folders if name.startswith(beginning)]
            folders[:] = [name for name in folders if not name.startswith(".")]
            base = Path(folder).relative_to(self.root).as_posix()
            keys += [name if base == "." else f"{base}/{name}" for name in files if not name.startswith(".")]
        return sorted(key for key in keys if key.startswith(prefix))

    def put_tree(self, prefix: str, folder: str | Path) -> str:
        source, target = require_complete(folder), self._path(prefix)
        files = tree_files(source)
        with _clear_errors(target):
            if (target / MARKER).is_file():
                self._require_same(target, files_digest(files))
                return self.uri(prefix)
            temporary = self.root / TEMPORARY / unique_name()
            try:
                for name in files:
                    copy = temporary / name
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source / name, copy)
                    _sync(copy)
                temporary.mkdir(parents=True, exist_ok=True)
                (temporary / MARKER).write_bytes(marker_bytes(files))
                self._move_tree(temporary, target, files_digest(files))
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        return self.uri(prefix)

    def _move_tree(self, temporary: Path, target: Path, digest: str) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir() and not (target / MARKER).is_file():
            shutil.rmtree(target)  # what is there was never complete
        try:
            os.rename(temporary, target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            self._require_same(target, digest)  # another writer was first

    def _require_same(self, target: Path, digest: str) -> None:
        if folder_digest(target) != digest:
            raise StoreError(f"{target}: holds another complete folder; these never change")

    def fetch_tree(self, prefix: str) -> Path:
        return require_complete(self._path(prefix))
